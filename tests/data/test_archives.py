"""Archives that are damaged, of another format, or made to do harm: one line within seconds, and no image is missed."""

import bz2
import gzip
import io
import lzma
import os
import tarfile

import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from alexnet_jax.data.kinds import imagenet
from tests.fixtures import hostile_files, imagenet_archives

TRAIN, BLOCK = imagenet.TRAIN, tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
# Versions of Python differ in how much tarfile itself checks.
# Which of them depends on the version of Python.
CHAINED = "wrong extended headers|damaged at byte"
WRONG = f"goes beyond its end|a header of -?[0-9]+ bytes|{CHAINED}|invalid|holds no images"
PICTURE = hostile_files.tar_member("n01440764_1.JPEG", b"picture")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return imagenet_archives.write_archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture
def root(whole, tmp_path):
    """A directory with whole archives. The training archive may be replaced."""
    for name in (TRAIN, imagenet.VALIDATION):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    return tmp_path


def load(root):
    return datasets.find("imagenet", str(root)).load("train", 32).source


def refused(root, message):
    with pytest.raises(UserError, match=message) as error:
        load(root)
    assert len(str(error.value).splitlines()) == 1


def one_class(inner):
    """A training archive of one class, whose archive has these bytes."""
    return hostile_files.tar_member("n01440764.tar", inner) + END


def pax(text, kind=b"x"):
    return hostile_files.tar_member("pax", text, kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (gzip.compress, r"is compressed by gzip; decompress it \(gzip -dc\) into a file of the same name"),
        (bz2.compress, "is compressed by bzip2; decompress it"),
        (lzma.compress, "is compressed by xz; decompress it"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "is compressed by zstd; decompress it"),
        (lambda data: b"PK\x03\x04" + data, "is compressed by zip; decompress it"),
        (lambda data: b"\n <!DOCTYPE html><p>404", "is a web page, probably an error message; download it again"),
        (lambda data: b'<?xml version="1.0"?>' * 100, "is a web page"),
        (lambda data: b"", "not a complete archive .empty file"),
        (lambda data: bytes(2**21), "not a complete archive"),
        (lambda data: b"Sign in first.", "not a complete archive"),
        (lambda data: data[: -len(END)] + data, "not a complete archive|holds 'n01440764_.*JPEG' 2 times"),
    ],
)
def test_what_is_often_found_instead_is_named(change, message, root):
    (root / TRAIN).write_bytes(change((root / TRAIN).read_bytes()))
    refused(root, f"{TRAIN}[^:]*: {message}")


def test_an_inner_archive_in_another_format(root):
    (root / TRAIN).write_bytes(one_class(gzip.compress(b"x" * 5000)))
    refused(root, f"{TRAIN}, n01440764.tar: is compressed by gzip")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a pipe or a device"),
        (os.mkdir, r"cannot be read \(Is a directory\)"),
        (lambda path: os.symlink("/dev/zero", path), "is a pipe or a device"),
        (lambda path: os.symlink(path, path), "cannot be read .Too many levels"),
    ],
)
def test_no_file_at_all(make, message, root):
    (root / TRAIN).unlink()
    make(root / TRAIN)
    refused(root, f"{TRAIN}: {message}")


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (hostile_files.tar_header("x.JPEG", b"\xff" * 12) + PICTURE, WRONG),
        (hostile_files.tar_header("x.JPEG", b"\xff" * 10 + b"\xfe\x00") + PICTURE, WRONG),
        (hostile_files.tar_header("x.JPEG", b"-0000001000\0") + PICTURE, WRONG),
        (hostile_files.tar_header("x.JPEG", b"\x80" + b"\x7f" * 11) + PICTURE, WRONG),
        (pax(b"16 size=-1024\n\n\n") + PICTURE, WRONG),
        (pax(b"20 size=99999999999\n") + PICTURE, WRONG),
        (pax(b"13 size=abc\n\n") + PICTURE, WRONG),
        (pax(b"12 comment=x") * 2000 + PICTURE, CHAINED),
        (pax(b"12 comment=x", b"g") * 2000 + PICTURE, CHAINED),
        (hostile_files.tar_member("@LongLink", b"a/" * 50, b"L") * 2000 + PICTURE, CHAINED),
        (pax(b"70010 comment=" + b"y" * 69995 + b"\n") + PICTURE, "a header of 70144 bytes"),
        (hostile_files.tar_header("pax", b"\x80" + bytes(3) + b"\x7f" * 8, b"x") + PICTURE, "a header of .* bytes"),
        (hostile_files.tar_header("pax", b"\xff" * 10 + b"\xfe\x00", b"x") + PICTURE, WRONG),
        (hostile_files.tar_header("pax", b"\xff" * 10 + b"\xfe\x00", b"L") + PICTURE, WRONG),
        (pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + PICTURE, "wrong extended"),
        (PICTURE, "damaged at byte"),
        (PICTURE + bytes(2**21), "damaged at byte"),
        (PICTURE + bytes(BLOCK) + b"more", "damaged at byte"),
    ],
)
def test_headers_that_make_tarfile_loop_recurse_or_read_too_much(inner, message, root):
    end = b"" if inner.endswith((b"more", bytes(2**21))) or inner == PICTURE else END
    (root / TRAIN).write_bytes(one_class(inner + end))
    refused(root, f"{TRAIN}, n01440764.tar: not a complete archive \\(.*({message})")
    (root / TRAIN).write_bytes(inner + end)
    refused(root, f"{TRAIN}: (not a complete archive|holds no images|n01440764_1.JPEG is not a class of ILSVRC2012)")


def test_a_class_without_images_is_not_left_out(root):
    (root / TRAIN).write_bytes(hostile_files.tar_member("n01440764.tar", END) + one_class(PICTURE + END))
    refused(root, r"n01440764.tar: not a complete archive \(holds no images\); download it again")


def test_a_huge_sparse_archive_is_not_read_whole(root):
    """A header that asks for more than there is, in a file of a terabyte that takes no space."""
    size = 2**40
    header = hostile_files.tar_header("pax", b"\x80" + (size - BLOCK).to_bytes(11, "big"), b"x")
    (root / TRAIN).write_bytes(header)
    os.truncate(root / TRAIN, size)
    refused(root, f"a header of {size - BLOCK} bytes")


def test_links_devices_and_sparse_files_are_left_out_with_their_count(root, caplog):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        imagenet_archives.add(archive, "n01440764_0.JPEG", b"first")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("n01440764_9.JPEG")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("n01440764")
        member.type = tarfile.DIRTYPE
        archive.addfile(member)
        imagenet_archives.add(archive, "/etc/../../n01440764_1.JPEG", b"second")
    (root / TRAIN).write_bytes(one_class(inner.getvalue()))
    source = load(root)
    assert [source.name(i) for i in range(len(source))] == ["n01440764_0.JPEG", "n01440764_1.JPEG"]
    assert [source.read(i) for i in range(2)] == [(b"first", 0), (b"second", 0)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("n01440764.tar: 5 of its members are not used: links, devices or sparse files")


def test_an_image_that_is_there_twice_is_named(root):
    (root / TRAIN).write_bytes(one_class(PICTURE + PICTURE + END))
    refused(root, f"{TRAIN}: holds 'n01440764_1.JPEG' 2 times; download it again")


def test_hundreds_of_damaged_headers(root):
    """Every member that is read lies within the file."""
    intact = one_class(PICTURE + hostile_files.tar_member("n01440764_2.JPEG", b"other") + END)
    read = 0
    for seed in range(300):
        rng = np.random.default_rng([26, seed])
        data = bytearray(intact)
        place = int(rng.choice([0, 1, 2, 4])) * BLOCK
        for _ in range(rng.integers(1, 4)):
            data[place + int(rng.integers(BLOCK))] = int(rng.integers(256))
        data[place + 148 : place + 156] = b"%06o\0 " % (
            sum(data[place : place + BLOCK]) - sum(data[place + 148 : place + 156]) + 8 * 32
        )
        (root / TRAIN).write_bytes(data)
        try:
            source = load(root)
        except UserError:
            continue
        read += 1
        assert all(offset >= 0 and 0 <= size <= len(data) - offset for offset, size, *_ in source.members)
    assert read > 50
