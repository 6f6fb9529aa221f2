"""What is odd or broken in each kind of source: it is read right, or ends with one line that names it."""

import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets, preparation, sources
from alexnet_jax.data.kinds.imagenet import validation_classes
from tests.fixtures import miniature_sets as mini
from tests.fixtures.imagenet_archives import add
from tests.fixtures.miniature_sets import CLASSES, SIZE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


def prepare(root, output, dataset="auto", **options):
    preparation.prepare(dataset, root, output, SIZE, workers=1, max_undecodable=0, **options)


def edit(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def truncate(path, length):
    path.write_bytes(path.read_bytes()[:length])


def parquet_rows(path, rows, **schema):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, mini.hugging_face_schema(**schema)), path)


def with_zip(change):
    """Changes the directory of an extracted set, and packs it."""

    def build(root):
        mini.kaggle(root / "files")
        path = root / "imagenet.zip"
        change(root / "files", path)
        if not path.exists():
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted((root / "files").rglob("*")):
                    if file.is_file():
                        archive.write(file, file.relative_to(root / "files"))
        shutil.rmtree(root / "files")
        return root

    return build


def changed(build, change):
    def changed_set(root):
        built = build(root)
        change(root)
        return built

    return changed_set


# --- Kaggle ---------------------------------------------------------------------------------------------------------

SOLUTION = "LOC_val_solution.csv"
VAL = "ILSVRC/Data/CLS-LOC/val"


def damaged_member(files, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in mini.kaggle_files().items():
            archive.writestr(name, data)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x89PNG") + 60
    data[place] ^= 255
    path.write_bytes(data)


def compressed_by_bzip2(files, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, data in mini.kaggle_files().items():
            archive.writestr(name, data)


def encrypted(files, path):
    compressed_by_bzip2(files, path)
    data = bytearray(path.read_bytes().replace(b"PK\1\2\x2e\3\x2e\0\0\0\x0c\0", b"PK\1\2\x14\3\x14\0\1\0\0\0"))
    path.write_bytes(data)


def nested(files, path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("ILSVRC/Data/CLS-LOC/val/a.JPEG", b"")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.zip", inner.getvalue())


KAGGLE = {
    "no labels": (
        changed(mini.kaggle, lambda root: (root / SOLUTION).unlink()),
        f"{SOLUTION}: cannot be read .No such file",
    ),
    "a wrong label": (
        changed(mini.kaggle, lambda root: edit(root / SOLUTION, b"293,n01440764", b"293,n02102040")),
        "labels the validation image 293 as 'n02102040', but its class is n01440764",
    ),
    "an image without a label": (
        changed(mini.kaggle, lambda root: (root / VAL / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")),
        "has no label for 'ILSVRC2012_val_00000001.JPEG'",
    ),
    "other columns": (
        changed(mini.kaggle, lambda root: edit(root / SOLUTION, b"ImageId", b"Image")),
        "its labels, LOC_val_solution.csv, are not .ImageId, PredictionString",
    ),
    "a label without a class": (
        changed(mini.kaggle, lambda root: edit(root / SOLUTION, b"n01440764 85 1 499 272 n01440764 1 2 3 4 ", b"")),
        "are not .ImageId, PredictionString",
    ),
    "labels that are no text": (
        changed(mini.kaggle, lambda root: edit(root / SOLUTION, b"85", b"\xff\xfe")),
        "are not .ImageId, PredictionString",
    ),
    "a class that is not ImageNet's": (
        changed(mini.kaggle, lambda root: (root / VAL / "../train/n01440764").rename(root / VAL / "../train/fish")),
        "train/fish: is not a class of ILSVRC2012",
    ),
    "a zip without labels": (with_zip(lambda files, path: (files / SOLUTION).unlink()), f"holds no {SOLUTION}"),
    "a damaged image in a zip": (with_zip(damaged_member), "JPEG: is damaged in the zip file; download it again"),
    "unusual compression": (with_zip(compressed_by_bzip2), "is encrypted, or compressed in an unusual way; extract it"),
    "a zip in a zip": (with_zip(nested), "no data set is recognised in it .it holds imagenet.zip"),
}


@pytest.mark.parametrize("case", KAGGLE)
def test_kaggle(tmp_path, case):
    build, message = KAGGLE[case]
    root = build(tmp_path / "set")
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared")


def test_an_encrypted_zip(tmp_path):
    path = mini.kaggle_zip(tmp_path / "set")
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2")
    data[place + 8] |= 1  # the flag of encryption
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted, or compressed in an unusual way; extract it"):
        prepare(path, tmp_path / "prepared", "kaggle")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_zip(tmp_path, part):
    path = mini.kaggle_zip(tmp_path / "set")
    truncate(path, int(part * path.stat().st_size))
    with pytest.raises(UserError, match="challenge.zip: not a complete zip file .*; download it again"):
        prepare(path, tmp_path / "prepared", "kaggle")


def test_a_name_twice_in_a_zip(tmp_path):
    path = mini.kaggle_zip(tmp_path / "set")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(SOLUTION, b"ImageId,PredictionString\n")
    with pytest.raises(UserError, match=f"holds '{SOLUTION}' twice"):
        prepare(path, tmp_path / "prepared", "kaggle")


def test_what_a_zip_file_claims_is_bounded(tmp_path):
    """A member of a few bytes that unpacks to gigabytes, and one that begins outside of the file."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1000))
        info = archive.getinfo("a.png")
    member = sources.Member(info.header_offset, info.compress_size, "a.png", 0, crc=info.CRC, deflated=True)
    version = path.stat().st_size, path.stat().st_mtime_ns
    source = sources.ArchiveSource(str(path), ((str(path), version),), [member], SIZE)
    assert source.read(0) == (bytes(1000), 0)
    data = path.read_bytes()
    place = data.index(b"PK\1\2") + 42
    path.write_bytes(data[:place] + struct.pack("<L", 2**31) + data[place + 4 :])
    with pytest.raises(UserError, match="not a complete zip file"):
        prepare(path, tmp_path / "prepared", "kaggle")


# --- Hugging Face ---------------------------------------------------------------------------------------------------

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
        "train has labels from 1 to 3 for 3 classes",
    ),
    "a label too small": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", label=-2)),
        "train has labels from -2 to 2 for 3 classes",
    ),
    "no label": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", label=None)),
        "its column 'label' has rows without a number",
    ),
    "no image": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", image={"bytes": None, "path": "/home/a.png"})),
        "row 0 of group 0: has no bytes of an image",
    ),
    "no row": (
        lambda root: parquet_rows(root / TRAIN, all_of("train", image=None)),
        "row 0 of group 0: has no bytes of an image",
    ),
    "other class names": (
        lambda root: parquet_rows(root / TRAIN, mini.rows("train"), names=("a", "b", "c")),
        "the files of train have different columns",
    ),
    "a class that train lacks": (
        lambda root: parquet_rows(root / VALIDATION, mini.rows("validation"), names=("a", *CLASSES[1:])),
        "1 of its classes .a. are not among the 3 of the training images",
    ),
    "class names twice": (
        lambda root: parquet_rows(root / TRAIN, mini.rows("train"), names=("a", "a", "c")),
        "two classes in its schema have the same name",
    ),
    "only texts": (
        lambda root: pq.write_table(pa.table({"text": ["a"], "label": [1]}), root / TRAIN),
        "has no column of images that is recognised, only text, label",
    ),
    "no column of labels": (
        lambda root: pq.write_table(pa.table({"image": [b"a"], "class": ["dog"]}), root / TRAIN),
        "has no column of labels that is recognised, only image, class",
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


def test_other_columns_and_no_class_names(tmp_path):
    """As in CIFAR-100 there; and labels with gaps, in a file without a schema of Hugging Face."""
    rows = mini.rows("train", "img", "fine_label")
    schema = pa.schema([("img", mini.hugging_face_schema().field("image").type), ("fine_label", pa.int8())])
    table = pa.Table.from_pylist(rows, schema).append_column("coarse_label", pa.array([0] * len(rows)))
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "0000.parquet")
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == ("0", "1", "2") and [split.source[i][1] for i in (0, 8)] == [0, 2]
    large = pa.table(
        {"image": pa.array([r["img"]["bytes"] for r in rows], pa.large_binary()), "label": [12, 5, 700] * 3}
    )
    pq.write_table(large, tmp_path / "train" / "0000.parquet")
    split = datasets.find("auto", str(tmp_path)).load("train", SIZE)
    assert split.class_names == ("5", "12", "700") and [split.source[i][1] for i in range(3)] == [1, 0, 2]
    assert (split.source[4][0] == mini.IMAGES["train"][4][2]).all()


@pytest.mark.parametrize("build", [mini.parquet, mini.arrow])
def test_damaged_tables_are_read_or_refused(tmp_path, build):
    root = build(tmp_path / "set")
    path = next(
        path for path in sorted(root.rglob("*")) if path.is_file() and "00000" in path.name and "train" in str(path)
    )
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(150):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.integers(len(data)) :]
        else:
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            source, _ = datasets.find("huggingface", str(root)).load("train", SIZE)
            for i in range(len(source)):
                source[i]
        except UserError as error:
            messages.append(str(error))
    assert 50 < len(messages) < 150 and not any("\n" in message for message in messages)


def test_a_table_that_changes_in_use(tmp_path):
    root = mini.parquet(tmp_path / "set")
    source, _ = datasets.find("huggingface", str(root)).load("train", SIZE)
    parquet_rows(root / TRAIN, mini.rows("train")[::-1])
    with pytest.raises(UserError, match="has changed since it was opened"):
        source.read(0)


# --- WebDataset -----------------------------------------------------------------------------------------------------

SHARD = "mini-train-000000.tar"


def with_members(*members):
    return lambda root: mini.write_tar(root / SHARD, [*mini.samples("train")[:6], *members])


PNG = mini.png(mini.pixels("n1", 1))
WEBDATASET = {
    "missing shards": (
        lambda root: (root / SHARD).rename(root / "mini-train-000005.tar"),
        "3 of the 5 files mini-train-..tar are missing .000002, 000003, 000004.; download them",
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
    "a label too large": (with_members(("a.png", PNG), ("a.cls", b"3")), "has the label '3', for 3 class names"),
    "two labels": (
        with_members(("a.png", PNG), ("a.cls", b"1"), ("a.json", b'{"label": 2}')),
        "the sample 'a' has two labels, '1' and '2'",
    ),
    "a truncated shard": (lambda root: truncate(root / SHARD, 3000), "000000.tar: not a complete archive"),
    "a compressed shard": (
        lambda root: mini.compressed(root / SHARD).rename(root / SHARD),
        "000000.tar: is compressed by gzip; decompress it",
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


# --- Tiny ImageNet --------------------------------------------------------------------------------------------------

ANNOTATIONS = "val/val_annotations.txt"
TINY = {
    "an image without a label": (
        lambda root: edit(root / ANNOTATIONS, b"ILSVRC2012_val_00000293", b"other"),
        "val_annotations.txt: has no label for 1 images, as 'ILSVRC2012_val_00000293.JPEG'",
    ),
    "a class that train lacks": (
        lambda root: shutil.rmtree(root / "train" / CLASSES[1]),
        "val_annotations.txt: 'n02102040' is not a class of the training images",
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


# --- CIFAR ----------------------------------------------------------------------------------------------------------

BATCH = "cifar-10-batches-py/data_batch_3"


def repickled(name, change):
    def change_file(root):
        contents = pickle.loads((root / name).read_bytes())
        change(contents)
        (root / name).write_bytes(pickle.dumps(contents, protocol=2))

    return change_file


class Evil:
    def __reduce__(self):
        return open, ("evil", "w")


CIFAR = {
    "a missing batch": (lambda root: (root / BATCH).unlink(), "data_batch_3: cannot be read .No such file"),
    "a truncated batch": (lambda root: truncate(root / BATCH, 5000), "data_batch_3: cannot be read .*; download it"),
    "a pickle that runs code": (
        lambda root: (root / BATCH).write_bytes(pickle.dumps({"data": Evil()})),
        "data_batch_3: cannot be read .it asks for .*open",
    ),
    "no dict": (lambda root: (root / BATCH).write_bytes(pickle.dumps([1])), "data_batch_3: cannot be read "),
    "a label that is no class": (
        repickled(BATCH, lambda x: x.update(labels=[0, 3])),
        "data_batch_3: has a label that is no class",
    ),
    "a negative label": (repickled(BATCH, lambda x: x.update(labels=[0, -1])), "has a label that is no class"),
    "fewer labels": (repickled(BATCH, lambda x: x.update(labels=[0])), "data_batch_3: is not images of 32 pixels"),
    "fewer names": (repickled(BATCH, lambda x: x.update(filenames=["a"])), "data_batch_3: is not images of 32 pixels"),
    "other arrays": (
        repickled(BATCH, lambda x: x.update(data=np.zeros((2, 3072), np.float32))),
        "data_batch_3: cannot be read .an array of f4, not of u1",
    ),
    "other sizes": (
        repickled(BATCH, lambda x: x.update(data=np.zeros((2, 784), np.uint8))),
        "data_batch_3: is not images of 32 pixels",
    ),
    "no class names": (
        repickled("cifar-10-batches-py/batches.meta", lambda x: x.pop("label_names")),
        "batches.meta: holds no names of classes",
    ),
}


@pytest.mark.parametrize("case", CIFAR)
def test_cifar(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, message = CIFAR[case]
    root = mini.cifar10_python(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared")
    assert not (tmp_path / "evil").exists()


def test_a_binary_file_of_another_length(tmp_path):
    root = mini.cifar100_binary(tmp_path / "set")
    truncate(root / "cifar-100-binary" / "train.bin", 3075)
    with pytest.raises(UserError, match="train.bin: is not whole images of 3074 bytes"):
        prepare(root, tmp_path / "prepared")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_a_truncated_archive_of_cifar(tmp_path, part):
    path = mini.cifar10_archive(tmp_path / "set")
    truncate(path, int(part * path.stat().st_size))
    with pytest.raises(UserError, match="python.tar.gz: not a complete archive .*; download it again"):
        prepare(path, tmp_path / "prepared")


def test_an_archive_of_cifar_without_a_batch_or_with_a_huge_one(tmp_path, monkeypatch):
    path = tmp_path / "cifar-10-python.tar.gz"
    mini.write_tar(path, [("cifar-10-batches-py/batches.meta", b"")], "w:gz")
    with pytest.raises(UserError, match="holds no cifar-10-batches-py/data_batch_1"):
        prepare(path, tmp_path / "prepared")
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "cifar-10-batches-py/batches.meta", bytes(2**20))
    monkeypatch.setattr("alexnet_jax.data.kinds.cifar.MOST_BATCH", 2**16)
    with pytest.raises(UserError, match="not a complete archive .*batches.meta is there twice, or has 1,048,576 bytes"):
        prepare(path, tmp_path / "prepared")
    monkeypatch.setattr("alexnet_jax.data.archives.RECORD", 2**16)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "cifar-10-batches-py/other", bytes(2**22))
    with pytest.raises(UserError, match="not a complete archive .it unpacks to too many bytes"):
        prepare(path, tmp_path / "prepared")


# --- ImageNet's archives --------------------------------------------------------------------------------------------

KIT, KIT_2010 = "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2010_devkit-1.0.tar.gz"
TEST_LABELS = "ILSVRC2010_test_ground_truth.txt"


def other_label(root):
    classes = list(validation_classes())
    classes[4] = "n01440764"
    mini.write_kit(root / KIT, 2012, classes)


ARCHIVES = {
    "another kit": (
        mini.imagenet2012,
        other_label,
        "labels the validation image 5 as 'n01440764', but its class is n0",
    ),
    "a truncated kit": (mini.imagenet2012, lambda root: truncate(root / KIT, 4000), "t12.tar.gz: not a complete arch"),
    "a kit without labels": (
        mini.imagenet2012,
        lambda root: mini.write_tar(root / KIT, [("readme", b"")], "w:gz"),
        "t12.tar.gz: holds no data/meta.mat and no data/ILSVRC2012_validation_ground_truth.txt",
    ),
    "a broken meta.mat": (
        mini.imagenet2012,
        lambda root: mini.write_tar(
            root / KIT, [("data/meta.mat", b"x" * 200), ("data/ILSVRC2012_validation_ground_truth.txt", b"1")], "w:gz"
        ),
        "t12.tar.gz: its meta.mat cannot be read",
    ),
    "no kit": (mini.imagenet2010, lambda root: (root / KIT_2010).unlink(), f"{KIT_2010} not found; download from"),
    "no test labels": (mini.imagenet2010, lambda root: (root / TEST_LABELS).unlink(), f"{TEST_LABELS} not found"),
    "a label that is no class": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("1\n2\n1001\n"),
        f"{TEST_LABELS}: has the label 1001; the classes are 1 to 1000",
    ),
    "labels that are no numbers": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("1\ntwo\n"),
        f"{TEST_LABELS}: its labels are not numbers",
    ),
    "fewer labels": (
        mini.imagenet2010,
        lambda root: (root / TEST_LABELS).write_text("1\n2\n"),
        "ILSVRC2010_test_00000003.JPEG is not an image of ILSVRC2010",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_with_a_development_kit(tmp_path, case):
    build, change, message = ARCHIVES[case]
    root = build(tmp_path / "set")
    change(root)
    with pytest.raises(UserError, match=message):
        prepare(root, tmp_path / "prepared")


def test_patches_replace_images_of_2010(tmp_path):
    root = mini.imagenet2010(tmp_path / "set")
    patch = mini.pixels("n99999999", 1)
    mini.write_tar(root / "patch_images.tar", [("patch_images/val/ILSVRC2010_val_00000002.JPEG", mini.png(patch))])
    data = datasets.load("imagenet2010", str(root), SIZE)
    images = {name: data.validation[i][0] for i, (name, *_) in enumerate(data.validation.listing)}
    assert (images["ILSVRC2010_val_00000002.JPEG"] == patch).all()
    assert (images["ILSVRC2010_val_00000001.JPEG"] == mini.IMAGES["validation"][0][2]).all()


# --- CSV ------------------------------------------------------------------------------------------------------------


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
    "no label": ("path,label\na.png, \n", "line 2: has no label"),
    "an unknown split": (
        "path,label,split\na.png,dog,extra\n",
        "line 2: has the split 'extra'; use train, val or test",
    ),
    "an image twice": ("path,label\na.png,dog\nb.png,dog\n./a.png,cat\n", "line 4: lists 'a.png' again, after line 2"),
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
    path = csv_of(text)(tmp_path)
    with pytest.raises(UserError, match=message):
        prepare("", tmp_path / "prepared", f"csv:{path}")


def test_a_csv_file_in_any_order_with_spaces_and_capital_letters(tmp_path):
    lines = ["split, Label ,PATH", "Val, green frog ,c.png", "", "TRAIN,10,b.png", "train,9,a.png"]
    path = csv_of("\r\n".join([*lines, "train,green frog,ä b.png", ""]))(tmp_path)
    data = datasets.load(f"csv:{path}", "", SIZE)
    assert data.class_names == ("10", "9", "green frog")
    assert [(name, label) for name, label, _ in data.train.listing] == [("a.png", 1), ("b.png", 0), ("ä b.png", 2)]
    assert [(name, label) for name, label, _ in data.validation.listing] == [("c.png", 2)]


# --- Images set aside -----------------------------------------------------------------------------------------------


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
    names = {name for name, _ in sources.hold_out(source, 0.4)[1].labels_by_name}
    assert sorted(name.partition("/")[0] for name in names) == list(CLASSES)
    backwards = sources.SelectedSource(source, range(len(source))[::-1])
    train, held_out = sources.hold_out(backwards, 0.4)
    assert {name for name, _ in held_out.labels_by_name} == names
    assert len(train) == 6 and {train[i][1] for i in range(6)} == {0, 1, 2}
    train, held_out = sources.hold_out(source, 0.99)
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
    with pytest.raises(UserError, match="n01440764_0.JPEG: is the only image of its class"):
        prepare(root, tmp_path / "prepared", holdout=0.1)
    with pytest.raises(UserError, match="--holdout=0.1: .*other has validation images already"):
        prepare(mini.folder(tmp_path / "other"), tmp_path / "prepared", holdout=0.1)


# --- What lies in a directory ---------------------------------------------------------------------------------------


def test_several_sets_or_none_in_a_directory(tmp_path):
    root = mini.folder(tmp_path / "set")
    mini.imagenet2012(root)
    with pytest.raises(UserError, match="holds several data sets; name one: --dataset=folder or --dataset=imagenet"):
        prepare(root, tmp_path / "prepared")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no data set is recognised in it .it holds nothing"):
        prepare(tmp_path / "empty", tmp_path / "prepared")
    with pytest.raises(UserError, match="no data set is recognised in it .it holds empty, set"):
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
