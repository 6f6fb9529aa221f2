"""Files of data sets that change while they are read."""

import os
import shutil

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets, preparation
from alexnet_jax.data.kinds import textures
from tests.fixtures import imagenet_archives
from tests.support import write_images


def change(path, how):
    """Changes a file as others may do while it is in use."""
    data = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "overwritten":  # by as many bytes
        path.write_bytes(data[::-1])
    elif how == "replaced":
        path.with_name("other").write_bytes(data[::-1])
        path.with_name("other").replace(path)
    else:
        os.truncate(path, {"shorter": len(data) - 1, "empty": 0, "longer": len(data) + 100}[how])


HOW = ["removed", "overwritten", "replaced", "shorter", "empty", "longer"]
CHANGED = "(has changed since it was opened|cannot be read .No such file or directory.)"


@pytest.mark.parametrize("how", HOW)
def test_textures_that_change_while_they_are_read_are_named(how, few_textures, tmp_path):
    source = datasets.load("textures", str(tmp_path / "a"), 128).train
    assert (source[38][0] == textures.draw("train", 38)).all()
    change(tmp_path / "a" / "train.npy", how)
    for i in (0, 39):
        with pytest.raises(
            UserError, match=rf"a/train.npy: {CHANGED}; set config.dataset.root to a new directory, and"
        ):
            source[i]


def test_another_array_of_the_same_length_is_not_taken_for_the_first(few_textures, tmp_path):
    source = datasets.load("textures", str(tmp_path / "a"), 128).train
    path = tmp_path / "a" / "train.npy"
    same = path.stat().st_size
    np.save(path, np.load(path)[::-1])
    assert path.stat().st_size == same
    with pytest.raises(UserError, match="a/train.npy: has changed"):
        source[0]


@pytest.mark.parametrize("how", HOW)
def test_an_archive_that_changes_while_it_is_read_is_named(how, tmp_path):
    root = imagenet_archives.write_archives(tmp_path)
    source, _ = datasets.find("imagenet", str(root)).load("validation", 64)
    assert len(source.read(0)[0]) == source.members[0][1]
    change(root / "ILSVRC2012_img_val.tar", how)
    with pytest.raises(UserError, match=f"ILSVRC2012_img_val.tar: {CHANGED}; restore it$"):
        source.read(0)


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory):
    """A prepared set of six training images, two a shard."""
    root = tmp_path_factory.mktemp("prepared")
    folder = write_images(root / "images", {"train": (3, 3), "val": (1, 1)}, size=20)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(preparation, "IMAGES_PER_SHARD", 2)
        preparation.prepare("folder", str(folder), root / "set", size=16, workers=1)
    return root / "set"


def shard(root, number):
    (path,) = root.glob(f"*-train.array_record-0000{number}-of-00003")
    return path


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_a_shard_that_changes_while_it_is_read_is_named(how, opened, three_shards, tmp_path):
    root = shutil.copytree(three_shards, tmp_path / "set")
    images = [image for image, _ in datasets.load("prepared", str(three_shards), 16).train]
    source = datasets.load("prepared", str(root), 16).train
    slices = datasets.find("prepared", str(root))
    some = slices.load("train[1:4]", 16).source
    if opened:
        assert all((source[i][0] == images[i]).all() for i in range(6))
        assert all((some[i][0] == images[1 + i]).all() for i in range(3))
    change(shard(root, 1), how)
    for images_of, i in ((source, 2), (source, 3), (some, 1), (some, 2)):
        with pytest.raises(UserError, match=f"{shard(three_shards, 1).name}: {CHANGED}; prepare the set again"):
            images_of[i]
    for images_of, i, same in ((source, 0, 0), (source, 1, 1), (source, 4, 4), (source, 5, 5), (some, 0, 1)):
        assert (images_of[i][0] == images[same]).all()


@pytest.mark.parametrize("opened", [True, False])
def test_another_shard_of_the_same_length_is_not_taken_for_the_first(opened, three_shards, tmp_path):
    """ArrayRecord pads shards to 64 kB, so that those of small images have one length, and their records are sound."""
    root = shutil.copytree(three_shards, tmp_path / "set")
    source = datasets.load("prepared", str(root), 16).train
    if opened:
        source[2]
    assert shard(root, 0).stat().st_size == shard(root, 1).stat().st_size
    shutil.copyfile(shard(root, 0), shard(root, 1))
    with pytest.raises(UserError, match="00001-of-00003: has changed since it was opened; prepare the set again"):
        source[2]
