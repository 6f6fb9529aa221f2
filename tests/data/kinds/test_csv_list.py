"""CSV files: in any order and form, or one line that names what is wrong."""

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import PNG, SIZE, prepare

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


def csv_of(text):
    def write(root):
        for name in ("a.png", "b.png", "ä b.png", "c.png"):
            mini.write_file(root / name, PNG)
        (root / "list.csv").write_bytes(text.encode() if isinstance(text, str) else text)
        return root / "list.csv"

    return write


CSV = {
    "no header": ("a.png,dog\n", "has the columns 'a.png,dog'; its first line must name the columns path,label"),
    "an unknown column": ("path,label,weight\na.png,dog,1\n", "has the columns 'path,label,weight'"),
    "an empty file": ("", "has the columns ''"),
    "no lines": ("path,label\n", "lists no images"),
    "too many fields": ("path,label\na.png,dog,brown\n", "line 2: has 3 fields instead of 2; put texts with commas"),
    "a missing file": ("path,label\nno.png,dog\nnot.png,dog\n", "line 2: there is no file .*no.png', and 1 more"),
    "no path": ("path,label\n,dog\n", "line 2: there is no file"),
    "no label": ("path,label\na.png, \n", "line 2: a class name is empty"),
    "the label -1": ("path,label\na.png,-1\n", "line 2: has the label -1, which is none"),
    "a number of 5000 digits": (f"path,label\na.png,{'1' * 5000}\nb.png,2\n", "no validation or test images"),
    "an unknown split": (
        "path,label,split\na.png,dog,extra\n",
        "line 2: has the split 'extra'; use train, val or test",
    ),
    "an image twice": ("path,label\na.png,dog\nb.png,dog\n./a.png,cat\n", "line 4: lists 'a.png' again, after line 2"),
    "an image twice by its whole path": (
        "path,label\na.png,dog\nROOT/a.png,cat\n",
        "line 3: lists .* again, after line 2",
    ),
    "a directory": ("path,label\n.,dog\n", "line 2: there is no file"),
    "another encoding": ("path,label\nä.png,dog\n".encode("latin1"), "list.csv: cannot be read .not text in UTF-8"),
    "an open quote": ('path,label\na.png,"dog\n', "list.csv, line 2: is not CSV .unexpected end of data"),
    "no validation images": ("path,label\na.png,dog\nb.png,cat\n", "no validation or test .*--holdout=0.1"),
    "a class that train lacks": (
        "path,label,split\na.png,dog,train\nb.png,cat,val\n",
        "1 of its classes .cat. are not among the 1 of the training images",
    ),
}


@pytest.mark.parametrize("case", CSV)
def test_csv_files(tmp_path, case):
    text, message = CSV[case]
    path = csv_of(text.replace("ROOT", str(tmp_path)) if isinstance(text, str) else text)(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare("", tmp_path / "prepared", f"csv:{path}")


def test_a_csv_file_in_any_order_with_spaces_and_capital_letters(tmp_path):
    lines = ["split, Label ,PATH", "Val, green frog ,c.png", "", "TRAIN,10,b.png", "train,9,a.png"]
    path = csv_of("\r\n".join([*lines, "train,green frog,ä b.png", ""]))(tmp_path)
    data = datasets.load(f"csv:{path}", "", SIZE)
    assert data.class_names == ("10", "9", "green frog")
    assert [(name, label) for name, label, _ in data.train.listing] == [("a.png", 1), ("b.png", 0), ("ä b.png", 2)]
    assert [(name, label) for name, label, _ in data.validation.listing] == [("c.png", 2)]


def test_the_name_of_a_csv_file_does_not_depend_on_the_directory(tmp_path, monkeypatch):
    """A run records it, and is evaluated from anywhere."""
    csv_of("path,label\na.png,dog\n")(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset = datasets.find("csv:list.csv", "")
    assert dataset.name == f"csv:{tmp_path / 'list.csv'}" and dataset.recorded_name == "csv"
    monkeypatch.chdir("/")
    assert len(dataset.load("train", SIZE).source) == 1
