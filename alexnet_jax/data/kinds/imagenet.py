"""The official archives of ILSVRC2012, read without extracting them."""

import collections
import functools
import logging
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

MOST_HEADER = 2**16  # bytes of an extended header, which holds a file's name and attributes
RECORD = 2**20  # bytes; more than the zeros at the end of an archive: tar pads to 10 kB, other tools a little more
COMPRESSED = (  # (first bytes, format, a command that writes to its output)
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
)
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class ImagenetArchives(Dataset):
    """The training and validation images in the two archives of a directory; class names are WordNet ids, sorted.

    A training image's class is the name of its inner archive. A validation image's class is looked up by the number in
    its file name, so that a missing file does not shift the labels of the others.
    """

    splits = ("train", "validation")
    default_orientation = "stored"  # as in 2012

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.splits:
            raise UserError(f"the archives of ImageNet have no split {split!r}, but {', '.join(self.splits)}")
        if missing := [name for name in (TRAIN, VALIDATION) if not files.exists(self.directory / name)]:
            raise UserError(
                f"dataset root {self.root!r}: {' and '.join(missing)} not found; download from https://image-net.org/download"
            )
        path = self.directory / (TRAIN if split == "train" else VALIDATION)
        version = files.version(path)
        members = list((_training_images if split == "train" else _validation_images)(path))
        if not members:
            raise UserError(f"{path}: holds no images; download it again")
        names = collections.Counter(name for _, _, name, _ in members)
        if len(names) < len(members):
            ((name, count),) = names.most_common(1)
            raise UserError(f"{path}: holds {name!a} {count} times; download it again")
        source = sources.ArchiveSource(str(path), version, members, image_size, stretch, self.orientation)
        return Split(source, _class_names())


@functools.cache
def _class_names() -> tuple[str, ...]:
    return tuple(_development_kit("labels.txt"))


def _development_kit(name: str) -> list[str]:
    """A list from the ILSVRC2012 development kit, as TFDS includes it."""
    import tensorflow_datasets as tfds

    return tfds.core.tfds_path(f"datasets/imagenet2012/{name}").read_text().split()


def _training_images(path: pathlib.Path) -> Iterator[tuple[int, int, str, int]]:
    labels = {class_name: label for label, class_name in enumerate(_class_names())}
    for member in _members(path):
        class_name, dot, _ = os.path.basename(member.name).partition(".")
        if class_name not in labels or not dot:
            raise UserError(f"{path}: {member.name} is not a class of ILSVRC2012; use its training archive")
        images = list(_members(path, member))
        if not images:
            raise UserError(f"{path}, {member.name}: not a complete archive (holds no images); download it again")
        for image in images:
            yield image.offset_data, image.size, os.path.basename(image.name), labels[class_name]


def _validation_images(path: pathlib.Path) -> Iterator[tuple[int, int, str, int]]:
    labels = {class_name: label for label, class_name in enumerate(_class_names())}
    classes = _development_kit("validation_labels.txt")
    for image in _members(path):
        number = re.search(r"_val_(\d{8})\.JPEG$", image.name)
        if not number or not 1 <= int(number[1]) <= len(classes):
            raise UserError(f"{path}: {image.name} is not an image of ILSVRC2012; use its validation archive")
        yield image.offset_data, image.size, os.path.basename(image.name), labels[classes[int(number[1]) - 1]]


def _members(path: pathlib.Path, within: tarfile.TarInfo | None = None) -> Iterator[tarfile.TarInfo]:
    """The files in the tar file `path`, or in its member `within`. Offsets count from the start of `path`."""
    name = f"{path}, {within.name}" if within else str(path)
    others = 0
    with files.reading(path) as file:
        end = os.fstat(file.fileno()).st_size
        if within:
            file.seek(within.offset_data)
            end = within.offset_data + within.size
        _check_format(file, name)
        headers: Any = _Headers(file)
        try:
            with tarfile.open(fileobj=headers, mode="r:") as archive:
                for member in archive:
                    if member.size < 0 or member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} goes beyond its end")
                    if member.isfile() and not member.issparse():
                        yield member
                    elif not member.isdir():
                        others += 1
                # tarfile stops at any block that is not a header. An intact archive ends in at least a block of zeros.
                file.seek(archive.offset)
                rest = file.read(min(end - archive.offset, RECORD + 1))
            if not tarfile.BLOCKSIZE <= len(rest) <= RECORD or rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
        except tarfile.TarError as error:
            raise UserError(f"{name}: not a complete archive ({error}); download it again") from error
        except (ArithmeticError, LookupError, RecursionError, ValueError) as error:
            # tarfile recurses for each header that extends the next, and believes the numbers in it.
            raise UserError(f"{name}: not a complete archive (wrong extended headers); download it again") from error
    if others:
        log.warning("%s: %d of its members are not used: links, devices or sparse files", name, others)


class _Headers:
    """The file of an archive, of which `tarfile` may read only headers: their sizes could be the whole file's."""

    def __init__(self, file: IO[bytes]):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def _check_format(file, name):
    """Raises UserError if a file begins as something that is often found instead of a tar file. Keeps its position."""
    start = file.tell()
    first = file.read(512)
    file.seek(start)
    if first.lstrip().startswith(b"<"):
        raise UserError(f"{name}: is a web page, probably an error message; download it again")
    for beginning, kind, command in COMPRESSED:
        if first.startswith(beginning):
            raise UserError(f"{name}: is compressed by {kind}; decompress it ({command}) into a file of the same name")
