"""Preparation: right labels, the paper's pixels, exact statistics, and one line for what goes wrong."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from alexnet_jax import UserError, prepare, settings
from alexnet_jax.data import datasets, images, preparation
from alexnet_jax.training import run_directory
from configs import two_gpu
from tests.fixtures import image_files, imagenet_archives, odd_images
from tests.fixtures.prepare_runs import assert_one_line, checksums, examples, run
from tests.support import write_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = imagenet_archives.write_archives(tmp_path_factory.mktemp("archives"))
    output = root / "prepared"
    preparation.prepare("imagenet", str(root), output, size=64, workers=2)
    return output


def test_an_ordinary_tfds_data_set(imagenet):
    info = tfds.builder_from_directory(imagenet).info
    assert {split: info.splits[split].num_examples for split in info.splits} == {"train": 24, "validation": 18}
    assert info.features["image"].shape == (64, 64, 3)
    assert info.features["label"].num_classes == 1000
    assert not (imagenet / ".prepare").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_labels_are_those_of_the_archive_and_of_the_number(imagenet, split):
    names = tfds.builder_from_directory(imagenet).info.features["label"].names
    seen = []
    for example in examples(imagenet, split):
        image = Image.open(io.BytesIO(example["image"]))
        assert (image.format, image.size, image.mode) == ("JPEG", (64, 64), "RGB")
        class_name = names[example["label"]]
        file_name = example["file_name"]
        seen.append(file_name)
        if split == "train":
            assert file_name.startswith(class_name)
        else:
            assert int(file_name.removesuffix(".JPEG").rpartition("_")[2]) in imagenet_archives.VALIDATION[class_name]
        if not file_name.endswith("_2.JPEG"):  # the gray one
            assert np.asarray(image).mean((0, 1)).argmax() == imagenet_archives.CHANNELS[class_name]
    assert len(set(seen)) == len(seen)


def test_pixels_are_the_papers(imagenet):
    by_name = {example["file_name"]: example["image"] for example in examples(imagenet, "train")}
    for number in range(8):
        data = imagenet_archives.odd_picture("n02102040", number)
        expected = io.BytesIO()
        Image.fromarray(images.decode(data, "", 64)).save(expected, "JPEG", quality=95)
        stored, expected = Image.open(io.BytesIO(by_name[f"n02102040_{number}.JPEG"])), Image.open(expected)
        assert stored.quantization == expected.quantization
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(expected))


def float64_statistics(directory):
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(e["image"]))) for e in examples(directory, "train")])
    flat = pixels.reshape(-1, 3).astype(np.float64)
    return pixels.astype(np.float64).mean(0), flat.mean(0), np.cov(flat.T, bias=True)


def test_statistics_equal_numpy(imagenet):
    mean_image, mean, covariance = float64_statistics(imagenet)
    statistics = json.loads((imagenet / "statistics.json").read_text())
    np.testing.assert_allclose(np.load(imagenet / "mean_image.npy"), mean_image, rtol=1e-12)
    np.testing.assert_allclose(statistics["rgb_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(statistics["rgb_covariance"], covariance, rtol=1e-10)
    assert statistics["num_images"] == 24


@pytest.mark.parametrize("stretch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_archives_are_read_without_preparing_them(imagenet, stretch):
    archives = datasets.load("imagenet", str(imagenet.parent), 64, stretch)
    prepared = datasets.load("prepared", str(imagenet), 64)
    assert archives.class_names == prepared.class_names
    for split in ("train", "validation"):
        ours, theirs = getattr(archives, split), getattr(prepared, split)
        assert [ours.read(i)[1] for i in range(len(ours))] == [theirs.read(i)[1] for i in range(len(theirs))]
        for i in range(len(ours)):
            expected = images.decode(ours.read(i)[0], "", 64, stretch)
            np.testing.assert_array_equal(ours[i][0], expected)
            assert stretch or abs(expected.astype(int) - theirs[i][0]).mean() < 20  # JPEG
    with pytest.raises(UserError, match="the archives of ImageNet have no split 'test', but train, validation"):
        datasets.find("imagenet", str(imagenet.parent)).load("test", 64)


def test_training_sees_the_statistics(imagenet):
    mean_image, mean, covariance = float64_statistics(imagenet)
    dataset = datasets.load("prepared", str(imagenet), 64)
    statistics = dataset.statistics
    np.testing.assert_allclose(statistics.mean, mean_image, rtol=1e-6)
    np.testing.assert_allclose(
        (statistics.colour_axes * statistics.colour_std**2) @ statistics.colour_axes.T, covariance, rtol=1e-4
    )
    assert (len(dataset.train), len(dataset.validation)) == (24, 18)
    assert dataset.test is dataset.validation
    smaller = datasets.load("prepared", str(imagenet), 32)  # has no mean image of its own
    np.testing.assert_allclose(smaller.statistics.mean, mean, rtol=1e-6)
    assert smaller.train[0][0].shape == (32, 32, 3)


def test_an_output_of_other_images_is_left_alone(imagenet, tmp_path):
    root = write_images(tmp_path, {"train": (2, 2), "val": (1, 1)})
    before = checksums(imagenet)
    with pytest.raises(UserError, match="holds a set from other images"):
        preparation.prepare("folder", str(root), imagenet, size=64)
    assert checksums(imagenet) == before


def test_missing_and_broken_archives(tmp_path):
    def attempt(message, root=tmp_path):
        with pytest.raises(UserError, match=message):
            preparation.prepare("imagenet", str(root), tmp_path / "set", size=64)

    attempt(r"ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar not found")
    imagenet_archives.write_archives(tmp_path)
    train, validation = tmp_path / "ILSVRC2012_img_train.tar", tmp_path / "ILSVRC2012_img_val.tar"
    whole = {path: path.read_bytes() for path in (train, validation)}
    validation.unlink()
    attempt(r": ILSVRC2012_img_val.tar not found")
    validation.write_bytes(whole[train])
    attempt(r"n01440764.tar is not an image of ILSVRC2012")
    validation.write_bytes(b"")
    attempt(r"_val.tar: not a complete archive .*; download it again")
    validation.write_bytes(b"<html>" * 500)
    attempt(r"_val.tar: is a web page, probably an error message; download it again")
    validation.write_bytes(whole[validation])
    for part in (0.3, 0.5, 0.97):
        train.write_bytes(whole[train][: int(part * len(whole[train]))])
        attempt(r"_train.tar.*: not a complete archive .*; download it again")
    with tarfile.open(fileobj=io.BytesIO(whole[validation])) as archive:
        third = archive.getmembers()[2].offset
    for damaged in (
        whole[validation][:third],  # between two images
        whole[validation][: third + 100],
        whole[validation][:third] + bytes(512) + whole[validation][third + 512 :],
        whole[validation][:third] + bytes(2**21),  # a download with its space reserved
    ):
        validation.write_bytes(damaged)
        train.write_bytes(whole[train])
        attempt(r"_val.tar: not a complete archive .*damaged at byte .*; download it again")
    validation.write_bytes(whole[validation])
    train.write_bytes(whole[validation])
    attempt(r"ILSVRC2012_val_\d*.JPEG is not a class of ILSVRC2012")
    with tarfile.open(train, "w") as archive:
        imagenet_archives.add(archive, "n99999999.tar", b"")
    attempt(r"n99999999.tar is not a class of ILSVRC2012")
    assert not (tmp_path / "set").exists()


def test_tfds_is_prepared(tmp_path, capsys):
    folder = write_images(tmp_path / "images", {"train": (3, 4), "validation": (2, 1), "test": (1, 2), "extra": (1, 1)})
    image_files.builder(folder, tmp_path, secret="test").download_and_prepare()
    preparation.prepare("tfds:pictures", str(tmp_path), tmp_path / "set", size=32, workers=1)
    said = capsys.readouterr().out
    assert "leaving out test: its labels are secret" in said and "leaving out extra: neither" in said
    prepared = datasets.load("prepared", str(tmp_path / "set"), 32)
    direct = datasets.load("tfds:pictures", str(tmp_path), 32)
    assert prepared.class_names == direct.class_names == ("cat", "dog")
    assert len(prepared.train) == len(direct.train) == 7
    for i in range(7):
        (image, label), (original, original_label) = prepared.train[i], direct.train[i]
        assert label == original_label
        assert abs(image.astype(float) - original).mean() < 20  # noise, through JPEG; another image is 45 away
    assert datasets.find("prepared", str(tmp_path / "set")).splits == ("train", "validation")
    secret, _ = datasets.find("tfds:pictures", str(tmp_path)).load("test", 32)
    with pytest.raises(UserError, match="pictures/test: its labels are secret"):
        secret[0]
    shard = next((tmp_path / "pictures" / "1.0.0").glob("pictures-train*"))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"pictures-train\S*: cannot be read \(.* at least 64KB big\); build the"):
        preparation.prepare("tfds:pictures", str(tmp_path), tmp_path / "again", size=32, workers=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x"], "--dataset=auto needs --root=DIR"),
        (["--root=y"], "--output=DIR is needed, or --dry_run"),
        (["--output=x", "--root=y", "--holdout=1"], "--holdout must be between 0 and 1"),
        (
            ["--output=x", "--dataset=folder", "--labels=x.csv"],
            "--labels=FILE.csv: name a file, and leave out --dataset",
        ),
        (["--output=x", "--labels=nowhere.csv"], "nowhere.csv: no such file; its first line must name"),
        (["--dataset=folder", "--output=x", "--root=/nowhere"], "dataset root '/nowhere': no such directory"),
        (["--dataset=folder", "--output=x"], "--dataset=folder needs --root=DIR"),
        (["--dataset=folder", "--output=", "--root=y"], "--output= has no value"),
        (["--dataset=mnist", "--output=x", "--root=y"], "--dataset=mnist: use auto, tfds:NAME, folder, csv:FILE"),
        (["--dataset=mnist", "--output=x"], "--dataset=mnist: use auto, tfds:NAME, folder, csv:FILE"),
        (["--dataset=tfds:no_such_set", "--output=x"], "dataset 'tfds:no_such_set': no usable data set"),
        (["--dataset=folder", "--output=x", "--root=y", "--size=0"], "--size must be from 1 to 4096"),
        (["--dataset=folder", "--output=x", "--worker=2"], "unrecognized arguments: --worker=2"),
    ],
)
def test_a_mistake_ends_with_one_line(arguments, message, tmp_path, run_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(run_command(prepare.main, *arguments), message)
    assert not (tmp_path / "x").exists()


def test_images_are_prepared_at_the_256_pixels_of_the_paper(tmp_path):
    folder = write_images(tmp_path / "images", {"train": (1, 1), "val": (1, 1)})
    status, _, error = run("--dataset=folder", f"--root={folder}", f"--output={tmp_path / 'set'}")
    assert status == 0, error
    stored = [Image.open(io.BytesIO(example["image"])) for example in examples(tmp_path / "set", "train")]
    assert [image.size for image in stored] == [(256, 256)] * 2


IMAGENETTE = pathlib.Path(os.environ.get("ALEXNET_DATA", "../shared/data")) / "imagenette160.tar.gz"


@pytest.mark.slow
@pytest.mark.skipif(not IMAGENETTE.exists(), reason=f"no {IMAGENETTE}; $ALEXNET_DATA names the directory")
def test_imagenette_killed_several_times_has_the_same_checksums_and_exact_statistics(tmp_path):
    with tarfile.open(IMAGENETTE) as archive:
        archive.extractall(tmp_path / "images", filter="data")

    def command(output, workers):
        flags = ["--dataset=folder", f"--root={tmp_path / 'images'}", f"--output={tmp_path / output}"]
        return [sys.executable, "-m", "alexnet_jax.prepare", *flags, f"--workers={workers}"]

    subprocess.run(command("whole", 2), check=True)
    for workers in (1, 2):
        output = tmp_path / f"killed_{workers}"
        for shards in (5, 20, 35):
            process = subprocess.Popen(command(output.name, workers))
            while len(list(output.glob(".prepare/*.npz"))) < shards:
                time.sleep(0.01)
            process.kill()
            process.wait()
        subprocess.run(command(output.name, workers), check=True)
        assert checksums(output) == checksums(tmp_path / "whole")
        shutil.rmtree(output)
    total, sums, products, count = np.zeros((256, 256, 3)), np.zeros(3), np.zeros((3, 3)), 0
    for example in examples(tmp_path / "whole", "train"):
        pixels = np.asarray(Image.open(io.BytesIO(example["image"]))).astype(np.float64)
        flat = pixels.reshape(-1, 3)
        total, sums, products, count = total + pixels, sums + flat.sum(0), products + flat.T @ flat, count + 1
    assert count == 9469
    mean = sums / count / 256**2
    statistics = json.loads((tmp_path / "whole" / "statistics.json").read_text())
    np.testing.assert_allclose(np.load(tmp_path / "whole" / "mean_image.npy"), total / count, rtol=1e-12)
    np.testing.assert_allclose(statistics["rgb_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(
        statistics["rgb_covariance"], products / count / 256**2 - np.outer(mean, mean), rtol=1e-9
    )


def on_their_side(root):
    """A folder of images: red above green as they are stored, red right of green as EXIF has them shown."""
    for split in ("train", "val"):
        for class_name in "ab":
            (root / split / class_name).mkdir(parents=True)
            pixels = np.zeros((32, 32, 3), np.uint8)
            pixels[:16, :, 0] = pixels[16:, :, 1] = 200
            data = io.BytesIO()
            Image.fromarray(pixels).save(data, "JPEG", quality=95)
            exif = b"Exif\0\0" + odd_images.exif(6)
            (root / split / class_name / "1.jpg").write_bytes(odd_images.with_segment(data.getvalue(), 0xE1, exif))
    return root


def red_side(image):
    return "right" if image[16, 24, 0] > 100 > image[16, 8, 0] else "top" if image[8, 16, 0] > 100 else ""


@pytest.mark.parametrize("orientation", [None, "upright", "stored"])
def test_a_set_that_is_not_there_has_no_orientation(orientation, tmp_path):
    config = settings.defaults()
    config.dataset.update(name="prepared", root=str(tmp_path / "nowhere"), orientation=orientation)
    with pytest.raises(UserError, match=r"dataset root .*/nowhere: no \(finished\) prepared set"):
        run_directory.set_orientation(config, tmp_path / "run")


@pytest.mark.parametrize(("orientation", "side"), [(None, "right"), ("upright", "right"), ("stored", "top")])
def test_a_set_is_prepared_and_recorded_in_an_orientation(tmp_path, orientation, side):
    root, output = on_their_side(tmp_path / "images"), tmp_path / "set"
    preparation.prepare("folder", str(root), output, size=32, workers=1, orientation=orientation)
    recorded = json.loads((output / "prepare.json").read_text())["orientation"]
    assert recorded == (orientation or "upright")
    prepared = datasets.find("prepared", str(output))
    image, _ = prepared.load("train", 32).source[0]
    assert red_side(image) == side and prepared.orientation == recorded
    direct, _ = datasets.find("folder", str(root), orientation).load("train", 32).source[0]
    assert red_side(direct) == side
    config = two_gpu.get_config()
    config.dataset.name, config.dataset.root = "prepared", str(output)
    run_directory.set_orientation(config, tmp_path / "run")
    assert config.dataset.orientation == recorded
    config.dataset.orientation = other = "stored" if recorded == "upright" else "upright"
    with pytest.raises(
        UserError, match=f"config.dataset.orientation={other}: the set was prepared with --orientation="
    ):
        run_directory.set_orientation(config, tmp_path / "run")


def test_imagenet_is_prepared_as_it_is_stored(imagenet):
    assert json.loads((imagenet / "prepare.json").read_text())["orientation"] == "stored"
    assert datasets.find("imagenet", str(imagenet.parent)).orientation == "stored"
    assert datasets.find("imagenet", str(imagenet.parent), "upright").orientation == "upright"


@pytest.mark.parametrize("complete", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_set_of_an_earlier_version_was_prepared_as_stored(tmp_path, complete, capsys):
    root, output = on_their_side(tmp_path / "images"), tmp_path / "set"
    preparation.prepare("folder", str(root), output, size=32, workers=1, orientation="stored")
    path = output / "prepare.json"
    earlier = json.loads(path.read_text())
    del earlier["orientation"]
    path.write_text(json.dumps(earlier))
    statistics = json.loads((output / "statistics.json").read_text())
    del statistics["bytes"]["prepare.json"]
    (output / "statistics.json").write_text(json.dumps(statistics))
    assert datasets.find("prepared", str(output)).orientation == "stored"
    if not complete:
        (output / "statistics.json").unlink()
    with pytest.raises(
        UserError, match="a set of the same images, prepared with --orientation=stored; add this flag, or"
    ):
        preparation.prepare("folder", str(root), output, size=32, workers=1)
    with pytest.raises(
        UserError, match="holds a set from other images, labels, --size, --orientation or image libraries"
    ):
        preparation.prepare("folder", str(root), output, size=48, workers=1)
    capsys.readouterr()
    preparation.prepare("folder", str(root), output, size=32, workers=1, orientation="stored")
    assert "complete" in capsys.readouterr().out
