"""Tables of Hugging Face: what is odd or broken in them is read right, or ends with one line that names it."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import CLASSES, SIZE, edit, parquet_rows, prepare, truncate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


LARGE = pa.array([2**63], pa.uint64())
NOTHING = pa.nulls(10**6, pa.binary())
BOTH = "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"
TRAIN, VALIDATION = "data/train-00000-of-00002.parquet", "data/validation-00000-of-00001.parquet"


def all_of(split, **fields):
    return [row | fields for row in mini.rows(split)]


HUGGING_FACE = {
    "a missing shard": (lambda root: (root / TRAIN).unlink(), "1 of the 2 files train-..parquet are missing .00000"),
    "a shard too many": (
        lambda root: shutil.copy(root / TRAIN, root / "data/train-00005-of-00002.parquet"),
        "has the number 5, but there are 2; remove it",
    ),
    "two versions": (
        lambda root: shutil.copy(root / TRAIN, root / "data/train-00000-of-00002-abcdef.parquet"),
        "two files of train-. have the same number",
    ),
    "two sets": (
        lambda root: shutil.copy(root / TRAIN, root / "data/other-train.parquet"),
        "holds the files of several data sets",
    ),
    "a truncated file": (lambda root: truncate(root / TRAIN, 700), "of-00002.parquet: cannot be read .*download it"),
    "an empty file": (lambda root: truncate(root / TRAIN, 0), "of-00002.parquet: cannot be read .*download it"),
    "a pointer": (
        lambda root: (root / TRAIN).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "is a pointer of Git LFS, not the file itself",
    ),
    "a label too large": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", label=3)),
        "train has the label 3, but 3 classes from 0 on",
    ),
    "a label too small": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", label=-2)),
        "train has the label -2, but 3 classes",
    ),
    "no label": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", label=None)),
        "its column 'label' has rows without a label",
    ),
    "no image": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", image={"bytes": None, "path": "/home/a.png"})),
        "row 0 of group 0: holds no image, at most the path",
    ),
    "no row": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", image=None)),
        "row 0 of group 0: holds no image, at most the path",
    ),
    "other class names": (
        lambda root: parquet_rows(root / TRAIN, mini.rows("train"), names=("a", "b", "c")),
        "the files of train have different columns",
    ),
    "a class that train lacks": (
        lambda root: parquet_rows(root / VALIDATION, mini.rows("validation"), names=("a", *CLASSES[1:])),
        "1 of its classes .a. are not among the 3 of the training images",
    ),
    "a negative label and no class names": (
        lambda root: [parquet_rows(root / name, all_of("train", label=-2), names=None) for name in BOTH],
        "train has the label -2, but 1 classes",
    ),
    "no rows": (lambda root: parquet_rows(root / VALIDATION, []), "validation has no rows; remove its files"),
    "labels of another type": (
        lambda root: pq.write_table(pa.table({"image": [b"a"], "label": [1.5]}), root / TRAIN),
        "has no column of labels; .*label .double.",
    ),
    "a class name of two lines": (
        lambda root: [parquet_rows(root / name, mini.rows("train"), names=("a\nb", "c", "d")) for name in BOTH],
        "a class name is empty or has a space at an end or a line break .'a..b'.; rename it",
    ),
    "class names that are the same": (
        lambda root: [parquet_rows(root / name, mini.rows("train"), names=("é", "e\u0301", "d")) for name in BOTH],
        "two classes have the same name; rename one",
    ),
    "labels of two types": (
        lambda root: pq.write_table(pa.table({"image": [mini.PNG], "label": ["dog"]}), root / TRAIN),
        "the files of train have different columns",
    ),
    "millions of rows without images": (
        lambda root: pq.write_table(
            pa.table({"image": pa.nulls(10**6, pa.binary()), "label": [1] * 10**6}), root / TRAIN
        ),
        "cannot be read .it has 1,000,000 rows in",
    ),
    "a label above 63 bits": (
        lambda root: pq.write_table(
            pa.table({"image": [mini.PNG], "label": pa.array([2**63], pa.uint64())}), root / TRAIN
        ),
        "of-00002.parquet: cannot be read",
    ),
    "class names twice": (
        lambda root: parquet_rows(root / TRAIN, mini.rows("train"), names=("a", "a", "c")),
        "two classes in its schema have the same name",
    ),
    "only texts": (
        lambda root: pq.write_table(pa.table({"text": ["a"], "label": [1]}), root / TRAIN),
        "has no column of images; .* it has text .string., label .int64.",
    ),
    "no column of labels": (
        lambda root: pq.write_table(pa.table({"image": [b"a"], "id": [1]}), root / TRAIN),
        "has no column of labels; .* it has image .binary., id .int64.",
    ),
}


@pytest.mark.parametrize("case", HUGGING_FACE)
def test_hugging_face(tmp_path, case):
    change, message = HUGGING_FACE[case]
    root = mini.parquet(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared")


def test_rows_without_a_label_are_left_out(tmp_path, caplog):
    root = mini.parquet(tmp_path / "set")
    rows = mini.rows("validation")
    parquet_rows(root / VALIDATION, [rows[0] | {"label": -1}, *rows[1:]])
    data = datasets.load("huggingface", str(root), SIZE)
    assert [data.validation[i][1] for i in range(len(data.validation))] == [1, 2]
    assert "1 rows of validation are not used: their label is -1" in caplog.text


def test_other_columns_and_no_class_names(tmp_path, caplog):
    """As in CIFAR-100 there; and labels with gaps, in a file without a schema of Hugging Face."""
    rows = mini.rows("train", "img", "fine_label")
    schema = pa.schema([("img", mini.hugging_face_schema().field("image").type), ("fine_label", pa.int8())])
    table = pa.Table.from_pylist(rows, schema).append_column("coarse_label", pa.array([0] * len(rows)))
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "0000.parquet")
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == ("0", "1", "2") and [split.source[i][1] for i in (0, 8)] == [0, 2]
    assert "the images are in the column 'img', and the labels in 'fine_label'" in caplog.text
    large = pa.table(
        {"image": pa.array([r["img"]["bytes"] for r in rows], pa.large_binary()), "label": [12, 5, 700] * 3}
    )
    pq.write_table(large, tmp_path / "train" / "0000.parquet")
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == ("5", "12", "700") and [split.source[i][1] for i in range(3)] == [1, 0, 2]
    assert (split.source[4][0] == mini.IMAGES["train"][4][2]).all()


def test_a_table_that_changes_in_use(tmp_path):
    root = mini.parquet(tmp_path / "set")
    source, _ = datasets.find("huggingface", str(root)).load("train", SIZE)
    parquet_rows(root / TRAIN, mini.rows("train")[::-1])
    with pytest.raises(UserError, match="has changed since it was opened"):
        source.read(0)


def test_the_labels_are_the_column_of_that_name(tmp_path, caplog):
    """Not another column of numbers or classes. Labels may be texts."""
    features = {"quality": {"_type": "ClassLabel", "names": ["bad", "good"]}}
    schema = pa.schema(
        [("image", pa.binary()), ("quality", pa.int64()), ("id", pa.int64()), ("label", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"image": mini.PNG, "quality": i % 2, "id": i, "label": ("dog", "cat", "9")[i % 3]} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "train.parquet")
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == ("9", "cat", "dog") and [split.source[i][1] for i in range(3)] == [2, 1, 0]
    assert caplog.text == ""


def test_files_beside_the_splits_are_named(tmp_path, caplog):
    root = mini.parquet(tmp_path / "set")
    for name in ("data/part2.parquet", "other.parquet", "data/unsupervised/0000.parquet"):
        parquet_rows(root / name, mini.rows("train"))
    shutil.move(root / TRAIN, root / TRAIN.replace(".parquet", ".PARQUET"))
    (root / "other.parquet").rename(root / "data" / "extra.Parquet")
    assert len(datasets.find("huggingface", str(root)).load("train", SIZE).source) == 9
    assert "3 files are not used: data/extra.Parquet, data/part2.parquet, " in caplog.text


@pytest.mark.parametrize("kept", [2, 5])
def test_a_stream_of_arrow_must_end(tmp_path, kept):
    """Cut between two batches, it would be a shorter set."""
    root = mini.arrow(tmp_path / "set")
    path = root / "train" / "data-00000-of-00001.arrow"
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        schema, batches = stream.schema, list(stream)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for batch in batches[:kept]:
            stream.write_batch(batch)
    truncate(path, path.stat().st_size - 8)
    with pytest.raises(UserError, match="arrow: cannot be read .it is cut off at its end"):
        prepare(root, tmp_path / "prepared")


def test_the_other_format_of_arrow_is_named(tmp_path):
    root = mini.arrow(tmp_path / "set")
    table = pa.Table.from_pylist(mini.rows("train"), mini.hugging_face_schema())
    path = str(root / "train" / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="arrow: is an Arrow file for random access; write it as save_to_disk"):
        prepare(root, tmp_path / "prepared")


def test_checksums_of_pages_are_checked(tmp_path):
    """Raw pixels have no checksum of their own: a changed byte would be another image."""
    path = tmp_path / "train.parquet"
    image = b"P6 4 4 255\n" + bytes(range(48))
    options = {"compression": "none", "write_page_checksum": True, "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"image": [image], "label": [0]}), path, **options)
    source, _ = datasets.find("huggingface", str(tmp_path)).load("train", 4)
    assert source[0][0].tobytes() == bytes(range(48))
    edit(path, bytes(range(40, 48)), bytes(8))
    source, _ = datasets.find("huggingface", str(tmp_path)).load("train", 4)
    with pytest.raises(UserError, match="train.parquet: cannot be read .*CRC"):
        source.read(0)


def test_a_group_of_rows_must_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("alexnet_jax.data.kinds.tables.MOST_GROUP", 5000)
    with pytest.raises(UserError, match="in one group of rows, which have to be in memory together; write it again"):
        datasets.load("auto", str(mini.parquet(tmp_path / "set")), SIZE)


def test_the_final_evaluation_uses_test_images_that_have_labels(tmp_path):
    root = mini.parquet(tmp_path / "set")
    assert datasets.find("auto", str(root)).held_out() == ("validation", "validation")
    parquet_rows(root / "data" / "test-00000-of-00001-0123456789abcdef.parquet", mini.rows("validation"))
    assert datasets.find("auto", str(root)).held_out() == ("validation", "test")
