"""Images per second and memory of `alexnet_jax.prepare` for every kind of source, beside a folder of the same images.

  python experiments/benchmarks/data_sources.py --output=experiments/results/data_sources.json

Writes --count synthetic photographs (500×375, 9 of 10 to train on, of ten classes of ImageNet) and as many pictures of
32 pixels in the layout of each kind, and prepares them on all cores. The sources take turns. Half an hour and 8 GB.
"""

import csv
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_jax.data.class_names import imagenet_names
from alexnet_jax.data.kinds.imagenet import TRAIN, VALIDATION, validation_classes
from experiments.benchmarks import harness

CLASSES = tuple(imagenet_names())[::100]
PHOTOGRAPH, SMALL = (375, 500), (32, 32)
PER_SHARD = 1000  # images of a file of WebDataset or Hugging Face
# The program, and then the memory that its first process took.
PREPARE = """
from alexnet_jax import prepare
from alexnet_jax.data import shards
prepare.main()
print("parent", shards.peak_memory())
"""

Image = tuple[str, str, str, bytes]  # split, class, name and encoded bytes


def photographs(count: int, shape: tuple[int, int]) -> Iterator[Image]:
    """Synthetic photographs: soft shapes with some noise, JPEG of quality 90; small ones as PNG."""
    numbers = {name: [i for i, c in enumerate(validation_classes(), 1) if c == name] for name in CLASSES}
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        pixels = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
        pixels = cv2.add(pixels, rng.integers(0, 16, (*shape, 3), np.uint8))
        kind, options = (".png", ()) if shape == SMALL else (".jpg", (cv2.IMWRITE_JPEG_QUALITY, 90))
        class_name, turn = CLASSES[i % len(CLASSES)], i // len(CLASSES)
        to_train = turn % 10 != 9 or turn // 10 >= len(numbers[class_name])
        number = 0 if to_train else numbers[class_name][turn // 10]
        name = f"{class_name}_{turn}.JPEG" if to_train else f"ILSVRC2012_val_{number:08}.JPEG"
        yield "train" if to_train else "validation", class_name, name, cv2.imencode(kind, pixels, options)[1].tobytes()


def write(path: pathlib.Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def folder(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    for split, class_name, name, data in images:
        write(root / ("train" if split == "train" else "val") / class_name / name, data)
    return root


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def archives(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    root.mkdir()
    with tarfile.open(root / TRAIN, "w") as train, tarfile.open(root / VALIDATION, "w") as validation:
        for class_name in CLASSES:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for split, name_of_class, name, data in images:
                    if (split, name_of_class) == ("train", class_name):
                        add(archive, name, data)
            add(train, f"{class_name}.tar", inner.getvalue())
        for split, _, name, data in images:
            if split == "validation":
                add(validation, name, data)
    return root


def kaggles_files(images: list[Image]) -> Iterator[tuple[str, bytes]]:
    rows = [["ImageId", "PredictionString"]]
    for split, class_name, name, data in images:
        place = f"train/{class_name}" if split == "train" else "val"
        yield f"ILSVRC/Data/CLS-LOC/{place}/{name}", data
        if split == "validation":
            rows.append([name.removesuffix(".JPEG"), f"{class_name} 1 2 3 4"])
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    yield "LOC_val_solution.csv", text.getvalue().encode()


def kaggle(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    for name, data in kaggles_files(images):
        write(root / name, data)
    return root


def kaggle_zip(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    root.mkdir()
    with zipfile.ZipFile(root / "imagenet.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in kaggles_files(images):
            archive.writestr(name, data)
    return root / "imagenet.zip"


def tables(images: list[Image]) -> Iterator[tuple[str, int, int, pa.Table]]:
    """(split, number, count, rows) of every file."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    bytes_and_path = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", bytes_and_path), ("label", pa.int64())], metadata=metadata)
    for wanted in ("train", "validation"):
        rows = [
            {"image": {"bytes": data, "path": name}, "label": CLASSES.index(class_name)}
            for split, class_name, name, data in images
            if split == wanted
        ]
        parts = range(0, len(rows), PER_SHARD)
        for i, start in enumerate(parts):
            yield wanted, i, len(parts), pa.Table.from_pylist(rows[start : start + PER_SHARD], schema)


def parquet(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    root.mkdir()
    for split, i, count, table in tables(images):
        pq.write_table(table, root / f"{split}-{i:05}-of-{count:05}.parquet", row_group_size=100)
    return root


def arrow(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    for split, i, count, table in tables(images):
        (root / split).mkdir(parents=True, exist_ok=True)
        path = str(root / split / f"data-{i:05}-of-{count:05}.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=100)
    return root


def webdataset(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    root.mkdir()
    (root / "classnames.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for wanted in ("train", "validation"):
        some = [image for image in images if image[0] == wanted]
        for i, start in enumerate(range(0, len(some), PER_SHARD)):
            with tarfile.open(root / f"{wanted}-{i:06}.tar", "w") as archive:
                for _, class_name, name, data in some[start : start + PER_SHARD]:
                    add(archive, name.replace(".JPEG", ".jpg"), data)
                    add(archive, name.replace(".JPEG", ".cls"), str(CLASSES.index(class_name)).encode())
    return root


def csv_list(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    rows = [("path", "label", "split")]
    for split, class_name, name, data in images:
        write(root / name, data)
        rows.append((name, class_name, "train" if split == "train" else "val"))
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "list.csv"


def tiny_imagenet(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    lines = []
    for split, class_name, name, data in images:
        if split == "train":
            write(root / "train" / class_name / "images" / name, data)
        else:
            write(root / "val" / "images" / name, data)
            lines.append(f"{name}\t{class_name}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def batches(images: list[Image]) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """(name, pixels [N, 3072], labels) of CIFAR-10's files."""
    train = [image for image in images if image[0] == "train"]
    parts = {f"data_batch_{i}": train[len(train) * (i - 1) // 5 : len(train) * i // 5] for i in range(1, 6)}
    parts["test_batch"] = [image for image in images if image[0] != "train"]
    for name, part in parts.items():
        decoded = [np.asarray(PIL.Image.open(io.BytesIO(data))) for *_, data in part]
        pixels = np.stack([image.transpose(2, 0, 1).ravel() for image in decoded])
        yield name, pixels, [CLASSES.index(class_name) for _, class_name, _, _ in part]


def cifar10_archive(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    root.mkdir()
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        meta = pickle.dumps({"label_names": list(CLASSES)}, protocol=2)
        add(archive, "cifar-10-batches-py/batches.meta", meta)
        for name, pixels, labels in batches(images):
            data = pickle.dumps({"data": pixels, "labels": labels}, protocol=2)
            add(archive, f"cifar-10-batches-py/{name}", data)
    return path


def cifar10_binary(root: pathlib.Path, images: list[Image]) -> pathlib.Path:
    for name, pixels, labels in batches(images):
        rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], 1)
        write(root / "cifar-10-batches-bin" / f"{name}.bin", rows.tobytes())
    write(root / "cifar-10-batches-bin" / "batches.meta.txt", "\n".join(CLASSES).encode())
    return root


Build = Callable[[pathlib.Path, list[Image]], pathlib.Path]
LARGE: dict[str, Build] = {
    "folder": folder,
    "csv": csv_list,
    "imagenet (archives)": archives,
    "kaggle": kaggle,
    "kaggle (zip)": kaggle_zip,
    "huggingface (Parquet)": parquet,
    "huggingface (Arrow)": arrow,
    "webdataset": webdataset,
}
OF_32_PIXELS: dict[str, Build] = {
    "folder, 32 pixels": folder,
    "tiny_imagenet, 32 pixels": tiny_imagenet,
    "cifar10 (Python, archive)": cifar10_archive,
    "cifar10 (binary)": cifar10_binary,
}


def prepare(root: pathlib.Path, size: int) -> dict[str, float]:
    """Prepares a set: seconds, and the memory of the first process and of the largest worker in MB."""
    flag = f"--labels={root}" if root.suffix == ".csv" else f"--root={root}"
    with tempfile.TemporaryDirectory(dir=root.parents[1]) as output:
        command = [sys.executable, "-c", PREPARE, flag, f"--output={output}/set", f"--size={size}"]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    worker = re.search(r"a worker took at most (\d+) MB", done.stdout)
    parent = re.search(r"parent (\d+)", done.stdout)
    assert worker and parent, done.stdout
    return {"seconds": seconds, "worker_mb": float(worker[1]), "parent_mb": int(parent[1]) / 1e6}


def measure(builds: dict[str, Build], shape: tuple[int, int], size: int, count: int, repeats: int) -> dict:
    """{source: its medians}. The first source is the one that the others are compared with."""
    with tempfile.TemporaryDirectory() as directory:
        images = list(photographs(count, shape))
        roots = {}
        for i, (name, build) in enumerate(builds.items()):
            (pathlib.Path(directory) / f"source{i}").mkdir()
            roots[name] = build(pathlib.Path(directory) / f"source{i}" / "set", images)
        del images
        os.sync()
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
        for _ in range(repeats):
            for name, root in roots.items():
                runs[name].append(prepare(root, size))
        shutil.rmtree(directory, ignore_errors=True)
    first = next(iter(builds))
    return {
        name: {
            "images_per_second": count / statistics.median(run["seconds"] for run in of_source),
            "ratio": statistics.median(
                ours["seconds"] / theirs["seconds"] for ours, theirs in zip(runs[first], of_source, strict=True)
            ),
            "worker_mb": statistics.median(run["worker_mb"] for run in of_source),
            "parent_mb": statistics.median(run["parent_mb"] for run in of_source),
        }
        for name, of_source in runs.items()
    }


def main():
    args = harness.Parser("data_sources", __doc__, pytorch=False, count=10_000, repeats=3).parse()
    results = measure(LARGE, PHOTOGRAPH, 256, args.count, args.repeats)
    results |= measure(OF_32_PIXELS, SMALL, 32, args.count, args.repeats)
    print(f"{'source':26} {'images/s':>8} {'ratio':>6} {'MB of a worker':>14} {'MB of the parent':>16}")
    for name, r in results.items():
        rate, ratio = f"{r['images_per_second']:8.0f}", f"{r['ratio']:6.2f}"
        print(f"{name:26} {rate} {ratio} {r['worker_mb']:14.0f} {r['parent_mb']:16.0f}")
    harness.write(args.output, count=args.count, repeats=args.repeats, sources=results)


if __name__ == "__main__":
    main()
