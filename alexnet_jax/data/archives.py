"""The official archives of ILSVRC2012, read without extracting them."""

import functools
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split

RECORD = 2**20  # bytes; more than the zeros at the end of an archive: tar pads to 10 kB, other tools a little more
TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class ImagenetArchives(Dataset):
    """The training and validation images in the two archives of a directory; class names are WordNet ids, sorted.

    A training image's class is the name of its inner archive. A validation image's class is looked up by the number in
    its file name, so that a missing file does not shift the labels of the others.
    """

    splits = ("train", "validation")

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.splits:
            raise UserError(f"the archives of ImageNet have no split {split!r}, but {', '.join(self.splits)}")
        if missing := [name for name in (TRAIN, VALIDATION) if not (self.directory / name).is_file()]:
            raise UserError(
                f"dataset root {self.root!r}: {' and '.join(missing)} not found; download from https://image-net.org/download"
            )
        path = self.directory / (TRAIN if split == "train" else VALIDATION)
        members = list((_training_images if split == "train" else _validation_images)(path))
        if not members:
            raise UserError(f"{path}: holds no images; download it again")
        return Split(sources.ArchiveSource(str(path), members, image_size, stretch), _class_names())


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
        for image in _members(path, member):
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
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size
            if within:
                file.seek(within.offset_data)
                end = within.offset_data + within.size
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} goes beyond its end")
                    if member.isfile():
                        yield member
                # tarfile stops at any block that is not a header. An intact archive ends in at least a block of zeros.
                file.seek(archive.offset)
                rest = file.read(min(end - archive.offset, RECORD + 1))
            if not tarfile.BLOCKSIZE <= len(rest) <= RECORD or rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except tarfile.TarError as error:
        name = f"{path}, {within.name}" if within else path
        raise UserError(f"{name}: not a complete archive ({error}); download it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
