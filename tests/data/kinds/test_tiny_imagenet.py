"""Tiny ImageNet: what is odd or broken in it is read right, or ends with one line that names it."""

import shutil

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import CLASSES, SIZE, edit, prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


ANNOTATIONS = "val/val_annotations.txt"
TINY = {
    "an image without a label": (
        lambda root: edit(root / ANNOTATIONS, b"ILSVRC2012_val_00000293", b"other"),
        "val_annotations.txt: has no label for 1 images, as 'ILSVRC2012_val_00000293.JPEG'",
    ),
    "a class that train lacks": (
        lambda root: (shutil.rmtree(root / "train" / CLASSES[1]), (root / "wnids.txt").unlink()),
        "val_annotations.txt: 'n02102040' is not a class of the training images",
    ),
    "a class that is missing": (
        lambda root: shutil.rmtree(root / "train" / CLASSES[1]),
        "train: 1 of the classes in wnids.txt are missing .n02102040.",
    ),
    "other labels": (
        lambda root: (root / ANNOTATIONS).write_text("a.JPEG n01440764\n"),
        "is not lines of a file name, a class and a box",
    ),
    "no training images": (lambda root: shutil.rmtree(root / "train"), "no directory train"),
    "no images in a class": (
        lambda root: shutil.rmtree(root / "train" / CLASSES[0] / "images"),
        "n01440764/images: cannot be read .No such file",
    ),
}


@pytest.mark.parametrize("case", TINY)
def test_tiny_imagenet(tmp_path, case):
    change, message = TINY[case]
    root = mini.tiny_imagenet(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared", "tiny_imagenet")


def test_tiny_imagenet_with_the_line_ends_of_windows(tmp_path):
    root = mini.tiny_imagenet(tmp_path / "set")
    edit(root / ANNOTATIONS, b"\n", b"\r\n")
    assert datasets.load("auto", str(root), SIZE).validation[1][1] == 1
    assert datasets.find("auto", str(root)).prepared_size == 64


def test_missing_images_are_counted(tmp_path, caplog):
    root = mini.tiny_imagenet(tmp_path / "set")
    (root / "val" / "images" / "ILSVRC2012_val_00000293.JPEG").unlink()
    assert len(datasets.load("auto", str(root), SIZE).validation) == 2
    assert "images: 1 of the images that val_annotations.txt lists are missing" in caplog.text
