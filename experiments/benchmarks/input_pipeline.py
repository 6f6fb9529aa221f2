"""Preparation and training input compared with PyTorch's DataLoader and Pillow: images per second and core.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/input_pipeline.py --root=imagenette2-160 [--repeats=3] [--output=FILE]

Both process the same images on the same one or two cores, and take turns. The results are medians over the repeats, and
ratios the medians of the ratios. The start of our program counts in preparation, that of DataLoader's workers always.
--root is a folder of images (train/CLASS/*, val/CLASS/*); training input is measured on those of train/.

  prepare        shorter side to 256, centre crop, JPEG with quality 95, mean image and covariance of the result;
                 DataLoader's main process writes the bytes to one file.
  ... 500×375    the same for the images stretched to 500×375, a common size in ImageNet.
  JPEGs 500×375  the same for prepare; DataLoader computes no statistics.
  train          prepared images as uint8 batches of 128; cropping is done on the device.
  train, crops   the same for us; DataLoader also crops, flips and subtracts the mean, as is common on the host.
"""

import functools
import io
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # NumPy in every process: one thread a core

import numpy as np
from PIL import Image

from alexnet_jax.data import datasets, pipeline, preparable, preparation, shards
from alexnet_jax.data.base import IMAGENET
from experiments.benchmarks import harness

try:
    import torch
except ModuleNotFoundError:
    torch = None  # the parser reports it

SIZE, BATCH_SIZE = 256, 128


class Files:
    """A map-style data set for DataLoader, without further libraries."""

    def __init__(self, paths, work):
        self.paths, self.work = paths, work

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as file:
            image = file.convert("RGB")
        return self.work(image)


def prepared_bytes(image: Image.Image) -> bytes:
    shorter = min(image.size)
    method = Image.Resampling.BOX if shorter > SIZE else Image.Resampling.BICUBIC
    width, height = (max(SIZE, round(side * SIZE / shorter)) for side in image.size)
    image = image.resize((width, height), method)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    data = io.BytesIO()
    image.crop((left, top, left + SIZE, top + SIZE)).save(data, "JPEG", quality=shards.JPEG_QUALITY)
    return data.getvalue()


def prepared_with_statistics(image):
    data = prepared_bytes(image)
    return data, np.asarray(Image.open(io.BytesIO(data)))


def add_up(items):
    """A batch of results of `prepared_with_statistics`; the statistics are added in the worker."""
    total, products = np.zeros((SIZE, SIZE, 3), np.int64), np.zeros((3, 3))
    for _, pixels in items:
        total += pixels
        flat = pixels.reshape(-1, 3).astype(np.float64)
        products += flat.T @ flat
    return [data for data, _ in items], total, products


def bytes_alone(items):
    return items, None, None


def as_uint8(image):
    return torch.from_numpy(np.array(image))


def as_crop(image):
    left, top = torch.randint(0, 33, (2,)).tolist()
    x = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)
    if torch.rand(()) < 0.5:
        x = x[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray((x - IMAGENET.mean).transpose(2, 0, 1)))


def loader_seconds(paths: list[pathlib.Path], work: Callable, collate: Callable | None, cores: int) -> float:
    """DataLoader's time for every image once; on one core without or with a worker, whichever is faster."""

    def once(workers):
        options = {"batch_size": BATCH_SIZE, "shuffle": True, "num_workers": workers, "collate_fn": collate}
        start_time = time.perf_counter()
        count = 0
        with tempfile.TemporaryFile() as file:
            for batch in torch.utils.data.DataLoader(Files(paths, work), **options):
                if collate:
                    file.writelines(batch[0])
                count += len(batch[0] if collate else batch)
        assert count == len(paths)
        return time.perf_counter() - start_time

    return min(once(0), once(1)) if cores == 1 else once(cores)


def preparation_seconds(root: pathlib.Path, workers: int) -> float:
    """Our time to prepare a folder of images."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "alexnet_jax.prepare", "--dataset=folder", f"--root={root}"]
        start_time = time.perf_counter()
        subprocess.run([*command, f"--output={directory}/set", f"--workers={workers}"], check=True)
        return time.perf_counter() - start_time


def batches_seconds(source, _) -> float:
    """Our time for as many images as the source has, in whole batches."""
    batches = pipeline.train_batches(source, BATCH_SIZE, slice(0, BATCH_SIZE), 0, 0)
    start_time = time.perf_counter()
    for batch in itertools.islice(batches, len(source) // BATCH_SIZE):
        assert len(batch["image"]) == BATCH_SIZE
    return (time.perf_counter() - start_time) * len(source) / (len(source) // BATCH_SIZE * BATCH_SIZE)


def image_paths(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in root.glob("*/*/*") if path.is_file())


def stretch(root: pathlib.Path, directory: pathlib.Path, size: tuple[int, int]) -> pathlib.Path:
    """Writes the folder of images again, with one width and height; returns the new folder."""
    for path in image_paths(root):
        target = directory / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(target, quality=90)
    return directory


def measure(small: pathlib.Path, work: pathlib.Path, repeats: int) -> list[dict]:
    """A row for each task on one and on two cores, for the images in the folder `small`."""
    large = stretch(small, work / "large", (500, 375))
    preparation.prepare("folder", small, work / "set")
    source = preparable.check_encoded(datasets.load("prepared", str(work / "set"), SIZE).train)
    (work / "files").mkdir()
    for i in range(len(source)):
        (work / "files" / f"{i}.jpg").write_bytes(source.read(i)[0])
    prepared = sorted((work / "files").iterdir())
    prepare_small, prepare_large = (functools.partial(preparation_seconds, root) for root in (small, large))
    load = functools.partial(batches_seconds, source)
    tasks = {  # our function of the number of cores, and what DataLoader does with which images
        "prepare": (prepare_small, image_paths(small), prepared_with_statistics, add_up),
        "prepare, 500×375": (prepare_large, image_paths(large), prepared_with_statistics, add_up),
        "JPEGs, 500×375": (prepare_large, image_paths(large), prepared_bytes, bytes_alone),
        "train": (load, prepared, as_uint8, None),
        "train, crops": (load, prepared, as_crop, None),
    }
    rows = []
    all_cores = sorted(os.sched_getaffinity(0))
    for cores in (1, 2):
        os.sched_setaffinity(0, all_cores[:cores])
        for name, (ours, paths, their_work, collate) in tasks.items():
            count = len(paths)
            pairs = [
                (count / ours(cores), count / loader_seconds(paths, their_work, collate, cores)) for _ in range(repeats)
            ]
            row = {
                "what": name,
                "cores": cores,
                "images": count,
                "alexnet_jax": statistics.median(pair[0] for pair in pairs) / cores,
                "dataloader": statistics.median(pair[1] for pair in pairs) / cores,
                "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
            }
            rows.append(row | {"images_per_second": pairs})
    return rows


def main():
    parser = harness.Parser("input_pipeline", __doc__, pytorch=True, repeats=3)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    args = parser.parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        rows = measure(args.root, pathlib.Path(work), args.repeats)
    print(f"\n{'images per second and core':26}  cores  alexnet_jax  DataLoader  ratio")
    for row in rows:
        numbers = f"{row['alexnet_jax']:11.0f}  {row['dataloader']:10.0f}  {row['ratio']:5.2f}"
        print(f"{row['what']:26}  {row['cores']:5}  {numbers}")
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
