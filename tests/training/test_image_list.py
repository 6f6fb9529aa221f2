"""Images that change under a run, or differ between its processes."""

import gzip
import logging
import os
import unicodedata

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from alexnet_jax import UserError, train
from alexnet_jax.data import datasets
from alexnet_jax.runtime import files
from alexnet_jax.training import image_list
from tests.runtime.test_processes import Processes
from tests.support import write_images


def test_a_run_goes_on_without_a_broken_image(config, tmp_path, caplog):
    config.num_epochs, config.save_every = 0.5, 1000
    train.train_and_evaluate(config, tmp_path / "run")
    victim = tmp_path / "images" / "train" / "class_1" / "003.png"
    victim.write_bytes(b"")
    config.num_epochs = 2.0
    with pytest.raises(UserError, match="class_1/003.png: not an image"):
        train.train_and_evaluate(config, tmp_path / "run")
    victim.unlink()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert train.train_and_evaluate(config, tmp_path / "run")["step"] == 6
    (record,) = caplog.records
    assert record.getMessage() == (
        "the images changed since this run last started (1 removed (train: class_1/003.png)); it goes on, with a new "
        "order of the training images"
    )


@pytest.fixture
def changes(tmp_path, caplog):
    """A folder of images, and a function that returns how the changes since its last call are called."""
    root, workdir = write_images(tmp_path / "images", {"train": (13, 13), "val": (5, 6)}), tmp_path / "run"
    workdir.mkdir()

    def found():
        lines = image_list.describe(datasets.load("folder", str(root), 64))
        caplog.clear()
        image_list.check_changes(lines, workdir)
        image_list.keep(lines, workdir)
        return [record.getMessage().partition(" last started ")[2] for record in caplog.records]

    assert found() == found() == []
    return root, found


def test_every_change_is_named(changes):
    root, found = changes
    first, order = root / "train" / "class_0" / "004.png", "it goes on, with a new order of the training images"
    whole = first.read_bytes()
    first.write_bytes(whole + b"x")
    assert found() == ["(1 replaced (train: class_0/004.png)); it goes on"]
    first.rename(root / "train" / "class_1" / "104.png")
    assert found() == ["(1 removed (train: class_0/004.png), 1 added (train: class_1/104.png)); " + order]
    (root / "train" / "class_1" / "104.png").rename(root / "train" / "class_0" / "104.png")
    assert found() == ["(1 moved (train: class_1/104.png to class_0/104.png)); " + order]
    (root / "val" / "class_0" / "000.png").unlink()
    (root / "val" / "class_1" / "000.png").unlink()
    assert found() == ["(2 removed (validation: class_0/000.png, validation: class_1/000.png)); it goes on"]
    write_images(root, {"test": (1, 4)})
    (message,) = found()
    assert message == "(5 added (test: class_0/000.png, test: class_1/000.png, test: class_1/001.png, …)); it goes on"
    assert found() == []


def test_a_run_does_not_go_on_with_other_images(changes):
    root, found = changes
    images = sorted((root / "train").glob("*/*.png"))
    for image in images[:13]:
        image.write_bytes(image.read_bytes() + b"x")
    assert "13 replaced" in found()[0]  # half of 26
    for image in images[:14]:
        image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(UserError, match=r"run was trained on other images \(14 replaced \(train: .*\)\); use a new"):
        found()


def test_of_few_images_one_may_change(tmp_path):
    image_list.keep("train\ta\tb\t1\n", tmp_path)
    image_list.check_changes("train\ta\tb\t2\n", tmp_path)


def test_images_with_nearly_equal_names_are_told_apart(changes):
    root, found = changes
    folder = root / "train" / "class_0"
    names = ["e\u0301.png", "\u00e9.png", "a\tb\n.png", r"a\tb\n.png"]
    for name in names:
        (folder / name).write_bytes((folder / "000.png").read_bytes())
    assert found()[0].startswith("(4 added ")
    for name in names:
        (folder / name).unlink()
        assert found()[0].startswith("(1 removed (train: class_0/")
    for i in range(2):
        (root / "train" / f"class_{i}" / "same.png").write_bytes(b"x")
    assert found()[0].startswith("(2 added (train: class_0/same.png, train: class_1/same.png))")


def test_a_run_that_has_taken_its_steps_ends_after_images_were_removed(config, tmp_path):
    config.num_epochs, config.save_every = 4.0, 11
    before = train.train_and_evaluate(config, tmp_path / "run")["step"]
    for name in ("002.png", "003.png"):
        (tmp_path / "images" / "train" / "class_1" / name).unlink()
    (tmp_path / "run" / "result.json").unlink()
    assert train.train_and_evaluate(config, tmp_path / "run")["step"] == before
    config.num_epochs = 2.0
    with pytest.raises(UserError, match="has taken .* already; use more"):
        train.train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize("lines", [None, b"", b"one\tfield\n", b"\xff"])
def test_a_damaged_list_is_named(lines, tmp_path):
    (tmp_path / image_list.NAME).write_bytes(b"text" if lines is None else gzip.compress(lines))
    with pytest.raises(UserError, match=r"images.tsv.gz: is not what training wrote \(.*\); restore or remove it"):
        image_list.check_changes("train\ta\tb\t1\n", tmp_path)


def test_a_list_of_endless_bytes_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_TEXT", 1000)
    (tmp_path / image_list.NAME).write_bytes(gzip.compress(bytes(100_000)))
    with pytest.raises(UserError, match=r"images.tsv.gz: is not what training wrote \(more than 1,024 bytes\)"):
        image_list.check_changes("train\ta\tb\t1\n", tmp_path)


def test_a_name_in_another_unicode_form_is_the_same_image_and_class(tmp_path):
    described = []
    for form in ("NFC", "NFD"):
        root = write_images(tmp_path / form, {"train": (1, 2), "val": (1, 1)})
        for split in ("train", "val"):
            (root / split / "class_0").rename(root / split / unicodedata.normalize(form, "café"))
        os.rename(
            root / "train" / unicodedata.normalize(form, "café") / "000.png",
            root / "train" / unicodedata.normalize(form, "café") / unicodedata.normalize(form, "é.png"),
        )
        data = datasets.load("folder", str(root), 64)
        assert data.class_names == ("café", "class_1")
        assert data.train[0][0].shape == (64, 64, 3)
        described.append(image_list.describe(data).replace(form, ""))
    assert described[0] == described[1]
    assert described[0].startswith("train\tcafé\t") and described[0].count("\n") == 5


def other_process(monkeypatch, data):
    """Makes the next gather of this process the second row after that of a process that sees `data`."""
    gathered = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        multihost_utils, "process_allgather", lambda x: gathered.append(x) or np.stack(gathered[:1] * 2)
    )
    image_list.check_same(image_list.describe(data), data)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack([gathered[0], x]))


def lose(root):
    (root / "train" / "class_0" / "002.png").unlink()


def rename(root):
    (root / "val" / "class_1" / "000.png").rename(root / "val" / "class_1" / "100.png")


def move(root):
    (root / "train" / "class_0" / "002.png").rename(root / "train" / "class_1" / "002.png")


def replace(root):
    (root / "train" / "class_0" / "002.png").write_bytes(b"x")


def rename_class(root):
    for split in ("train", "val"):
        (root / split / "class_1").rename(root / split / "class_2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lose,
            "process 1 sees 2 classes, 4 training, 2 validation and 2 test images, and process 0 sees 2 classes, 5 t",
        ),
        (rename, "process 1 sees names, classes or sizes, and process 0 sees others"),
        (move, "process 1 sees names, classes or sizes, and process 0 sees others"),
        (replace, "process 1 sees names, classes or sizes, and process 0 sees others"),
        (rename_class, "process 1 sees names, classes or sizes, and process 0 sees others"),
    ],
)
def test_processes_with_different_copies_of_the_data_end(change, message, tmp_path, monkeypatch):
    root = write_images(tmp_path, {"train": (3, 2), "val": (1, 1)})
    other_process(monkeypatch, datasets.load("folder", str(root), 64))
    change(root)
    data = datasets.load("folder", str(root), 64)
    with pytest.raises(UserError, match=f"config.dataset.root: {message}"):
        image_list.check_same(image_list.describe(data), data)


@pytest.mark.slow
@pytest.mark.parametrize("change", [lose, move, rename_class])
def test_both_processes_end_with_one_line_if_their_copies_differ(change, tmp_path):
    first, second = (write_images(tmp_path / name, {"train": (13, 13), "val": (5, 6)}) for name in ("first", "second"))
    change(second)
    run = Processes(tmp_path / "run", first, 2, 1, different=(f"--config.dataset.root={second}",))
    assert run.wait(100) == [1, 1]
    for log in run.logs():
        assert log.splitlines()[-1].startswith("alexnet_jax: config.dataset.root: process 1 sees "), log
        assert "Traceback" not in log
    assert not (tmp_path / "run" / "checkpoints").exists()
