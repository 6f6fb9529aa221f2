"""ImageNet from Kaggle: what is odd or broken in it is read right, or ends with one line that names it."""

import io
import shutil
import struct
import zipfile

import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets, sources
from tests.fixtures import miniature_sets as mini
from tests.fixtures.miniature_sets import SIZE, changed, edit, prepare, truncate

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_datasets|etils")


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


def in_class_folders(root):
    """Moves the validation images into class folders, as a script does that many use."""
    for class_name, number, _ in mini.IMAGES["validation"]:
        name = f"ILSVRC2012_val_{number:08}.JPEG"
        (root / VAL / class_name).mkdir()
        (root / VAL / name).rename(root / VAL / class_name / name)


def test_validation_images_in_class_folders(tmp_path):
    root = changed(mini.kaggle, in_class_folders)(tmp_path / "set")
    data = datasets.load("auto", str(root), SIZE)
    assert [(name, label) for name, label, _ in data.validation.listing] == [
        ("n01440764/ILSVRC2012_val_00000293.JPEG", 0),
        ("n02102040/ILSVRC2012_val_00000665.JPEG", 217),
        ("n03888257/ILSVRC2012_val_00002508.JPEG", 701),
    ]
    (root / VAL / "n01440764" / "ILSVRC2012_val_00000293.JPEG").rename(
        root / VAL / "n02102040" / "ILSVRC2012_val_00000293.JPEG"
    )
    (root / VAL / "n01440764").rmdir()
    with pytest.raises(UserError, match="labels the validation image 293 as 'n02102040', but its class is n01440764"):
        datasets.load("auto", str(root), SIZE)


def test_a_half_extracted_set(tmp_path, caplog, capsys):
    root = mini.kaggle(tmp_path / "set")
    mini.kaggle_zip(tmp_path / "zip").rename(root / "imagenet-object-localization-challenge.zip")
    prepare(root, tmp_path / "prepared", dry_run=True)
    assert "challenge.zip: is not used, but the files extracted beside it" in caplog.text
    assert "997 of the 1000 classes have no images" in capsys.readouterr().out
    (root / VAL / "notes.txt").write_text("")
    (root / VAL / "ILSVRC2012_val_00000665.JPEG").unlink()
    caplog.clear()
    datasets.load("kaggle", str(root), SIZE)
    assert "1 files beside the validation images are not used: notes.txt" in caplog.text
    assert "1 of the 3 validation images that it lists are missing" in caplog.text
    shutil.rmtree(root / VAL / "../train/n01440764")
    with pytest.raises(UserError, match="val: has images of 1 classes without training images .n01440764."):
        prepare(root, tmp_path / "prepared")


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
