"""Outputs of `prepare` that hold links, damaged files or the user's own: nothing elsewhere is written or lost."""

import io
import multiprocessing
import os
import pathlib
import shutil

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets, preparation, shards
from tests.fixtures.prepare_runs import checksums
from tests.support import bound_by_permissions, write_images


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The directory of a folder of images, beside its prepared set `set`."""
    root = tmp_path_factory.mktemp("prepared")
    folder = write_images(root / "images", {"train": (3, 2), "val": (1, 1)}, size=20)
    preparation.prepare("folder", str(folder), root / "set", size=16, workers=1)
    return root


@pytest.fixture
def in_this_process(monkeypatch):
    """Shards are made without worker processes, which take seconds to start."""
    monkeypatch.setattr(shards, "_counters", multiprocessing.Array("q", 3), raising=False)
    monkeypatch.setattr(preparation, "run", lambda plan, *_: [shards.make_shard(shard) for shard in plan])


OUTPUTS = (
    "prepare.json",
    "undecodable.tsv",
    "mean_image.npy",
    "dataset_info.json",
    "features.json",
    "label.labels.txt",
    "folder_16-train.array_record-00000-of-00001",
    "folder_16-validation.array_record-00000-of-00001",
    ".prepare/train-00000.npz",
)


@pytest.mark.parametrize("what", ["link", "hard link"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_links_in_the_output_are_replaced_and_not_followed(name, what, prepared, tmp_path, in_this_process):
    output, mine = shutil.copytree(prepared / "set", tmp_path / "set"), tmp_path / "mine"
    (output / "statistics.json").unlink()
    (output / ".prepare").mkdir()
    mine.write_bytes((output / "prepare.json").read_bytes())
    before = mine.read_bytes()
    (output / name).unlink(missing_ok=True)
    (output / name).symlink_to(mine) if what == "link" else (output / name).hardlink_to(mine)
    preparation.prepare("folder", str(prepared / "images"), output, size=16, workers=1)
    assert mine.read_bytes() == before and not (output / name).is_symlink()
    assert checksums(output) == checksums(prepared / "set")


@pytest.mark.parametrize("name", [".prepare", ".prepare/lock", "statistics.json", "undecodable.tsv"])
def test_links_that_cannot_be_replaced_are_refused(name, prepared, tmp_path, in_this_process, monkeypatch):
    output, mine = shutil.copytree(prepared / "set", tmp_path / "set"), tmp_path / "mine"
    (output / "statistics.json").unlink()
    if name == ".prepare":
        mine.mkdir()
        (mine / "thesis.tmp").write_text("mine")
    else:
        (output / ".prepare").mkdir()
        mine.write_text("mine")
    (output / name).unlink(missing_ok=True)
    if name == "undecodable.tsv":  # a link that appears while workers append to the file
        monkeypatch.setattr(shards.images, "encode", fail)
        monkeypatch.setattr(
            preparation, "run", lambda plan, *_: [replace(output / name, mine), *map(shards.make_shard, plan)]
        )
    else:
        (output / name).symlink_to(mine)
    with pytest.raises(UserError, match=f"{name}: (is a link|cannot be written .is a link|is not what this program)"):
        preparation.prepare("folder", str(prepared / "images"), output, size=16, workers=1, max_undecodable=1)
    assert (mine / "thesis.tmp" if name == ".prepare" else mine).read_text() == "mine"


def fail(*_, **__):
    raise UserError("not an image")


def replace(path, target):
    path.unlink()
    path.symlink_to(target)


def test_leftovers_of_killed_runs_are_removed_and_nothing_else(prepared, tmp_path, in_this_process):
    output = shutil.copytree(prepared / "set", tmp_path / "set")
    (output / "statistics.json").unlink()
    (output / ".prepare" / "tmpdirectory").mkdir(parents=True)
    for name in (".prepare/train-00000-123.tmp", ".prepare/.alexnet_jax-0123", ".alexnet_jax-4567"):
        (output / name).write_text("")
    others = ("notes.txt", "folder_16-train.array_record-00000-of-00001.tmp", "other-train.array_record-00000-of-00001")
    for name in others:
        (output / name).write_text("mine")
    preparation.prepare("folder", str(prepared / "images"), output, size=16, workers=1)
    assert {path.name for path in output.iterdir()} - set(checksums(prepared / "set")) == set(others)
    for name in others:
        (output / name).unlink()  # belongs to the user, so the set does not need it
    assert checksums(output) == checksums(prepared / "set")
    datasets.load("prepared", str(output), 16)


def summary(**arrays):
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def array_file(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def compressed(**arrays):
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def unfinished(prepared, tmp_path, monkeypatch):
    """The directory of a set of which only the last step is missing."""
    with monkeypatch.context() as stopped:
        stopped.setattr(preparation, "finish", lambda *_: None)
        preparation.prepare("folder", str(prepared / "images"), tmp_path / "set", size=16, workers=1)
    return tmp_path / "set"


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: b"",
        lambda whole: b"[" * 100_000,
        lambda whole: summary(**whole)[:-30],
        lambda whole: compressed(**whole),
        lambda whole: summary(**whole | {"count": np.zeros(2, int)}),
        lambda whole: summary(**whole | {"count": np.array("x")}),
        lambda whole: array_file(np.zeros(3)),
        lambda whole: summary(bytes_on_disk=whole["bytes_on_disk"]),
        lambda whole: summary(**whole | {"bytes_on_disk": np.array({}, object)}),
    ],
)
def test_a_damaged_summary_is_made_again(change, prepared, tmp_path, in_this_process, monkeypatch):
    output = unfinished(prepared, tmp_path, monkeypatch)
    path = output / ".prepare" / "train-00000.npz"
    path.write_bytes(change(dict(np.load(path))))
    preparation.prepare("folder", str(prepared / "images"), output, size=16, workers=1)
    assert checksums(output) == checksums(prepared / "set")


@pytest.mark.parametrize(
    ("name", "value"), [("total", np.ones((1, 1, 3), np.uint32)), ("products", np.ones(3, np.int64))]
)
def test_sums_of_another_shape_are_not_broadcast(name, value, prepared, tmp_path, in_this_process, monkeypatch):
    output = unfinished(prepared, tmp_path, monkeypatch)
    path = output / ".prepare" / "train-00000.npz"
    path.write_bytes(summary(**dict(np.load(path)) | {name: value}))
    with pytest.raises(UserError, match=f"train-00000.npz: is not the summary of a shard .{name} is .*; remove it"):
        preparation.prepare("folder", str(prepared / "images"), output, size=16, workers=1)
    path.unlink()
    preparation.prepare("folder", str(prepared / "images"), output, size=16, workers=1)
    assert checksums(output) == checksums(prepared / "set")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("~nosuchuser/x", "there is no such user"),
        ("n" * 300, "File name too long"),
        ("bytes\udcff", "its name is not UTF-8"),
        ("a\0b", "zero byte"),
        ("/dev/null", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("images/x", "is inside --root"),
        ("pipe", "cannot be written .Not a directory"),
    ],
)
def test_outputs_that_cannot_be(output, message, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared / "images", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    pathlib.Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=message) as error:
        preparation.prepare("folder", "images", output, size=16, workers=1)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("output", ["", "below"])
def test_an_output_without_permission(output, prepared, reachable_path):
    images, closed = shutil.copytree(prepared / "images", reachable_path / "images"), reachable_path / "closed"
    closed.mkdir(0o555)
    with (
        bound_by_permissions(reachable_path),
        pytest.raises(UserError, match="--output=.*: cannot be written .Permission denied"),
    ):
        preparation.prepare("folder", str(images), closed / output, size=16, workers=1)
