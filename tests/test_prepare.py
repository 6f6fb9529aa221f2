"""Preparation: the same bytes whatever happens, exact statistics, right labels, and one line for what goes wrong."""

import csv
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import archives
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import write_images
from PIL import Image

from alexnet_jax import UserError, datasets, images, prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")

# In a process of its own, with shards of eight images: a few images are many shards.
SMALL_SHARDS = "import sys; from alexnet_jax import prepare; prepare.IMAGES_PER_SHARD = 8; prepare.main()"


def start(*flags, code=SMALL_SHARDS, **options):
    command = [sys.executable, "-c", code, *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(*flags, **options):
    process = start(*flags, **options)
    out, error = process.communicate()
    return process.returncode, out, error


def assert_one_line(result, message):
    code, _, error = result
    lines = error.strip().splitlines()
    assert code != 0 and len(lines) == 1 and lines[0].startswith("alexnet_jax: ") and message in lines[0], error


def checksums(directory):
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def examples(directory, split):
    """Through TFDS alone, with the file names as str."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(directory).as_data_source(split, decoders=decoders)
    return [example | {"file_name": example["file_name"].decode()} for example in source]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = archives.write_archives(tmp_path_factory.mktemp("archives"))
    output = root / "prepared"
    prepare.prepare("imagenet", str(root), output, size=64, workers=2)
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
            assert int(file_name.removesuffix(".JPEG").rpartition("_")[2]) in archives.VALIDATION[class_name]
        if not file_name.endswith("_2.JPEG"):  # the gray one
            assert np.asarray(image).mean((0, 1)).argmax() == archives.CHANNELS[class_name]
    assert len(set(seen)) == len(seen)


def test_pixels_are_the_papers(imagenet):
    by_name = {example["file_name"]: example["image"] for example in examples(imagenet, "train")}
    for number in range(8):
        data = archives.odd_picture("n02102040", number)
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


def test_training_sees_the_statistics(imagenet):
    mean_image, mean, covariance = float64_statistics(imagenet)
    dataset = datasets.load("prepared", str(imagenet), 64)
    np.testing.assert_allclose(dataset.mean, mean_image, rtol=1e-6)
    np.testing.assert_allclose(
        (dataset.colour_axes * dataset.colour_std**2) @ dataset.colour_axes.T, covariance, rtol=1e-4
    )
    assert (len(dataset.train), len(dataset.validation)) == (24, 18)
    assert dataset.test is dataset.validation
    smaller = datasets.load("prepared", str(imagenet), 32)  # has no mean image of its own
    np.testing.assert_allclose(smaller.mean, mean, rtol=1e-6)
    assert smaller.train[0][0].shape == (32, 32, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """240 training images in 30 shards of eight, and ten that are no images."""
    root = write_images(tmp_path_factory.mktemp("folder") / "images", {"train": (80, 80, 80), "val": (12, 12, 12)})
    for i in range(10):
        (root / "train" / "class_1" / f"bad_{i}.png").write_text("<html>not found</html>")
    return root


def flags(folder, output, *others):
    return "--dataset=folder", f"--root={folder}", f"--output={output}", "--size=48", "--max_undecodable=0.1", *others


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted") / "set"
    code, out, error = run(*flags(folder, output, "--workers=2"))
    assert (code, error) == (0, ""), error
    assert "250 train, 36 validation images of 3 classes" in out and "MB free" in out.replace("GB", "MB"), out
    assert "10 images left out" in out
    return output


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_several_times_gives_the_same_bytes(folder, uninterrupted, workers, tmp_path):
    output, done = tmp_path / "set", []
    for part in (0.2, 0.5, 0.7):
        process = start(*flags(folder, output, f"--workers={workers}"))
        while process.poll() is None and len(list(output.glob(".prepare/*.npz"))) < part * 37:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        done.append(len(list(output.glob(".prepare/*.npz"))))
        assert not (output / "statistics.json").exists()
    assert 0 < done[0] < done[1] < done[2] < 37, done
    code, out, error = run(*flags(folder, output, f"--workers={workers}"))
    assert code == 0 and f"{done[2]} of 37 shards done" in out, (out, error)
    assert checksums(output) == checksums(uninterrupted)
    code, out, _ = run(*flags(folder, output))
    assert code == 0 and "complete already" in out


def test_interrupted_by_the_user(folder, uninterrupted, tmp_path):
    process = start(*flags(folder, tmp_path / "set", "--workers=1"), start_new_session=True)
    while not list((tmp_path / "set").glob(".prepare/*.npz")):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and error.strip() == "alexnet_jax: interrupted; the same command goes on"
    assert run(*flags(folder, tmp_path / "set"))[0] == 0
    assert checksums(tmp_path / "set") == checksums(uninterrupted)


def test_undecodable_images_are_listed(uninterrupted):
    with (uninterrupted / "undecodable.tsv").open() as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [row["file_name"] for row in rows] == [f"class_1/bad_{i}.png" for i in range(10)]
    assert {(row["split"], row["reason"]) for row in rows} == {("train", "not an image")}
    assert len(examples(uninterrupted, "train")) == 240
    assert tfds.builder_from_directory(uninterrupted).info.splits["train"].num_examples == 240


def test_too_many_undecodable_images_stop_the_run_and_nothing_is_lost(folder, uninterrupted, tmp_path):
    output = tmp_path / "set"
    assert_one_line(run(*flags(folder, output, "--max_undecodable=0.02")), "more than --max_undecodable=0.02")
    text = (output / "undecodable.tsv").read_text()
    assert "class_1/bad_0.png\tnot an image" in text
    assert not (output / "statistics.json").exists()
    assert run(*flags(folder, output))[0] == 0
    assert checksums(output) == checksums(uninterrupted)


def test_a_full_disk_ends_with_one_line_and_nothing_is_lost(folder, uninterrupted, tmp_path):
    small_files = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); "
    output = tmp_path / "set"
    result = run(*flags(folder, output, "--workers=1"), code=small_files + SMALL_SHARDS)
    assert_one_line(result, f"--output={output}: cannot be written (write() failed: File too large)")
    assert not list(output.glob("*.array_record*")) and not list(output.glob(".prepare/*.tmp"))
    assert run(*flags(folder, output))[0] == 0
    assert checksums(output) == checksums(uninterrupted)


def test_too_little_space_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10**5))
    with pytest.raises(UserError, match=r"needs about .* MB and has 0.1 MB; free some space"):
        prepare.prepare("folder", str(folder), tmp_path / "set", size=48)
    assert not list((tmp_path / "set").glob("*.array_record*"))


@pytest.mark.parametrize("output", ["/proc/prepared", "file", "file/below"])
def test_an_output_that_cannot_be_written(folder, tmp_path, output):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--output=.*: cannot be written"):
        prepare.prepare("folder", str(folder), tmp_path / output, size=48)


def test_an_output_of_something_else_is_left_alone(folder, uninterrupted, imagenet, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty; use another directory"):
        prepare.prepare("folder", str(folder), tmp_path, size=48)
    with pytest.raises(UserError, match="holds a set from other images"):
        prepare.prepare("folder", str(folder), imagenet, size=64)
    with pytest.raises(UserError, match="holds a set from other images"):
        prepare.prepare("folder", str(folder), uninterrupted, size=49)


def test_lost_shards_are_made_again(folder, uninterrupted, tmp_path):
    process = start(*flags(folder, tmp_path / "set", "--workers=1"))
    while len(list((tmp_path / "set").glob(".prepare/*.npz"))) < 5:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    first, second, *_ = sorted((tmp_path / "set").glob("*.array_record-*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:1000])
    min((tmp_path / "set").glob(".prepare/train-00002.npz")).write_bytes(b"")
    assert run(*flags(folder, tmp_path / "set"))[0] == 0
    assert checksums(tmp_path / "set") == checksums(uninterrupted)


def test_the_limit_holds_when_all_shards_are_there(tmp_path):
    root = write_images(tmp_path / "images", {"train": (8, 8), "val": (2, 2)})
    for image in sorted((root / "train" / "class_1").iterdir())[-3:]:
        image.write_text("<html>")
    for _ in range(3):
        assert_one_line(run(*flags(root, tmp_path / "set")), "3 of 20 images cannot be decoded, more than")


def test_other_images_under_the_same_names_are_noticed(uninterrupted, folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    Image.new("RGB", (90, 90)).save(other / "val" / "class_0" / "000.png")
    with pytest.raises(UserError, match="holds a set from other images"):
        prepare.prepare("folder", str(other), uninterrupted, size=48)


def test_a_finished_set_that_lost_a_shard_is_named(folder, uninterrupted, tmp_path):
    output = shutil.copytree(uninterrupted, tmp_path / "set")
    next(output.glob("*train*")).unlink()
    assert_one_line(run(*flags(folder, output)), "has lost folder_48-train.array_record-")
    with pytest.raises(UserError, match="has lost folder_48-train.array_record-"):
        datasets.load("prepared", str(output), 48)


def test_two_processes_on_one_output(folder, uninterrupted, tmp_path):
    first = start(*flags(folder, tmp_path / "set", "--workers=1"))
    while not list((tmp_path / "set").glob(".prepare/*.npz")):
        time.sleep(0.005)
    assert_one_line(run(*flags(folder, tmp_path / "set")), "another process is preparing it")
    _, error = first.communicate()
    assert first.returncode == 0, error
    assert checksums(tmp_path / "set") == checksums(uninterrupted)


def test_a_split_without_any_image(folder, tmp_path):
    root = shutil.copytree(folder, tmp_path / "images")
    for image in (root / "val").glob("*/*.png"):
        image.write_bytes(b"")
    with pytest.raises(UserError, match="not one validation image can be decoded"):
        prepare.prepare("folder", str(root), tmp_path / "set", size=48, max_undecodable=1)


def test_missing_and_broken_archives(tmp_path):
    def attempt(message, root=tmp_path):
        with pytest.raises(UserError, match=message):
            prepare.prepare("imagenet", str(root), tmp_path / "set", size=64)

    attempt(r"no ILSVRC2012_img_train.tar and no ILSVRC2012_img_val.tar there")
    archives.write_archives(tmp_path)
    train, validation = tmp_path / "ILSVRC2012_img_train.tar", tmp_path / "ILSVRC2012_img_val.tar"
    whole = {path: path.read_bytes() for path in (train, validation)}
    validation.unlink()
    attempt(r"no ILSVRC2012_img_val.tar there")
    validation.write_bytes(whole[train])
    attempt(r"n01440764.tar is no image of ILSVRC2012")
    validation.write_bytes(b"")
    attempt(r"_val.tar: not a complete archive .*; download it again")
    validation.write_bytes(b"<html>" * 500)
    attempt(r"_val.tar: not a complete archive .*; download it again")
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
    attempt(r"ILSVRC2012_val_\d*.JPEG is no class of ILSVRC2012")
    with tarfile.open(train, "w") as archive:
        archives.add(archive, "n99999999.tar", b"")
    attempt(r"n99999999.tar is no class of ILSVRC2012")
    assert not (tmp_path / "set").exists()


class Shapes(tfds.core.GeneratorBasedBuilder):
    """A TFDS data set with a split whose labels are secret."""

    VERSION = tfds.core.Version("1.0.0")
    folder = None

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

    def _generate_examples(self, split):
        for label in (0, 1):
            for path in sorted((self.folder / "train" / f"class_{label}").iterdir()):
                yield f"{label} {path.name}", {"image": path, "label": -1 if split == "test" else label}


def test_tfds_is_prepared(tmp_path):
    Shapes.folder = write_images(tmp_path / "images", {"train": (3, 4)})
    tfds.builder("shapes", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    prepare.prepare("tfds:shapes", str(tmp_path), tmp_path / "set", size=32, workers=1)
    prepared = datasets.load("prepared", str(tmp_path / "set"), 32)
    direct = datasets.load("tfds:shapes", str(tmp_path), 32)
    assert prepared.class_names == direct.class_names == ("cat", "dog")
    assert len(prepared.train) == len(direct.train) == 7
    for i in range(7):
        (image, label), (original, original_label) = prepared.train[i], direct.train[i]
        assert label == original_label
        assert abs(image.astype(float) - original).mean() < 20  # noise, through JPEG; another image is 45 away
    assert datasets.splits("prepared", str(tmp_path / "set")) == ("train", "validation")
    secret, _ = datasets.load_split("tfds:shapes", str(tmp_path), "test", 32)
    with pytest.raises(UserError, match="shapes/test: its labels are secret"):
        secret[0]
    shard = next((tmp_path / "shapes" / "1.0.0").glob("shapes-train*"))
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(UserError, match="tfds:shapes.*(damaged|cannot be read|not stored)"):
        prepare.prepare("tfds:shapes", str(tmp_path), tmp_path / "again", size=32, workers=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x"], "the following arguments are required: --dataset; see --help"),
        (["--dataset=folder", "--output=x", "--root=/nowhere"], "no directory '/nowhere'"),
        (["--dataset=folder", "--output=x"], "--dataset=folder needs --root=DIR"),
        (["--dataset=mnist", "--output=x", "--root=y"], "--dataset=mnist: use imagenet, folder or tfds:NAME"),
        (["--dataset=tfds:no_such_set", "--output=x"], "no usable data set 'tfds:no_such_set'"),
        (["--dataset=folder", "--output=x", "--root=y", "--size=0"], "--size must be from 1 to 4096"),
        (["--dataset=folder", "--output=x", "--worker=2"], "unrecognized arguments: --worker=2"),
    ],
)
def test_a_mistake_ends_with_one_line(arguments, message, tmp_path):
    assert_one_line(run(*arguments, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.getcwd()}), message)
    assert not (tmp_path / "x").exists()


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
