"""Prepares a data set: plans its shards, has workers make them (`shards`), and adds up what they return."""

import concurrent.futures
import contextlib
import csv
import hashlib
import math
import multiprocessing
import os
import pathlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator

import cv2
import numpy as np
import PIL
import simplejpeg

from alexnet_jax import UserError
from alexnet_jax.data import images, preparable, shards, sources
from alexnet_jax.data.kinds import tfds_sets
from alexnet_jax.runtime import files, interruption, progress, text

IMAGES_PER_SHARD = 256  # at least: a reader keeps every shard open, so a split has at most MOST_SHARDS of them
MOST_SHARDS = {"train": 256, "validation": 16, "test": 16}


def prepare(
    dataset: str,
    root: str | os.PathLike,
    output: str | os.PathLike,
    size: int | None = None,
    workers: int | None = None,
    max_undecodable: float = 0.01,
    orientation: str | None = None,
    holdout: float | None = None,
    dry_run: bool = False,
) -> None:
    """Makes a TFDS data set (ArrayRecord, JPEG) of images [size, size, 3] from any source.

    Run again after an interruption, it continues. The bytes of the result depend only on the images, the size, and the
    versions of the image libraries. Beside TFDS's files it writes:
      statistics.json: `num_images`, `rgb_mean` [3] and `rgb_covariance` [3, 3] of the training images as they are
        stored, 0–255, and `bytes`, the length of every file. It is written last: a set that has it is complete.
      mean_image.npy: float64 [size, size, 3], of the same images.
      undecodable.tsv: split, file name and reason for every image that was left out.
      prepare.json: the source, the settings and the versions of the libraries, which identify the set.

    Args:
      dataset: as `config.dataset.name`; 'auto' for what lies in the root.
      root: the directory or archive; for TFDS its data directory, or '' for the default.
      output: a directory, made if missing; '' only with `dry_run`.
      size: height and width in pixels; None for `Dataset.prepared_size`.
      workers: number of processes; None for one per core.
      max_undecodable: the largest tolerable fraction of images that cannot be decoded.
      orientation: see `images.decode`; None for 'stored' with ImageNet's archives, otherwise 'upright'.
      holdout: the fraction of the training images to set aside for validation, if the set has no validation images.
      dry_run: only print what was recognised, and how much disk and time it would take.

    Raises:
      UserError: the source or the output does not work. Finished shards are kept.
    """
    workers = workers or available_cores()
    output = files.absolute(output)
    try:
        str(output).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--output={output}: its name is not UTF-8, which ArrayRecord needs; use another") from error
    text.print_line(f"looking for the images of {dataset} {root}")
    found = preparable.find_dataset(dataset, os.fspath(root), orientation)
    text.print_line(f"recognised as {found.name}: {found.title}")
    if found.owns_root and not dry_run and _real(output).is_relative_to(_real(root)):
        raise UserError(f"--output={output}: is inside --root={root}; use another directory")
    size = size or found.prepared_size
    splits, class_names = preparable.find(found, size, holdout)
    name = f"{found.recorded_name.removeprefix('tfds:').partition(':')[0].partition('/')[0]}_{size}"
    plan = [
        shards.Shard(split, i, len(parts), part, name, size, output)
        for split, source in splits.items()
        for parts in [divide(source, MOST_SHARDS[split])]
        for i, part in enumerate(parts)
    ]
    if dry_run:
        preparable.print_samples(splits, class_names)
        print_needs(plan, plan, len(class_names), workers)
        text.print_line("nothing was written")
        return
    description = {
        "dataset": found.recorded_name,
        "size": size,
        "orientation": splits["train"].orientation,
        "jpeg_quality": shards.JPEG_QUALITY,
        "images": {split: len(source) for split, source in splits.items()},
        "listing": fingerprint(splits, class_names),
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
    } | ({"holdout": holdout} if holdout else {})
    with (
        files.explaining(f"--output={output}", "written", shards.REMEDY),
        claimed(output, description) as complete,
    ):
        if complete:
            text.print_line(f"{output} is complete already")
            return
        done = [shard for shard in plan if shard.done]
        missing = [shard for shard in plan if shard not in done]
        undecodable = list_undecodable(done, output)
        needed, free = print_needs(plan, missing, len(class_names), workers)
        if needed > free:
            raise UserError(
                f"--output={output}: needs about {gigabytes(needed)} and has {gigabytes(free)}; free some space"
            )
        total = sum(len(shard.source) for shard in plan)
        check_undecodable(len(undecodable), total, max_undecodable, output)
        run(missing, total, len(undecodable), workers, max_undecodable)
        finish(plan, class_names)


def _real(path):
    return pathlib.Path(os.path.realpath(files.absolute(path)))


def divide(source: sources.EncodedSource, most: int) -> list[sources.EncodedSource]:
    """Divides a source into consecutive parts, at most `most`, that become shards."""
    count = min(most, math.ceil(len(source) / IMAGES_PER_SHARD))
    edges = [len(source) * i // count for i in range(count + 1)]
    return [source.part(start, stop) for start, stop in zip(edges, edges[1:], strict=False)]


def fingerprint(splits: dict[str, sources.EncodedSource], class_names: tuple[str, ...]) -> str:
    """A SHA-256 checksum of the files, labels and class names of some sources."""
    digest = hashlib.sha256(repr(class_names).encode())
    for split, source in splits.items():
        digest.update(split.encode())
        for item in source.manifest:
            digest.update(repr(item).encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextlib.contextmanager
def claimed(output: pathlib.Path, description: dict) -> Iterator[bool]:
    """Locks the output directory for this process. Yields whether the set that `description` identifies is complete.

    Raises:
      UserError: the directory holds something else, or another process uses it.
    """
    path, statistics = output / "prepare.json", output / "statistics.json"
    work = shards.work_directory(output)
    files.check_no_link(work)
    if files.exists(path):
        check_same(path, description)
        if files.exists(statistics):
            tfds_sets.Prepared("prepared", str(output)).check()
            shutil.rmtree(work, ignore_errors=True)
            yield True
            return
    elif files.exists(output) and any(
        name not in (".prepare", "prepare.json.tmp") and not name.startswith(files.UNFINISHED)
        for name in os.listdir(output)
    ):
        raise UserError(f"--output={output}: is not empty; use another directory")
    work.mkdir(parents=True, exist_ok=True)
    with files.locked(work / "lock", f"--output={output}"):
        if files.exists(path):  # another process may have finished it before the lock was taken
            check_same(path, description)
        if files.exists(statistics):
            yield True
            return
        files.remove_unfinished(output)
        files.remove_unfinished(work)
        for temporary in work.glob("*.tmp"):  # as earlier versions called them
            temporary.unlink(missing_ok=True)
        files.write_json(path, description, shards.REMEDY)
        yield False


def check_same(path: pathlib.Path, description: dict) -> None:
    """Raises UserError if the prepare.json at `path` describes another set."""
    recorded = {"orientation": "stored"} | files.read_json(path)  # earlier versions recorded no orientation
    if recorded | {"orientation": description["orientation"]} == description != recorded:
        raise UserError(
            f"--output={path.parent}: holds a set of the same images, prepared with "
            f"--orientation={recorded['orientation']}; add this flag, or use another directory"
        )
    if recorded != description:
        raise UserError(
            f"--output={path.parent}: holds a set from other images, labels, --size, --orientation or image libraries "
            "(see its prepare.json); use another directory or remove it"
        )


def print_needs(
    plan: list[shards.Shard], missing: list[shards.Shard], num_classes: int, workers: int
) -> tuple[float, int]:
    """Prints how much disk and time the missing shards take. Returns the bytes that they need, and those free."""
    size, output = plan[0].size, plan[0].output
    spread = [plan[len(plan) * i // 64].source for i in range(64)]
    encoded, seconds, sums = [], [], shards.Sums(size)
    for source, place in dict.fromkeys((source, len(source) * i // 64) for i, source in enumerate(spread)):
        with contextlib.suppress(UserError):
            data, _ = source.read(place)
            start = time.thread_time()
            data = images.encode(data, "", size, shards.JPEG_QUALITY, source.orientation)
            sums.add(data, len(data), pixels=True)
            seconds.append(time.thread_time() - start)
            encoded.append(len(data))
    count = sum(len(shard.source) for shard in missing)
    bytes_per_image = (float(np.mean(encoded)) if encoded else size * size) + 100
    needed = bytes_per_image * count + 4 * size * size * 3 * len(missing)
    free = shutil.disk_usage(next(path for path in (output, *output.parents) if path.exists())).free
    counts = {split: sum(len(s.source) for s in plan if s.split == split) for split in ("train", "validation", "test")}
    split_counts = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count)
    text.print_line(
        f"{split_counts} images of {num_classes} classes; {len(plan) - len(missing)} of {len(plan)} shards done"
    )
    processes = min(workers, max(1, len(missing)))
    time_left = duration(count * float(np.median(seconds or [0])) / processes)
    text.print_line(
        f"{output}: about {gigabytes(needed)} to write, {gigabytes(free)} free; about {time_left} by {processes} "
        f"{'processes' if processes > 1 else 'process'}"
    )
    return needed, free


def duration(seconds: float) -> str:
    """A time in words, rounded up."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(plan: list[shards.Shard], total: int, failed_before: int, workers: int, max_undecodable: float) -> None:
    """Makes shards in parallel. Raises UserError if too many images cannot be decoded or a file cannot be written."""
    if not plan:
        return
    # For the workers. Each uses one core, so BLAS must not start threads. glibc keeps the freed memory of an image for
    # the next one; by default it would return it to the system, and the kernel would zero every page again.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    os.environ.update(MALLOC_MMAP_THRESHOLD_=str(2**26), MALLOC_TRIM_THRESHOLD_=str(2**28))
    context = multiprocessing.get_context("spawn")
    counters = context.Array("q", 3)  # `shards.start_worker` describes them
    count = sum(len(shard.source) for shard in plan)
    peak_memory = 0
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(plan)), context, shards.start_worker, (counters,))
    with progress.Progress(count, "image", "preparing", text.print_line) as bar, interruption.held():
        try:
            # Ctrl-C also reaches the workers, perhaps while they start. Only the parent must react to it.
            handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
            running = {pool.submit(shards.make_shard, shard) for shard in plan}
            signal.signal(signal.SIGINT, handler)
            while running:
                finished, running = concurrent.futures.wait(running, 0.2, concurrent.futures.FIRST_COMPLETED)
                peak_memory = max([peak_memory, *(future.result() for future in finished)])
                interruption.check()
                done, failed, _ = counters[:]
                check_undecodable(failed + failed_before, total, max_undecodable, plan[0].output)
                bar.reach(done, log=not running)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(f"a worker was killed (out of memory? try --workers=1); {shards.REMEDY}") from error
        finally:
            counters[2] = True
            pool.shutdown(cancel_futures=True)
    text.print_line(f"a worker took at most {peak_memory / 1e6:.0f} MB of memory")


def check_undecodable(count: int, total: int, greatest_part: float, output: pathlib.Path) -> None:
    """Raises UserError if too many images cannot be decoded."""
    if count > greatest_part * total:
        raise UserError(
            f"{count} of {total} images cannot be decoded, more than --max_undecodable={greatest_part}; "
            f"{output / 'undecodable.tsv'} lists them: raise the limit, or repair them and remove the directory"
        )


def list_undecodable(plan: list[shards.Shard], output: pathlib.Path) -> list[list[str]]:
    """Writes `undecodable.tsv` of finished shards, and returns its rows: (split, file name, reason)."""
    rows = [row for shard in plan for row in shard.read_summary("undecodable")[0].tolist()]
    with files.whole(output / "undecodable.tsv", remedy=shards.REMEDY) as file:
        writer = csv.writer(file, "excel-tab", lineterminator="\n")
        writer.writerows([("split", "file_name", "reason"), *rows])
    return rows


def finish(plan: list[shards.Shard], class_names: tuple[str, ...]) -> None:
    """Adds up the summaries of all shards, and writes the metadata and statistics of the data set."""
    import tensorflow_datasets as tfds

    output, size, name = plan[0].output, plan[0].size, plan[0].name
    undecodable = list_undecodable(plan, output)
    template = tfds.core.ShardedFileTemplate(
        data_dir=output,
        dataset_name=name,
        filetype_suffix="array_record",
        template=tfds.core.naming.DEFAULT_FILENAME_TEMPLATE,
    )
    infos, train, total, products = [], 0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64)
    for split in dict.fromkeys(shard.split for shard in plan):
        done = [shard for shard in plan if shard.split == split]
        counts, sizes = zip(*(map(int, shard.read_summary("count", "num_bytes")) for shard in done), strict=True)
        if not sum(counts):
            raise UserError(f"{output}: not one {split} image can be decoded; see its undecodable.tsv for the reasons")
        template = template.replace(split=split)
        infos.append(tfds.core.SplitInfo(split, list(counts), sum(sizes), template))
        if split == "train":
            train = sum(counts)
            for shard in done:
                shard_total, shard_products = shard.read_summary("total", "products")
                total += shard_total
                products += shard_products
    features = {
        "image": tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=class_names),
        "file_name": tfds.features.Text(),
    }
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(name, tfds.core.Version("1.0.0"), os.fspath(output), module_name=""),
        features=tfds.features.FeaturesDict(features),
        description=f"{name}: shorter side {size}, centre crop, JPEG quality {shards.JPEG_QUALITY}",
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(infos))
    with tempfile.TemporaryDirectory(dir=shards.work_directory(output)) as fresh:  # TFDS would write through links
        info.write_to_directory(fresh)
        metadata = os.listdir(fresh)
        for file_name in metadata:
            os.replace(os.path.join(fresh, file_name), output / file_name)
    files.write_array(output / "mean_image.npy", total / train, shards.REMEDY)
    written = ["prepare.json", "undecodable.tsv", "mean_image.npy", *metadata, *(shard.path.name for shard in plan)]
    # Python's integers keep the sums exact up to the division.
    pixels, sums, products = train * size * size, total.sum((0, 1)).astype(object), products.astype(object)
    covariance = (pixels * products - np.outer(sums, sums)) / pixels**2
    statistics = {
        "num_images": train,
        "rgb_mean": (sums / pixels).tolist(),
        "rgb_covariance": covariance.tolist(),
        "bytes": {file_name: (output / file_name).stat().st_size for file_name in sorted(written)},
    }
    files.write_json(output / "statistics.json", statistics, shards.REMEDY)
    shutil.rmtree(shards.work_directory(output))
    size_on_disk = sum(path.stat().st_size for path in output.iterdir())
    text.print_line(
        f"{output}: complete, {gigabytes(size_on_disk)}; {len(undecodable)} images left out (see undecodable.tsv)"
    )
