"""What lies in a directory is recognised, or one line names what could be meant."""

import shutil

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import PNG, SIZE, prepare

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


def test_class_folders_alone_are_one_split(tmp_path):
    """As in ImageNet-R; folders with numbers, as in ImageNet-V2, are in the order of the numbers."""
    for number in range(1000):
        mini.write_file(tmp_path / str(number) / "a.png", PNG)
    dataset = datasets.find("auto", str(tmp_path))
    assert dataset.splits == ("train",)
    split = dataset.load("train", SIZE)
    assert split.class_names[217] == "n02102040"
    by_name = {name: label for name, label, _ in split.source.listing}
    assert by_name["217/a.png"] == 217 and by_name["9/a.png"] == 9
    shutil.rmtree(tmp_path / "999")
    assert dataset.load("train", SIZE).class_names[10:12] == ("10", "11")
