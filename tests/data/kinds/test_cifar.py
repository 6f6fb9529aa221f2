"""CIFAR: what is odd or broken in its files is read right, or ends with one line that names it."""

import gzip
import pickle
import tarfile

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.imagenet_archives import add
from tests.fixtures.miniature_sets import CLASSES, SIZE, prepare, truncate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


BATCH = "cifar-10-batches-py/data_batch_3"


def repickled(name, change):
    def change_file(root):
        contents = pickle.loads((root / name).read_bytes())
        change(contents)
        (root / name).write_bytes(pickle.dumps(contents, protocol=2))

    return change_file


class Evil:
    def __reduce__(self):
        return open, ("evil", "w")


CIFAR = {
    "a missing batch": (lambda root: (root / BATCH).unlink(), "data_batch_3: cannot be read .No such file"),
    "a truncated batch": (lambda root: truncate(root / BATCH, 5000), "data_batch_3: cannot be read .*; download it"),
    "a pickle that runs code": (
        lambda root: (root / BATCH).write_bytes(pickle.dumps({"data": Evil()})),
        "data_batch_3: cannot be read .it asks for .*open",
    ),
    "no dict": (lambda root: (root / BATCH).write_bytes(pickle.dumps([1])), "data_batch_3: cannot be read "),
    "a label that is no class": (
        repickled(BATCH, lambda x: x.update(labels=[0, 3])),
        "data_batch_3: has a label that is no class",
    ),
    "a negative label": (repickled(BATCH, lambda x: x.update(labels=[0, -1])), "has a label that is no class"),
    "fewer labels": (repickled(BATCH, lambda x: x.update(labels=[0])), "data_batch_3: is not images of 32 pixels"),
    "fewer names": (repickled(BATCH, lambda x: x.update(filenames=["a"])), "data_batch_3: is not images of 32 pixels"),
    "other arrays": (
        repickled(BATCH, lambda x: x.update(data=np.zeros((2, 3072), np.float32))),
        "data_batch_3: cannot be read .an array of f4, not of u1",
    ),
    "other sizes": (
        repickled(BATCH, lambda x: x.update(data=np.zeros((2, 784), np.uint8))),
        "data_batch_3: is not images of 32 pixels",
    ),
    "no class names": (
        repickled("cifar-10-batches-py/batches.meta", lambda x: x.pop("label_names")),
        "batches.meta: holds no names of classes",
    ),
}


@pytest.mark.parametrize("case", CIFAR)
def test_cifar(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, message = CIFAR[case]
    root = mini.cifar10_python(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared")
    assert not (tmp_path / "evil").exists()


def test_a_binary_file_of_another_length(tmp_path):
    root = mini.cifar100_binary(tmp_path / "set")
    truncate(root / "cifar-100-binary" / "train.bin", 3075)
    with pytest.raises(UserError, match="train.bin: is not whole images of 3074 bytes"):
        prepare(root, tmp_path / "prepared")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_truncated_archive_of_cifar(tmp_path, part):
    path = mini.cifar10_archive(tmp_path / "set")
    truncate(path, int(part * path.stat().st_size))
    with pytest.raises(UserError, match="python.tar.gz: not a complete archive .*; download it again"):
        prepare(path, tmp_path / "prepared")


def test_an_archive_of_cifar_without_a_batch_or_with_a_huge_one(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    mini.write_tar(path, [("cifar-10-batches-py/batches.meta", b"")], "w:gz")
    with pytest.raises(UserError, match="holds no cifar-10-batches-py/data_batch_1"):
        prepare(path, tmp_path / "prepared")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "cifar-10-batches-py/batches.meta", bytes(2**20))
    monkeypatch.setattr("alexnet_jax.data.kinds.cifar.MOST_BATCH", 2**16)
    with pytest.raises(UserError, match="batches.meta' is there twice, or has 1,048,576 bytes"):
        prepare(path, tmp_path / "prepared")
    monkeypatch.setattr("alexnet_jax.data.archives.RECORD", 2**16)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "cifar-10-batches-py/other", bytes(2**22))
    with pytest.raises(UserError, match="not a complete archive .it unpacks to too many bytes"):
        prepare(path, tmp_path / "prepared")


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_with_bytes_as_python_2_had_them(tmp_path, protocol, caplog):
    for name, contents in mini.cifar10_batches().items():
        contents = {
            key.encode(): [x.encode() if isinstance(x, str) else x for x in value] if isinstance(value, list) else value
            for key, value in contents.items()
        }
        mini.write_file(tmp_path / name, pickle.dumps(contents, protocol))
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == CLASSES
    assert (split.source[4][0] == mini.IMAGES["train"][4][2]).all() and split.source[4][1] == 1
    assert split.source.name(4) == "n02102040_1.JPEG"
    assert "holds 9 train images, but CIFAR has 50000" in caplog.text


def test_an_archive_that_a_browser_renamed_or_unpacked(tmp_path):
    path = mini.cifar10_archive(tmp_path / "set")
    for name, data in (
        ("cifar-10-python (1).tar.gz", path.read_bytes()),
        ("cifar-10-python.tar", gzip.decompress(path.read_bytes())),
    ):
        (tmp_path / name).write_bytes(data)
        assert len(datasets.load("auto", str(tmp_path / name), SIZE).train) == 9


def test_headers_of_an_archive_are_bounded(tmp_path):
    """A few compressed bytes can be a header of gigabytes."""
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 2**20}) as archive:
        add(archive, "cifar-10-batches-py/batches.meta", b"")
    with pytest.raises(UserError, match="python.tar.gz: not a complete archive .a header of 10"):
        prepare(path, tmp_path / "prepared")
