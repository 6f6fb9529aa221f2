"""What lies in a directory is recognised, or one line names what could be meant."""

import shutil

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import base, datasets
from alexnet_jax.data.class_names import imagenet_names
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import PNG, SIZE, prepare
from tests.support import bound_by_permissions

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


def test_several_sets_or_none_in_a_directory(tmp_path):
    root = mini.folder(tmp_path / "set")
    mini.imagenet2012(root)
    with pytest.raises(UserError, match="holds several data sets; name one: --dataset=folder or --dataset=imagenet"):
        prepare(root, tmp_path / "prepared")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data set is recognised in it .it holds nothing"):
        prepare(tmp_path / "empty", tmp_path / "prepared")
    with pytest.raises(UserError, match="but its directory set does .folder.; use .*/set"):
        prepare(tmp_path, tmp_path / "prepared")
    mini.write_tar(tmp_path / "imagenette.tgz", [("a/b.png", PNG)], "w:gz")
    with pytest.raises(UserError, match="no archive that is read in place; extract it"):
        prepare(tmp_path / "imagenette.tgz", tmp_path / "prepared")
    with pytest.raises(UserError, match="no such file or directory"):
        prepare(tmp_path / "nowhere", tmp_path / "prepared")


def test_class_folders_alone_are_undivided(tmp_path, caplog):
    """As in ImageNet-R. Folders with numbers, as in ImageNet-V2, are ImageNet's classes for a net that has these."""
    for number in range(1000):
        mini.write_file(tmp_path / str(number) / "a.png", PNG)
    dataset = datasets.find("auto", str(tmp_path))
    assert dataset.undivided and dataset.splits == ("train",)
    split = dataset.load("train", SIZE)
    assert split.class_names[:3] == ("0", "1", "10")  # sorted, as in torchvision
    ids = tuple(imagenet_names())
    relabelled = split.relabelled(ids)
    by_name = {name: label for name, label, _ in relabelled.listing}
    assert by_name["217/a.png"] == 217 and by_name["9/a.png"] == 9 and by_name["10/a.png"] == 10
    assert "classes with numbers as names are taken as ImageNet's" in caplog.text
    back = base.Split(split.source, ids).relabelled(split.class_names)  # a net that was trained on these folders
    assert {name: label for name, label, _ in back.listing}["1/a.png"] == split.class_names.index("1")


def test_a_directory_of_training_images_is_not_taken_for_others(tmp_path):
    root = mini.folder(tmp_path / "set")
    shutil.rmtree(root / "val")
    dataset = datasets.find("auto", str(root))
    assert not dataset.undivided
    with pytest.raises(UserError, match="no validation or test images to measure with"):
        dataset.held_out()


def test_what_cannot_be_read_beside_a_set_is_passed_over(reachable_path):
    root = mini.folder(reachable_path / "set")
    (root / "lost+found").mkdir(mode=0o000)
    with bound_by_permissions(reachable_path):
        assert datasets.recognise(str(root)) == "folder"
