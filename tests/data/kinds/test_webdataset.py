"""WebDataset: what is odd or broken in its shards is read right, or ends with one line that names it."""

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import PNG, SIZE, prepare, truncate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


SHARD = "mini-train-000000.tar"


def with_members(*members):
    return lambda root: mini.write_tar(root / SHARD, [*mini.samples("train")[:6], *members])


WEBDATASET = {
    "missing shards": (
        lambda root: (root / SHARD).rename(root / "mini-train-000005.tar"),
        "4 of the 6 files mini-train-..tar are missing .000000, 000002, 000003, ….; download them",
    ),
    "the first shard": (lambda root: (root / SHARD).unlink(), "1 of the 2 files mini-train-..tar are missing .000000."),
    "all but the last": (
        lambda root: ((root / SHARD).unlink(), (root / "mini-train-000001.tar").rename(root / "mini-train-000017.tar")),
        "17 of the 18 files mini-train-..tar are missing",
    ),
    "a label of 5000 digits": (with_members(("a.png", PNG), ("a.cls", b"1" * 5000)), "'a.cls' is not a label"),
    "a number with two names": (
        with_members(
            *(("a.png", PNG), ("a.cls", b"1"), ("a.json", b'{"label": "dog"}')),
            *(("b.png", PNG), ("b.cls", b"1"), ("b.json", b'{"label": "cat"}')),
        ),
        "the sample '.' has two labels, '...' and '1'",
    ),
    "numbers and names": (
        lambda root: ((root / "classnames.txt").unlink(), with_members(("a.png", PNG), ("a.cls", b"dog"))(root)),
        "train has numbers and names as labels",
    ),
    "a key with two images": (
        with_members(("a.png", PNG), ("a.jpg", PNG), ("a.cls", b"1")),
        "mini-train-000000.tar: the sample 'a' has two images",
    ),
    "two images by parts of their names": (
        with_members(("a.left.png", PNG), ("a.right.png", PNG), ("a.cls", b"1")),
        "the sample 'a' has two images",
    ),
    "an image without a label": (with_members(("a.png", PNG)), "1 samples have no label .*, as 'a'"),
    "a label without an image": (with_members(("a.cls", b"1")), "1 samples have no image, as 'a'"),
    "a .json without a label": (
        with_members(("a.png", PNG), ("a.json", b'{"text": "dog"}')),
        "1 samples have no label",
    ),
    "a broken .json": (with_members(("a.png", PNG), ("a.json", b'{"label": ')), "'a.json' is not a label"),
    "a list as a label": (with_members(("a.png", PNG), ("a.json", b'{"label": [1]}')), "'a.json' is not a label"),
    "label -1": (with_members(("a.png", PNG), ("a.cls", b"-1")), "'a.cls' is not a label .'-1'"),
    "a label too large": (
        with_members(("a.png", PNG), ("a.cls", b"3")),
        "the label '3', which is none of the 3 names",
    ),
    "two labels": (
        with_members(("a.png", PNG), ("a.cls", b"1"), ("a.json", b'{"label": 2}')),
        "the sample 'a' has two labels, '1' and '2'",
    ),
    "a truncated shard": (lambda root: truncate(root / SHARD, 3000), "000000.tar: not a complete archive"),
    "a compressed shard": (
        lambda root: mini.compressed(root / SHARD).rename(root / SHARD),
        "000000.tar: is compressed by gzip; decompress it",
    ),
    "an empty line": (lambda root: (root / "classnames.txt").write_text("a\n\nb\nc\n"), "or an empty line"),
    "a listed shard": (
        lambda root: (root / "_info.json").write_text(
            '{"splits": {"train": {"filenames": ["mini-train-000002.tar"]}}}'
        ),
        "_info.json: lists 1 shards, of which 1 are missing .mini-train-000002.tar.",
    ),
    "class names twice": (lambda root: (root / "classnames.txt").write_text("a\na\n"), "classnames.txt: holds a name"),
}


@pytest.mark.parametrize("case", WEBDATASET)
def test_webdataset(tmp_path, case):
    change, message = WEBDATASET[case]
    root = mini.webdataset(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared", "webdataset")


def test_samples_in_folders_with_names_as_labels(tmp_path):
    """Labels are names, with a line break at the end; keys are paths; and there are captions and other fields."""
    for split, names in (("train", ("dog", "grüner Frosch")), ("val", ("grüner Frosch",))):
        members = []
        for i, name in enumerate(names):
            key = f"part/{i}"
            members += [(f"{key}.CLS", f"{name}\r\n".encode()), (f"{key}.txt", b"a photograph"), (f"{key}.PNG", PNG)]
        mini.write_tar(tmp_path / split / "0001.tar", members)
    data = datasets.load("auto", str(tmp_path), SIZE)
    assert data.class_names == ("dog", "grüner Frosch") and data.validation[0][1] == 1
    assert [name for name, *_ in data.train.listing] == ["0001.tar/part/0.PNG", "0001.tar/part/1.PNG"]


def test_a_number_with_its_name(tmp_path, caplog):
    """In .cls and .json of one sample; and shards that belong to no split are named."""
    members = [("a.png", PNG), ("a.cls", b"1"), ("a.json", b'{"label": "dog"}'), ("b.png", PNG), ("b.cls", b"0")]
    mini.write_tar(tmp_path / "train" / "1.tar", members)
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == ("0", "1") and [split.source[i][1] for i in range(2)] == [1, 0]
    assert "the numbers of its files begin with 1; is 0 missing?" in caplog.text
    (tmp_path / "train" / "classnames.txt").write_text("cat\ndog\n")
    (tmp_path / "train" / "2.tar.gz").write_bytes(b"")
    assert datasets.find("auto", str(tmp_path)).load("train", SIZE).class_names == ("cat", "dog")
    assert "1 files are not used: train/2.tar.gz" in caplog.text


def test_shards_without_a_split(tmp_path, caplog):
    mini.write_tar(tmp_path / "photos-0000.tar", mini.samples("train"))
    assert datasets.find("auto", str(tmp_path)).splits == ("train",)
    mini.write_tar(tmp_path / "photos-val-0000.tar", mini.samples("validation"))
    assert datasets.find("auto", str(tmp_path)).splits == ("validation",)
    assert "1 files are not used: photos-0000.tar" in caplog.text
