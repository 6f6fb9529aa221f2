"""Prepared and TFDS sets whose files were made to do harm, or are damaged: one line, and nothing runs or is read."""

import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image

from alexnet_jax import UserError
from alexnet_jax.data import datasets, preparation, shards
from tests.fixtures import image_files
from tests.support import bound_by_permissions, write_images

FEATURES = "tensorflow_datasets.core.features."
FEATURE_FIELDS = {
    "a class with proto's names": {"python_class_name": "trap.Trap", "tensor": {}},
    "a class of a feature": {"pythonClassName": "trap.Trap", "jsonFeature": {"json": "{}"}},
    "the old format": {"type": "trap.Trap", "content": {}},
    "a class in JSON in JSON": {
        "pythonClassName": f"{FEATURES}features_dict.FeaturesDict",
        "jsonFeature": {"json": json.dumps({"image": {"type": "trap.Trap", "content": {}}})},
    },
    "a class in a sequence": {
        "pythonClassName": f"{FEATURES}sequence_feature.Sequence",
        "sequence": {"feature": {"pythonClassName": "trap.Trap", "tensor": {}}, "length": "-1"},
    },
    "a class in a dict": {
        "pythonClassName": f"{FEATURES}features_dict.FeaturesDict",
        "featuresDict": {"features": {"x": {"pythonClassName": "trap.Trap", "tensor": {}}}},
    },
    "a class in a dataset": {
        "pythonClassName": f"{FEATURES}dataset_feature.Dataset",
        "sequence": {"feature": {"pythonClassName": "os.path.join", "tensor": {}}},
    },
    "a class beside TFDS's": {"pythonClassName": "tensorflow_datasets.rlds.rlds_base.Trap", "tensor": {}},
    "a class with another's description": {
        "pythonClassName": f"{FEATURES}class_label_feature.ClassLabel",
        "image": {"shape": {"dimensions": ["1"]}},
    },
    "a class without a description": {"pythonClassName": f"{FEATURES}text_feature.Text"},
    "no class": {},
}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a file when it is imported."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trap.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Trap:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield
    assert not (tmp_path / "imported").exists() and "trap" not in sys.modules


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A TFDS data directory with the set `pictures`, of three classes."""
    encoded = []
    for i in range(6):
        data = io.BytesIO()
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(data, "PNG")
        encoded.append((data.getvalue(), i % 3))
    features = {
        "image": tfds.features.Image(),
        "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
        "image/file name": tfds.features.Text(),
        "boxes": tfds.features.Sequence({"box": tfds.features.BBoxFeature(), "size": tfds.features.Scalar(np.int64)}),
    }
    root = tmp_path_factory.mktemp("tfds")
    image_files.store(root / "pictures" / "1.0.0", "pictures", features, {"train": encoded, "test": encoded[:3]})
    return root


@pytest.fixture
def stored(pictures, tmp_path):
    """(data directory, directory of the set) of a copy of `pictures` that may be changed."""
    shutil.copytree(pictures, tmp_path / "tfds")
    return tmp_path / "tfds", tmp_path / "tfds" / "pictures" / "1.0.0"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The directory of a folder of images, beside its prepared set `set`."""
    root = tmp_path_factory.mktemp("prepared")
    folder = write_images(root / "images", {"train": (3, 2), "val": (1, 1)}, size=20)
    preparation.prepare("folder", str(folder), root / "set", size=16, workers=1)
    return root


def change(path, edit):
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


def refused(message, root, name="tfds:pictures"):
    with pytest.raises(UserError, match=message) as error:
        datasets.load(name, str(root), 16)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 6000


def test_every_class_of_features_in_a_data_set_of_images_is_allowed(pictures):
    data = datasets.load("tfds:pictures", str(pictures), 20)
    images, labels = zip(*(data.train[i] for i in range(6)), strict=True)
    assert labels == (0, 1, 2, 0, 1, 2) and data.class_names == ("a", "b", "c")
    assert [int(image[0, 0, 0]) for image in images] == [0, 40, 80, 120, 160, 200]
    assert [data.train.name(i) for i in range(2)] == ["0", "1"]


@pytest.mark.parametrize("what", FEATURE_FIELDS)
@pytest.mark.parametrize("place", ["whole", "feature", "dataset_info", "prepared"])
def test_no_class_that_a_file_names_is_imported(what, place, stored, prepared, tmp_path, trap):
    root, directory = stored
    name = "tfds:pictures"
    if place == "prepared":
        name, root = "prepared", shutil.copytree(prepared / "set", tmp_path / "set")
        directory = root
        change(root / "statistics.json", lambda statistics: statistics["bytes"].clear())
    if place == "whole":
        (directory / "features.json").write_text(json.dumps(FEATURE_FIELDS[what]))
    elif place == "dataset_info":
        change(directory / "dataset_info.json", lambda info: info.update(features=FEATURE_FIELDS[what]))
    else:
        change(
            directory / "features.json",
            lambda value: value["featuresDict"]["features"].update(more=FEATURE_FIELDS[what]),
        )
    refused(
        r"(features|dataset_info).json: (has a feature of the class '.*', which is not one|is not a descr)", root, name
    )


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("config", ["", "config"])
def test_the_checked_directory_is_the_one_that_tfds_reads(known, config, pictures, tmp_path, trap):
    """TFDS has code for `cifar10` and none for `pictures`, and might look for the files of either elsewhere."""
    name = "cifar10" if known else "pictures"
    elsewhere = shutil.copytree(pictures / "pictures" / "1.0.0", tmp_path / "elsewhere" / "1.0.0")
    root = tmp_path / "tfds"
    (root / name / config).mkdir(parents=True)
    (root / name / config / "1.0.0").symlink_to(elsewhere)
    older = shutil.copytree(elsewhere, root / name / config / "0.9.0")
    shutil.copytree(elsewhere, root / name / "broken" / "incomplete.1.0.0")
    assert len(datasets.load(f"tfds:{name}", str(root), 16).train) == 6
    trapped = {"pythonClassName": "trap.Trap", "tensor": {}}
    (older / "features.json").write_text(json.dumps(trapped))
    assert len(datasets.load(f"tfds:{name}", str(root), 16).train) == 6
    refused("trap.Trap", root, f"tfds:{name}{config and '/' + config}:0.*.*")
    (elsewhere / "features.json").write_text(json.dumps(trapped))
    refused("trap.Trap", root, f"tfds:{name}")


def test_one_of_several_configs_must_be_named(pictures, tmp_path):
    for config in ("large", "small"):
        shutil.copytree(pictures / "pictures" / "1.0.0", tmp_path / "pictures" / config / "1.0.0")
    refused("'tfds:pictures': name one of its configs: large, small", tmp_path)
    assert len(datasets.load("tfds:pictures/small", str(tmp_path), 16).train) == 6
    (tmp_path / "pictures" / ".config").mkdir()
    metadata = tmp_path / "pictures" / ".config" / "metadata.json"
    for default in ("../../elsewhere", "", "/etc"):
        metadata.write_text(json.dumps({"default_config_name": default}))
        refused("name one of its configs", tmp_path)
    metadata.write_text(json.dumps({"default_config_name": "large"}))
    assert len(datasets.load("tfds:pictures", str(tmp_path), 16).train) == 6
    metadata.write_text("[" * 100_000)
    refused("metadata.json: is not what this program wrote", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "huggingface:pictures",
        "kaggle:pictures",
        "../pictures",
        "pictures/..",
        "pictures/../1.0.0",
        "pictures/data_dir=gs://bucket",
        "pictures/file_format=tfrecord",
        "gs://bucket/pictures",
        "pictures:experimental_latest",
        "pictures:" + "9" * 5000 + ".0.0",
        "pictures:1.0.0/",
        "pictures\n",
        "pictüres",
        "/etc/passwd",
        "p" * 300 + "!",
    ],
)
def test_only_names_of_data_sets_are_taken(name, pictures):
    refused("no name of a data set", pictures, f"tfds:{name}")


def test_versions_and_names_in_camel_case_are_found(pictures):
    for name in ("pictures:1.0.0", "pictures:1.*.*", "Pictures"):
        assert len(datasets.load(f"tfds:{name}", str(pictures), 16).train) == 6
    for name in ("pictures:2.0.0", "pictures/config", "p" * 200):
        refused("no usable data set in", pictures, f"tfds:{name}")


def first_split(**fields):
    return lambda info: info["splits"][0].update(fields)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("dataset_info.json", first_split(filepathTemplate="/etc/{DATASET}"), "'/etc/{DATASET}' may lead out"),
        ("dataset_info.json", first_split(filepathTemplate="../{SPLIT}"), "may lead out"),
        ("dataset_info.json", first_split(filepathTemplate="a/../../{SPLIT}"), "may lead out"),
        ("dataset_info.json", first_split(filepathTemplate="{SPLIT:>999999999}"), "may lead out"),
        ("dataset_info.json", first_split(filepathTemplate="{SPLIT.__class__}"), "may lead out"),
        ("dataset_info.json", first_split(filepathTemplate="{NOTHING}"), "1.0.0 is damaged; build the set again"),
        ("dataset_info.json", first_split(filepathTemplate="x"), "/x: cannot be read"),
        ("dataset_info.json", first_split(name="../x"), "'../x' may lead out"),
        ("dataset_info.json", lambda info: info.update(name="../../etc/x"), "'../../etc/x' may lead out"),
        ("dataset_info.json", lambda info: info.update(name=""), "'' may lead out"),
        ("dataset_info.json", lambda info: info.update(fileFormat="../x"), "cannot read this data set"),
        ("dataset_info.json", lambda info: info.update(version="x"), "cannot read this data set"),
        ("dataset_info.json", lambda info: info.update(splits=7), "is not a description of a TFDS data set"),
        ("dataset_info.json", lambda info: info.update(splits=[]), "has not been built"),
        ("dataset_info.json", lambda info: info.pop("fileFormat"), "not as ArrayRecord"),
        ("dataset_info.json", first_split(shardLengths=[str(2**60)]), "cannot be read .*examples instead of 1,152"),
        ("dataset_info.json", first_split(shardLengths=["-3"]), "1.0.0 is damaged; build the set again"),
        ("dataset_info.json", first_split(shardLengths=["7"]), "cannot be read .*instead of 7"),
        ("dataset_info.json", first_split(shardLengths=["2"]), "cannot be read .*instead of 2"),
        ("dataset_info.json", first_split(shardLengths=["3", "3"]), "cannot be read .No such file"),
        ("dataset_info.json", first_split(shardLengths=[]), "1.0.0 is damaged; build the set again"),
        ("dataset_info.json", first_split(shardLengths=[str(2**70)]), "is not a description of a TFDS data set"),
        ("features.json", lambda f: label(f).update(numClasses=str(10**9)), "has 1000000000 classes"),
        ("features.json", lambda f: label(f).update(numClasses="-5"), "has -5 classes"),
        ("features.json", lambda f: label(f).update(numClasses="2"), "has 3 different names for 2 classes"),
        ("features.json", lambda f: label(f).update(numClasses="0"), "has 3 different names for 0 classes"),
        ("features.json", lambda f: features(f).update({"../x": features(f)["label"]}), "'../x' may lead out"),
        ("features.json", lambda f: features(f).update({"**/**": features(f)["label"]}), "may lead out"),
        ("features.json", lambda f: features(f).update({"/etc/x": features(f)["label"]}), "may lead out"),
        ("features.json", lambda f: features(f).pop("label"), "has no `image` with a `label`"),
        ("features.json", lambda f: features(f).update(image=features(f)["label"]), "has no `image` with a `label`"),
        (
            "features.json",
            lambda f: features(f)["image"]["image"].update(dtype="nonsense"),
            "cannot read this data set",
        ),
    ],
)
def test_what_the_description_promises_is_compared_with_the_files(file, edit, message, stored):
    root, directory = stored
    change(directory / file, edit)
    refused(message, root)


def features(value):
    return value["featuresDict"]["features"]


def label(value):
    return features(value)["label"]["classLabel"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\n", "has 2 different names for 3 classes"),
        (b"a\nb\nb\n", "has 2 different names for 3 classes"),
        (b"a\nb\nc\nd\n", "has 4 different names for 3 classes"),
        (b"", "label.labels.txt: is empty"),
        (b"a\nb\n\xff\n", "label.labels.txt: cannot be read .not text in UTF-8"),
    ],
)
def test_class_names_are_as_many_as_classes(text, message, stored):
    root, directory = stored
    (directory / "label.labels.txt").write_bytes(text)
    refused(message, root)


def test_pipes_and_directories_in_the_place_of_files(stored):
    root, directory = stored
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
            path.unlink() if not path.is_dir() else path.rmdir()
            make(path)
            refused(f"{path.name}: (is a pipe or a device|cannot be read .Is a directory)", root)
        path.unlink()
        path.write_bytes(data)
    assert len(datasets.load("tfds:pictures", str(root), 16).train) == 6


def test_damaged_shards_end_in_one_line_or_are_whole(pictures, stored):
    """ArrayRecord is C++: what it does not check could end the process."""
    root, directory = stored
    path = directory / "pictures-train.array_record-00000-of-00001"
    whole = path.read_bytes()
    train = datasets.load("tfds:pictures", str(pictures), 20).train
    expected = [train[i][0].tolist() for i in range(6)]
    read, messages = 0, []
    for seed in range(200):
        rng = np.random.default_rng([26, seed])
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            places = [len(data), 200, len(data)]
            place = int(rng.integers(places[seed % 3]))
            data[place : place + 8] = rng.bytes(8) if rng.random() < 0.7 else b"\xff" * 8
        path.write_bytes(data if seed % 4 else data[: rng.integers(len(data))])
        try:
            source = datasets.find("tfds:pictures", str(root)).load("train", 20).source
            for i in range(6):
                assert source[i][0].tolist() == expected[i], seed
            read += 1
        except UserError as error:
            messages.append(str(error))
    assert 20 < read < 180
    assert all("cannot be read" in message and len(message.splitlines()) == 1 for message in messages)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"", "not an image with a label"),
        (b"\xff\xff", "cannot be read"),
        (shards.serialize(b"", 3, "x"), "not an image with a label"),
        (shards.serialize(b"x", 2**40, "x"), "not an image with a label"),
        (shards.serialize(b"x", 1, "x"), "not an image"),
        (shards.serialize(b"x", -1, "x"), "its labels are secret"),
    ],
)
def test_records_of_something_else(record, message, stored):
    root, directory = stored
    path = str(directory / "pictures-train.array_record-00000-of-00001")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    for _ in range(6):
        writer.write(record)
    writer.close()
    source = datasets.find("tfds:pictures", str(root)).load("train", 16).source
    with pytest.raises(UserError, match=f"(tfds:pictures/train.*)?{message}"):
        source[4]


def npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def huge_npy():
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }"
    return b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117).encode() + b"\n" + bytes(100)


MEAN, COVARIANCE = [1.0, 2.0, 3.0], np.eye(3).tolist()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("mean_image.npy", npy(np.zeros((16, 16))), "is not a mean image, but float64"),
        ("mean_image.npy", npy(np.zeros((16, 8, 3))), "is not a mean image"),
        ("mean_image.npy", npy(np.zeros(())), "is not a mean image"),
        ("mean_image.npy", npy(np.full((16, 16, 3), np.nan)), "is not a mean image"),
        ("mean_image.npy", npy(np.full((16, 16, 3), "x")), "is not a mean image"),
        ("mean_image.npy", huge_npy(), "is not a whole array"),
        ("mean_image.npy", b"\x80\x04.", "is not a whole array"),
        ("statistics.json", {}, "has no 'rgb_mean'"),
        ("statistics.json", {"rgb_mean": MEAN[:2], "rgb_covariance": COVARIANCE}, "no mean and covariance of three"),
        ("statistics.json", {"rgb_mean": MEAN, "rgb_covariance": COVARIANCE[:2]}, "no mean and covariance of three"),
        ("statistics.json", {"rgb_mean": [1e300, 1, 1], "rgb_covariance": COVARIANCE}, "no mean and covariance"),
        ("statistics.json", {"rgb_mean": [float("nan")] * 3, "rgb_covariance": COVARIANCE}, "no mean and covariance"),
        ("statistics.json", {"rgb_mean": "abc", "rgb_covariance": COVARIANCE}, "rgb_mean is str instead of list"),
        ("statistics.json", {"rgb_mean": MEAN, "rgb_covariance": COVARIANCE, "bytes": ["x"]}, "bytes is list"),
        (
            "statistics.json",
            {"rgb_mean": MEAN, "rgb_covariance": COVARIANCE, "bytes": {"/etc/passwd": 1}},
            "set/passwd",
        ),
        ("prepare.json", {"listing": 7}, "listing is int instead of str"),
        ("prepare.json", {}, "has no 'listing'"),
    ],
)
def test_damaged_files_of_a_prepared_set(name, data, message, prepared, tmp_path):
    root = shutil.copytree(prepared / "set", tmp_path / "set")
    change(root / "statistics.json", lambda statistics: statistics["bytes"].clear())
    (root / name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    refused(message, root, "prepared")


@pytest.mark.parametrize("dataset", ["folder", "imagenet", "tfds:pictures", "prepared"])
@pytest.mark.parametrize("root", ["~nosuchuser/x", "n" * 300, "bytes\udcff", "a\0b", "loop", "file", "file/x", "pipe"])
def test_roots_that_cannot_be(dataset, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("loop").symlink_to("loop")
    pathlib.Path("file").write_text("")
    os.mkfifo("pipe")
    refused("dataset root|dataset 'tfds|cannot be read|no such user|zero byte", root, dataset)


@pytest.mark.parametrize("name", ["", "statistics.json", "features.json", "label.labels.txt", "mean_image.npy"])
def test_a_prepared_set_without_permission(name, prepared, reachable_path):
    root = shutil.copytree(prepared / "set", reachable_path / "set")
    (root / name).chmod(0)
    with bound_by_permissions(reachable_path):
        refused(f"{name or 'statistics.json'}: cannot be read .Permission denied", root, "prepared")
    (root / name).chmod(0o700)
