"""Images set aside for validation: the same in any order, and said."""

import json
import shutil

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets, views
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import CLASSES, SIZE, prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


def without_validation(root):
    mini.folder(root)
    shutil.rmtree(root / "val")
    return root


def test_held_out_images_depend_on_their_names_alone(tmp_path, capsys):
    root = without_validation(tmp_path / "set")
    prepare(root, tmp_path / "prepared", holdout=0.4)
    assert "set aside 3 training images for validation, by a hash of their names" in capsys.readouterr().out
    assert json.loads((tmp_path / "prepared" / "prepare.json").read_text())["holdout"] == 0.4
    source, _ = datasets.find("folder", str(root)).load("train", SIZE)
    names = {name for name, _ in views.hold_out(source, 0.4, CLASSES)[1].labels_by_name}
    assert sorted(name.partition("/")[0] for name in names) == list(CLASSES)
    backwards = views.SelectedSource(source, range(len(source))[::-1])
    train, held_out = views.hold_out(backwards, 0.4, CLASSES)
    assert {name for name, _ in held_out.labels_by_name} == names
    assert len(train) == 6 and {train[i][1] for i in range(6)} == {0, 1, 2}
    train, held_out = views.hold_out(source, 0.99, CLASSES)
    assert len(train) == 3 and len(held_out) == 6  # a class keeps an image to train on
    with pytest.raises(UserError, match="holds a set from other images"):
        prepare(root, tmp_path / "prepared", holdout=0.7)
    prepare(root, tmp_path / "prepared", holdout=0.4)
    assert "is complete already" in capsys.readouterr().out


def test_images_that_cannot_be_set_aside(tmp_path):
    root = without_validation(tmp_path / "set")
    with pytest.raises(UserError, match="no validation or test images to measure with, only train; .*--holdout=0.1"):
        prepare(root, tmp_path / "prepared")
    for name in sorted((root / "train" / CLASSES[0]).iterdir())[1:]:
        name.unlink()
    with pytest.raises(UserError, match="n01440764_0.JPEG: is the only image of the class 'n01440764'"):
        prepare(root, tmp_path / "prepared", holdout=0.1)
    with pytest.raises(UserError, match="--holdout=0.1: .*other has validation images already"):
        prepare(mini.folder(tmp_path / "other"), tmp_path / "prepared", holdout=0.1)
