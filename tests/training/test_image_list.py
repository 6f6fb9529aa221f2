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
from alexnet_jax.training import image_list
from tests.runtime.test_processes import Processes
from tests.support import write_images


@pytest.fixture
def run(config, tmp_path):
    """Trains for another half epoch, and returns what the folder's changes are called."""
    config.num_epochs, config.save_every = 0.0, 1000

    def go_on(caplog, epochs=0.5):
        config.num_epochs += epochs
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train.train_and_evaluate(config, tmp_path / "run")
        return "\n".join(record.getMessage() for record in caplog.records)

    return go_on


def test_a_run_goes_on_without_a_broken_image_and_with_another_in_its_place(run, tmp_path, caplog):
    images, order = tmp_path / "images" / "train", "it goes on, with a new order of the training images"
    (images / "class_1" / "004.png").unlink()
    assert run(caplog) == "" and run(caplog) == ""
    victim, other = images / "class_1" / "003.png", images / "class_0" / "004.png"
    victim.write_bytes(b"")
    with pytest.raises(UserError, match="class_1/003.png: not an image"):
        run(caplog, epochs=1.5)
    victim.unlink()
    assert run(caplog) == (
        "the images changed since this run last started (1 removed (train: class_1/003.png)); " + order
    )
    other.write_bytes(other.read_bytes() + b"\0")
    assert run(caplog) == (
        "the images changed since this run last started (1 replaced (train: class_0/004.png)); it goes on"
    )
    other.rename(images / "class_1" / other.name)
    assert run(caplog) == (
        "the images changed since this run last started (1 moved (train: class_0/004.png to class_1/004.png)); " + order
    )
    assert run(caplog) == ""


def test_a_run_does_not_go_on_with_other_images(run, tmp_path, caplog):
    run(caplog)
    for i in range(3):
        (tmp_path / "images" / "train" / "class_0" / f"00{i}.png").unlink()
    with pytest.raises(UserError, match=r"was trained on other images \(3 removed \(train: .*002.png\)\); use a new"):
        run(caplog)


@pytest.mark.parametrize("lines", [None, b"", b"one\tfield\n", b"\xff"])
def test_a_damaged_list_is_named(lines, tmp_path):
    (tmp_path / image_list.NAME).write_bytes(b"text" if lines is None else gzip.compress(lines))
    with pytest.raises(UserError, match=r"images.tsv.gz: is not what training wrote \(.*\); restore or remove it"):
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
