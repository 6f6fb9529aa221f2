"""Every source in miniature, in its own layout and of the same twelve images: recognised, and prepared to the same."""

import io
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax.data import datasets, preparation
from alexnet_jax.data.class_names import imagenet_names
from tests.fixtures import miniature_sets
from tests.fixtures.miniature_sets import CLASSES, IMAGES, SIZE
from tests.fixtures.prepare_runs import checksums, examples, run, start

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


def expected(split):
    """(class, JPEG) of the images of a split, sorted."""
    found = []
    for class_name, _, pixels in IMAGES[split]:
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=95)
        found.append((class_name, data.getvalue()))
    return sorted(found)


def check_prepared(output, *held_out):
    """Checks that a prepared set holds the twelve images, under their classes."""
    names = tfds.builder_from_directory(output).info.features["label"].names
    for split in ("train", *held_out):
        found = sorted((names[example["label"]], example["image"]) for example in examples(output, split))
        assert found == expected("train" if split == "train" else "validation")
    assert [name for name in names if name in CLASSES] == list(CLASSES)


@pytest.mark.parametrize("source", miniature_sets.SOURCES)
def test_every_source_is_recognised_and_gives_the_same_images(tmp_path, source, capsys):
    name, build = miniature_sets.SOURCES[source]
    root, output = build(tmp_path / "set"), tmp_path / "prepared"
    assert datasets.recognise(str(root)) == name
    preparation.prepare("auto", root, output, SIZE, workers=1)
    splits = ("validation", "test") if name == "imagenet2010" else ("test",) if "cifar" in name else ("validation",)
    check_prepared(output, *splits)
    assert json.loads((output / "prepare.json").read_text())["dataset"] == name
    if source in ("parquet", "kaggle", "kaggle_zip", "tiny_imagenet"):
        assert "leaving out test: its labels are secret" in capsys.readouterr().out
    # Read in place for training, they are the pixels themselves.
    data = datasets.load(name, str(root), SIZE)
    for split in ("train", "test"):
        images = getattr(data, split)
        pixels = {
            (class_name, image.tobytes())
            for class_name, _, image in IMAGES[split if split == "train" else "validation"]
        }
        loaded = [images[i] for i in range(len(images))]
        assert {(data.class_names[label], np.asarray(image).tobytes()) for image, label in loaded} == pixels
        assert len(set(images.listing)) == len(images)


MANY = """
import sys
from alexnet_jax.data import preparation
preparation.IMAGES_PER_SHARD = 2
preparation.prepare("auto", *sys.argv[1:3], 32, workers=int(sys.argv[3]))
"""


SLOW = ["arrow", "webdataset", "kaggle_zip", "cifar10_archive", "imagenet2010"]


@pytest.mark.parametrize("source", ["parquet", *[pytest.param(name, marks=pytest.mark.slow) for name in SLOW]])
def test_the_bytes_do_not_depend_on_workers_or_interruptions(tmp_path, source):
    _, build = miniature_sets.SOURCES[source]
    root = build(tmp_path / "set")
    for name, workers in (("one", 1), ("two", 2)):
        done = subprocess.run([sys.executable, "-c", MANY, root, tmp_path / name, str(workers)], capture_output=True)
        assert done.returncode == 0, done.stderr
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    killed = start(root, tmp_path / "killed", 1, code=MANY)
    while killed.poll() is None and not list((tmp_path / "killed").glob(".prepare/*.npz")):
        time.sleep(0.001)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "killed" / "statistics.json").exists()
    code, out, error = run(root, tmp_path / "killed", 1, code=MANY)
    assert code == 0 and " 0 of " not in out, (out, error)
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "one")
    check_prepared(tmp_path / "one", miniature_sets.held_out(miniature_sets.SOURCES[source][0]))


@pytest.mark.parametrize("source", ["folder", "parquet", "cifar10_binary"])
def test_images_set_aside_are_in_one_split_only(tmp_path, source, monkeypatch):
    """In several shards; and rows without a label, which are left out, do not shift the others."""
    monkeypatch.setattr(preparation, "IMAGES_PER_SHARD", 2)
    name, build = miniature_sets.SOURCES[source]
    root = build(tmp_path / "set")
    if source == "folder":
        shutil.rmtree(root / "val")
    if source == "parquet":
        rows = miniature_sets.rows("train")
        for path in (root / "data").iterdir():
            path.unlink()
        unlabelled = [*rows[:1], *miniature_sets.SECRET, *rows[1:4], *miniature_sets.SECRET * 2, *rows[4:]]
        miniature_sets.parquet_rows(root / "data" / "train.parquet", unlabelled)
    preparation.prepare(name, root, tmp_path / "prepared", SIZE, workers=1, holdout=0.3)
    names = tfds.builder_from_directory(tmp_path / "prepared").info.features["label"].names
    found = {
        split: sorted((names[example["label"]], example["image"]) for example in examples(tmp_path / "prepared", split))
        for split in ("train", "validation")
    }
    assert sorted(found["train"] + found["validation"]) == expected("train")
    assert [class_name for class_name, _ in found["validation"]] == list(CLASSES)


TURNED = {"imagenet2012": False, "kaggle": False, "folder": True, "webdataset": True, "parquet": True}


@pytest.mark.parametrize("source", TURNED)
def test_imagenet_is_stored_as_in_2012_and_others_upright(tmp_path, source, monkeypatch):
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    data = io.BytesIO()
    wide = np.zeros((32, 32, 3), np.uint8)
    wide[:16] = 255
    Image.fromarray(wide).save(data, "PNG", exif=exif)
    monkeypatch.setattr(miniature_sets, "png", lambda pixels: data.getvalue())
    name, build = miniature_sets.SOURCES[source]
    image, _ = datasets.load(name, str(build(tmp_path / "set")), SIZE).train[0]
    assert (image == (np.rot90(wide, -1) if TURNED[source] else wide)).all()


def test_a_csv_file_lists_images(tmp_path):
    path, output = miniature_sets.csv_list(tmp_path / "photos"), tmp_path / "prepared"
    code, out, error = run("--labels", path, "--output", output, f"--size={SIZE}")
    assert code == 0, error
    check_prepared(output, "validation")


@pytest.mark.parametrize("source", [*miniature_sets.SOURCES, "csv"])
def test_a_dry_run_writes_nothing(tmp_path, source, capsys):
    name, build = miniature_sets.SOURCES.get(source, ("csv", miniature_sets.csv_list))
    root = build(tmp_path / "set")
    before = sorted(tmp_path.rglob("*"))
    dataset, root = (f"csv:{root}", "") if source == "csv" else ("auto", root)
    preparation.prepare(dataset, root, tmp_path / "prepared", dry_run=True)
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert any(line.startswith(f"recognised as {name}") for line in lines)
    assert "train: 9 images of 3 classes" in out and "3 images of 3 classes" in out.partition("train: ")[2]
    first = lines.index("some training images: label, class, name") + 1
    samples = [line.split() for line in lines[first : first + 9]]
    assert [sample[1] for sample in samples] == [class_name for class_name, _, _ in IMAGES["train"]]
    labels = [list(imagenet_names()).index(c) if "of 1000 classes" in out else CLASSES.index(c) for c in CLASSES]
    assert [int(sample[0]) for sample in samples] == [label for label in labels for _ in range(3)]
    assert "to write" in out and "free; about 1 s by" in out and lines[-1] == "nothing was written"
    assert sorted(tmp_path.rglob("*")) == before
