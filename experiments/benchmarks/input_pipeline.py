"""Preparation and training input beside PyTorch's DataLoader with Pillow: images per second and core.

  python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
  python experiments/benchmarks/input_pipeline.py --root=imagenette2-160

Both work on the same images, in turn, several times, on the same one or two cores; medians are reported, of the ratios
those of each pair. The start of our program counts in preparation, that of DataLoader's workers everywhere. --root is a
folder of images (train/CLASS/*, val/CLASS/*); training input is measured on those of train/.

  prepare        to a shorter side of 256, the centre, JPEG of quality 95, with mean image and covariance of the result;
                 DataLoader's own process writes the bytes to one file.
  ... 500×375    the same, of the images stretched to 500×375, a usual size in ImageNet.
  JPEGs 500×375  the same for prepare; DataLoader leaves the statistics out.
  train          prepared images as uint8 batches of 128; cropping is the device's business.
  train, crops   the same for us; DataLoader also crops, flips and subtracts the mean, as its users do on the host.
"""

import argparse
import io
import itertools
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # of NumPy in every process: one a core

import numpy as np
from PIL import Image

from alexnet_jax.data import datasets, pipeline, preparation, shards

try:
    import torch
except ModuleNotFoundError:
    sys.exit("no PyTorch; python -m pip install torch --index-url https://download.pytorch.org/whl/cpu")

SIZE, BATCH_SIZE = 256, 128


class Files(torch.utils.data.Dataset):
    """What a PyTorch user writes, by hand and without a further library."""

    def __init__(self, paths, work):
        self.paths, self.work = paths, work

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            image = image.convert("RGB")
        return self.work(image)


def prepared_bytes(image):
    shorter = min(image.size)
    method = Image.Resampling.BOX if shorter > SIZE else Image.Resampling.BICUBIC
    image = image.resize(tuple(max(SIZE, round(side * SIZE / shorter)) for side in image.size), method)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    data = io.BytesIO()
    image.crop((left, top, left + SIZE, top + SIZE)).save(data, "JPEG", quality=shards.JPEG_QUALITY)
    return data.getvalue()


def prepared_with_statistics(image):
    data = prepared_bytes(image)
    return data, np.asarray(Image.open(io.BytesIO(data)))


def add_up(items):
    """A batch of what `prepared_with_statistics` returns, its statistics added up in the worker."""
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
    return torch.from_numpy(np.ascontiguousarray((x - datasets.IMAGENET_MEAN).transpose(2, 0, 1)))


def loader(paths, work, cores, collate=None):
    """Seconds for every image once; on one core those of DataLoader in its own process or with a worker, the faster."""

    def once(workers):
        options = {"batch_size": BATCH_SIZE, "shuffle": True, "num_workers": workers, "collate_fn": collate}
        began = time.perf_counter()
        count = 0
        with tempfile.TemporaryFile() as file:
            for batch in torch.utils.data.DataLoader(Files(paths, work), **options):
                if collate:
                    file.writelines(batch[0])
                count += len(batch[0] if collate else batch)
        assert count == len(paths)
        return time.perf_counter() - began

    return min(once(0), once(1)) if cores == 1 else once(cores)


def our_preparation(root, workers):
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "alexnet_jax.prepare", "--dataset=folder", f"--root={root}"]
        began = time.perf_counter()
        subprocess.run([*command, f"--output={directory}/set", f"--workers={workers}"], check=True)
        return time.perf_counter() - began


def our_batches(source):
    batches = pipeline.train_batches(source, BATCH_SIZE, slice(0, BATCH_SIZE), 0, 0)
    began = time.perf_counter()
    for batch in itertools.islice(batches, len(source) // BATCH_SIZE):
        assert len(batch["image"]) == BATCH_SIZE
    return (time.perf_counter() - began) * len(source) / (len(source) // BATCH_SIZE * BATCH_SIZE)


def paths(root):
    return sorted(path for path in pathlib.Path(root).glob("*/*/*") if path.is_file())


def stretched(root, directory, size):
    """The same folder of images, all of one width and height."""
    for path in paths(root):
        target = directory / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(target, quality=90)
    return directory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="a JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    all_cores = sorted(os.sched_getaffinity(0))
    work = pathlib.Path(tempfile.mkdtemp())
    rows = []
    try:
        small = pathlib.Path(args.root)
        large = stretched(small, work / "large", (500, 375))
        preparation.prepare("folder", small, work / "set")
        source = datasets.load("prepared", str(work / "set"), SIZE).train
        (work / "files").mkdir()
        for i in range(len(source)):
            (work / "files" / f"{i}.jpg").write_bytes(source.read(i)[0])
        files = sorted((work / "files").iterdir())
        for cores in (1, 2):
            os.sched_setaffinity(0, all_cores[:cores])
            for name, ours, theirs, theirs_paths, collate in (
                ("prepare", lambda n: our_preparation(small, n), prepared_with_statistics, paths(small), add_up),
                (
                    "prepare, 500×375",
                    lambda n: our_preparation(large, n),
                    prepared_with_statistics,
                    paths(large),
                    add_up,
                ),
                ("JPEGs, 500×375", lambda n: our_preparation(large, n), prepared_bytes, paths(large), bytes_alone),
                ("train", lambda _: our_batches(source), as_uint8, files, None),
                ("train, crops", lambda _: our_batches(source), as_crop, files, None),
            ):
                count = len(theirs_paths)
                pairs = [
                    (count / ours(cores), count / loader(theirs_paths, theirs, cores, collate))
                    for _ in range(args.repeats)
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
        print(f"\n{'images per second and core':26}  cores  alexnet_jax  DataLoader  ratio")
        for row in rows:
            numbers = f"{row['alexnet_jax']:11.0f}  {row['dataloader']:10.0f}  {row['ratio']:5.2f}"
            print(f"{row['what']:26}  {row['cores']:5}  {numbers}")
        if args.output:
            pathlib.Path(args.output).write_text(json.dumps(rows, indent=1) + "\n")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
