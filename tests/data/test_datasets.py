"""Folders of images of every kind, and TFDS without TensorFlow."""

import io
import logging
import os
import sys
import unicodedata

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from alexnet_jax import UserError
from alexnet_jax.data import base, datasets, sources
from alexnet_jax.data.base import IMAGENET
from tests.fixtures import image_files
from tests.support import write_images


def test_folder_of_images(tmp_path):
    write_images(tmp_path, {"train": (3, 4), "val": (2, 1)})
    (tmp_path / "train" / ".DS_Store").write_text("")
    (tmp_path / "train" / "class_0" / ".hidden").write_text("")
    (tmp_path / "train" / "README.txt").write_text("")
    dataset = datasets.load("folder", str(tmp_path), 64)
    assert dataset.class_names == ("class_0", "class_1")
    assert [label for _, label in dataset.train] == [0] * 3 + [1] * 4
    assert [label for _, label in dataset.validation] == [0, 0, 1]
    assert dataset.test is dataset.validation
    image, _ = dataset.train[0]
    assert image.shape == (64, 64, 3)
    assert image.mean((0, 1)).argmax() == 0
    write_images(tmp_path, {"test": (1, 1)})
    assert len(datasets.load("folder", str(tmp_path), 64).test) == 2


def test_incomplete_folders_are_refused(tmp_path):
    for root in ("", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"dataset root .*: no such directory"):
            datasets.load("folder", root, 64)
    write_images(tmp_path, {"train": (3, 4)})
    with pytest.raises(UserError, match=r"no validation or test images to measure with, only train"):
        datasets.load("folder", str(tmp_path), 64)
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match=r"val: no class folders"):
        datasets.load("folder", str(tmp_path), 64)
    (tmp_path / "val" / "class_1").mkdir()
    with pytest.raises(UserError, match=r"val/class_1: no images in this class folder"):
        datasets.load("folder", str(tmp_path), 64)
    write_images(tmp_path, {"val": (1,)})
    (tmp_path / "val" / "class_1").rmdir()
    (tmp_path / "val" / "class_0").rename(tmp_path / "val" / "dogs")
    with pytest.raises(UserError, match=r"val: 1 of its classes \(dogs\) are not among the 2"):
        datasets.load("folder", str(tmp_path), 64)


@pytest.mark.parametrize("name", ["two\nlines", "end ", " "])
def test_class_names_that_tfds_would_change_are_refused(name, tmp_path):
    write_images(tmp_path, {"train": (1, 1)})
    (tmp_path / "train" / "class_0").rename(tmp_path / "train" / name)
    with pytest.raises(UserError, match="a class name is empty or has a space at an end or a line break") as error:
        datasets.find("folder", str(tmp_path)).load("train", 64)
    assert "\n" not in str(error.value)


def test_a_folder_is_not_taken_for_a_prepared_set(tmp_path):
    write_images(tmp_path, {"train": (1,), "val": (1,)})
    with pytest.raises(UserError, match="is a folder of images; prepare it .*, or name the dataset folder, not"):
        datasets.load("prepared", str(tmp_path), 64)


def test_a_huge_file_among_the_images_is_not_read_whole(tmp_path, monkeypatch):
    write_images(tmp_path, {"train": (1,)})
    source, _ = datasets.find("folder", str(tmp_path)).load("train", 64)
    monkeypatch.setattr(sources, "MOST_BYTES", 1000)
    assert len(source.read(0)[0]) == 1000
    with pytest.raises(UserError, match=r"class_0/000.png: not a complete image"):
        source[0]


def test_unknown_data_set_is_refused():
    with pytest.raises(
        UserError, match=r"'mnist': no such data set; use prepared, tfds:NAME, folder, .*, cifar100 or textures"
    ):
        datasets.load("mnist", "", 64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_tfds_is_read_without_tensorflow(file_format, tmp_path):
    folder = write_images(tmp_path / "images", {"train": (3, 4), "test": (2, 1)})
    builder = image_files.builder(folder, tmp_path, file_format=file_format)
    if file_format == "tfrecord":  # cannot even be written without TensorFlow
        builder.data_path.mkdir(parents=True)
        builder.info.write_to_directory(builder.data_path)
        with pytest.raises(UserError, match="file_format=.array_record"):
            datasets.load("tfds:pictures", str(tmp_path), 64)
        return
    builder.download_and_prepare()
    dataset = datasets.load("tfds:pictures", str(tmp_path), 64)
    assert (len(dataset.train), len(dataset.validation), dataset.class_names) == (7, 3, ("cat", "dog"))
    for i in range(7):
        image, label = dataset.train[i]
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert image.mean((0, 1)).argmax() == label
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")
def test_wide_images_are_cropped_or_stretched(tmp_path):
    folder = write_images(tmp_path / "images", {"train": (1, 1), "test": (1, 1)})
    squares = {label: image for image, label in datasets.find("folder", str(folder)).load("train", 72)[0]}
    for path in folder.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)).repeat(2, axis=1)).save(path)
    image_files.builder(folder, tmp_path).download_and_prepare()
    for name, root in (("folder", folder), ("tfds:pictures", tmp_path)):
        for stretch in (True, False):
            train = datasets.load(name, str(root), 72, stretch).train
            for source in (train, train.part(0, 2)):
                for image, label in (source[i] for i in range(2)):
                    assert np.array_equal(image, squares[label]) == stretch


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")
@pytest.mark.parametrize("name", ["cifar10", "imagenette", "imagenet2012"])
def test_stock_tfds_data_sets_without_tensorflow(name, tmp_path):
    """They have their real features and classes. TFDS would encode images for them with TensorFlow."""
    builder = tfds.builder(name, data_dir=tmp_path)
    classes = builder.info.features["label"].num_classes
    pictures = []
    for i in range(12):
        data = io.BytesIO()
        Image.fromarray(np.full((32, 40, 3), 20 * i, np.uint8)).save(data, "PNG")
        pictures.append((data.getvalue(), i % classes))
    held_out = "test" if name == "cifar10" else "validation"
    image_files.store(builder.data_dir, name, builder.info.features, {"train": pictures, held_out: pictures[:7]})
    dataset = datasets.load(f"tfds:{name}", str(tmp_path), 64)
    assert (len(dataset.train), len(dataset.validation)) == (12, 7)
    assert dataset.class_names == tuple(builder.info.features["label"].names)
    assert len(dataset.class_names) == (1000 if name == "imagenet2012" else 10)
    image, label = dataset.train[3]
    assert image.shape == (64, 64, 3) and (image == 60).all() and label == 3
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["imagenet2012", "no_such_set"])
def test_missing_tfds_data_says_how_to_get_it(name, tmp_path):
    with pytest.raises(UserError) as error:
        datasets.load(f"tfds:{name}", str(tmp_path), 256)
    message = str(error.value)
    assert name in message and "\n" not in message
    assert "download_and_prepare" in message and "configs/quickstart.py" in message


def test_imagenets_statistics_are_a_rotation_and_its_scales():
    axes, std = IMAGENET.colour_axes, IMAGENET.colour_std
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    # The much-copied figures are the variances of pixels in [0, 1], of other crops of the same images.
    np.testing.assert_allclose((std / 255) ** 2, [0.0045, 0.0188, 0.2175], rtol=0.35)


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "VALIDATION"])
def test_the_usual_names_of_validation_folders_are_found(name, tmp_path):
    write_images(tmp_path, {"train": (2, 1), name: (1, 2)})
    dataset = datasets.find("folder", str(tmp_path))
    assert dataset.splits == ("train", "validation") and dataset.held_out() == ("validation", "validation")
    assert [len(dataset.load(split, 64).source) for split in ("validation", "val", "dev")] == [3, 3, 3]


def test_two_folders_of_one_split_are_refused(tmp_path):
    write_images(tmp_path, {"train": (2, 1), "val": (1, 2), "valid": (1, 1)})
    with pytest.raises(
        UserError, match="holds (val and valid|valid and val), which are both validation images; rename"
    ):
        datasets.load("folder", str(tmp_path), 64)


def test_whatever_is_not_used_is_named_once_with_counts(tmp_path, caplog):
    write_images(tmp_path, {"train": (2, 1), "val": (1, 2), "extra": (4, 3)})
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / ".hidden").write_text("")
    for name in ("Thumbs.db", "desktop.ini"):
        (tmp_path / "train" / "class_0" / name).write_bytes(b"no image")
    for i in range(3):
        (tmp_path / "train" / f"loose{i}.png").write_bytes(b"")
    write_images(tmp_path / "train" / "class_0", {"more": (20,)})
    (tmp_path / "train" / "class_1" / "missing.png").symlink_to("nowhere")
    (tmp_path / "train" / "class_1" / "loop.png").symlink_to("loop.png")
    (tmp_path / "train" / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "train" / "class_1" / "pipe")
    (tmp_path / "train" / "class_0" / "more" / "again").symlink_to(tmp_path / "train" / "class_0")
    data = datasets.load("folder", str(tmp_path), 64)
    assert (len(data.train), len(data.validation)) == (3, 3)
    train = tmp_path / "train"
    assert messages(caplog) == [
        f"{tmp_path}: 8 files beside the splits are not used: extra (7), labels.csv",
        f"{train}: 4 files beside the class folders are not used: loop, loose0.png, loose1.png, …",
        f"{train}: 23 files inside class folders are not used: class_0/more (20), class_1/loop.png, "
        "class_1/missing.png, …",
    ]


def test_class_folders_whose_names_differ_in_unicode_form_alone_are_refused(tmp_path):
    write_images(tmp_path, {"train": (2, 1)})
    for label, form in enumerate(("NFC", "NFD")):
        (tmp_path / "train" / f"class_{label}").rename(tmp_path / "train" / unicodedata.normalize(form, "café"))
    with pytest.raises(UserError, match=r"in different Unicode forms \('caf.*u0301', 'caf.xe9'|'caf.xe9', 'caf"):
        datasets.find("folder", str(tmp_path)).load("train", 64)


def test_a_class_in_another_unicode_form_is_the_same_class(tmp_path):
    write_images(tmp_path, {"train": (2, 1), "val": (2, 1)})
    for split, form in (("train", "NFC"), ("val", "NFD")):
        (tmp_path / split / "class_0").rename(tmp_path / split / unicodedata.normalize(form, "été"))
    data = datasets.load("folder", str(tmp_path), 64)
    assert data.class_names == ("class_1", "été")
    assert [label for _, label in data.validation] == [0, 1, 1]
    labels = base.Split(data.train, tuple(unicodedata.normalize("NFD", name) for name in data.class_names))
    assert labels.relabelled(data.class_names) is data.train


def test_images_of_another_size_than_the_nets_are_said(few_textures, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    datasets.load("textures", str(tmp_path / "a"), 128)
    assert messages(caplog) == []
    datasets.load("textures", str(tmp_path / "a"), 72)
    (message,) = messages(caplog)
    assert message.startswith("80 images of 128×128 pixels are resized to the net's 72×72; the mean of each channel")


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"image": [b"x"]},
        {"label": [1]},
        {"image": [b"x"], "label": [2]},
        {"image": [b"x"], "label": [2**40]},
        {"image": [b"x"], "label": [1.0]},
        {"image": [7], "label": [1]},
        {"image": [b"x", b"y"], "label": [1]},
        {"image": [b"x"], "label": [1, 1]},
        {"image": [b"x"], "label": [-2]},
    ],
)
def test_a_record_that_is_no_example_is_named(features):
    example = tf_example_pb2.Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(example.features.feature[name], kind).value.extend(values)
    source = sources.TfdsSource([example.SerializeToString()], "set/train", None, 64, False, 0, 1, num_classes=2)
    with pytest.raises(UserError, match="set/train, example 0: not an image with a label"):
        source.read(0)
