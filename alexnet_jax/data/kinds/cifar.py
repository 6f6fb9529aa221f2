"""CIFAR-10 and CIFAR-100 as their author publishes them, and as the 2012 code reads them."""

import fnmatch
import functools
import json
import logging
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data import archives, sources
from alexnet_jax.data.base import Dataset, Split
from alexnet_jax.runtime import files, untrusted

log = logging.getLogger("alexnet_jax")

AGAIN = "download it again from https://www.cs.toronto.edu/~kriz/cifar.html"
SIZE = 32
PIXELS = 3 * SIZE * SIZE
COUNTS = {"train": 50_000, "test": 10_000}
MOST_BATCH = 2**28  # bytes of a file; CIFAR-100's training images have 155 million


class Layout(NamedTuple):
    """The files of one form of a set.

    Attributes:
      directory, archive: the archive, ARCHIVE.tar.gz, and the directory that it makes.
      train, test, names: the files with the images of each split, and with the names of the classes.
      names_key: in a pickle, the key of these names.
      label: in a pickle, the key of the labels; in a binary file, the number of bytes before an image. The last of
        them is its label.
    """

    directory: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    names_key: str
    label: str | int


BATCHES, NAMES = tuple(f"data_batch_{i}" for i in range(1, 6)), "batches.meta"
FINE = "fine_label_names"
LAYOUTS = {
    "cifar10": (
        Layout("cifar-10-batches-py", "cifar-10-python", BATCHES, ("test_batch",), NAMES, "label_names", "labels"),
        Layout(
            "cifar-10-batches-bin",
            "cifar-10-binary",
            tuple(f"{name}.bin" for name in BATCHES),
            ("test_batch.bin",),
            f"{NAMES}.txt",
            "",
            1,
        ),
        # As the 2012 code reads it: the sixth batch are the test images.
        Layout(
            "cifar-10-py-colmajor", "cifar-10-py-colmajor", BATCHES, ("data_batch_6",), NAMES, "label_names", "labels"
        ),
    ),
    "cifar100": (
        Layout("cifar-100-python", "cifar-100-python", ("train",), ("test",), "meta", FINE, "fine_labels"),
        Layout("cifar-100-binary", "cifar-100-binary", ("train.bin",), ("test.bin",), f"{FINE}.txt", "", 2),
    ),
}


class Cifar(Dataset):
    """50,000 training and 10,000 test images of 32 pixels. The classes are in their author's order, which is sorted.

    CIFAR-100's are the 100 fine ones.
    """

    title = "CIFAR as its author publishes it"
    prepared_size = SIZE
    splits = ("train", "test")
    layout = "its author publishes it as an archive, which holds batches"

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return [name for name in LAYOUTS if _find(name, path)]

    @property
    def stored_size(self) -> int:
        return SIZE

    @functools.cached_property
    def _found(self) -> tuple[Layout, pathlib.Path]:
        """The form of the set, and its directory or, without one, its archive. Raises UserError if there is none."""
        found = _find(self.name, self.directory)
        if not found:
            forms = " or ".join(f"{layout.archive}.tar.gz" for layout in LAYOUTS[self.name])
            raise UserError(f"dataset root {self.root!r}: holds no {self.name} ({forms}); {AGAIN}")
        return found[0]

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}, but {', '.join(self.splits)}")
        layout, path = self._found
        wanted = layout.train if split == "train" else layout.test
        parts = self._read((*wanted, layout.names))
        class_names = self._class_names(parts.pop(layout.names))
        pixels, labels, names = [], [], []
        for name in wanted:
            images_NxSxSx3, labels_N, names_N = self._batch(name, parts.pop(name))
            if not 0 <= labels_N.min() <= labels_N.max() < len(class_names):
                raise UserError(f"{path}, {name}: has a label that is no class; {AGAIN}")
            pixels.append(images_NxSxSx3)
            labels += labels_N.tolist()
            names += names_N
        if len(labels) != COUNTS[split]:
            log.warning("%s: holds %d %s images, but CIFAR has %d", path, len(labels), split, COUNTS[split])
        source = sources.PixelSource(
            f"{self.directory}/{split}", np.concatenate(pixels), labels, names, image_size, stretch, self.orientation
        )
        return Split(source, class_names)

    def _read(self, names: tuple[str, ...]) -> dict[str, bytes]:
        """The bytes of some files of the set. Raises UserError if one is missing."""
        layout, path = self._found
        if files.is_directory(path):
            return {name: files.read_bytes(path / name, MOST_BATCH, AGAIN) for name in names}
        found = archives.packed_members(path, {f"{layout.directory}/{name}": MOST_BATCH for name in names})
        if missing := [name for name in names if f"{layout.directory}/{name}" not in found]:
            raise UserError(f"{path}: holds no {layout.directory}/{missing[0]}; {AGAIN}")
        return {name: found[f"{layout.directory}/{name}"] for name in names}

    def _unpickle(self, name, data):
        _, path = self._found
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            try:
                return untrusted.read(file, "cifar")
            except ValueError as error:
                raise UserError(f"{path}, {name}: cannot be read ({error}); {AGAIN}") from error

    def _class_names(self, data: bytes) -> tuple[str, ...]:
        layout, path = self._found
        if isinstance(layout.label, int):
            names = data.decode("latin1").split()
        else:
            _, texts = self._unpickle(layout.names, data)
            names = json.loads(texts.get(layout.names_key, "[]"))
        if not 1 < len(names) == len(set(names)):
            raise UserError(f"{path}, {layout.names}: holds no names of classes; {AGAIN}")
        return tuple(names)

    def _batch(self, name: str, data: bytes) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The images, uint8 [N, 32, 32, 3], the labels and the names in a file."""
        layout, path = self._found
        if isinstance(layout.label, int):
            length = layout.label + PIXELS
            if not data or len(data) % length:
                raise UserError(f"{path}, {name}: is not whole images of {length} bytes; {AGAIN}")
            rows = np.frombuffer(data, np.uint8).reshape(-1, length)
            labels, planes = rows[:, layout.label - 1].astype(np.int64), rows[:, layout.label :]
            names = [f"{name}/{i}" for i in range(len(rows))]
        else:
            arrays, texts = self._unpickle(name, data)
            planes, labels = arrays.get("data", np.zeros(0)), arrays.get(layout.label, np.zeros(0, np.int64))
            names = json.loads(texts.get("filenames", "[]"))
            if planes.ndim == 2 and planes.shape[0] == PIXELS and len(labels) != PIXELS:
                planes = planes.T  # the 2012 code has an image in a column
            if planes.shape != (len(labels), PIXELS) or not len(labels) or len(names) not in (0, len(labels)):
                raise UserError(f"{path}, {name}: is not images of {SIZE} pixels with labels; {AGAIN}")
            names = names or [f"{name}/{i}" for i in range(len(labels))]
        return np.ascontiguousarray(planes.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)), labels, names


def _find(name: str, path: pathlib.Path) -> list[tuple[Layout, pathlib.Path]]:
    """The forms of a set in a directory, in one of its subdirectories, or in an archive."""
    found = []
    for layout in LAYOUTS[name]:
        archive = f"{layout.archive}*.tar*"  # a browser may add a number or unpack the archive
        if path.is_file() and fnmatch.fnmatch(path.name, archive):
            found.append((layout, path))
        for directory in (path, path / layout.directory):
            if all((directory / name).is_file() for name in (layout.names, *layout.train[:1], *layout.test)):
                found.append((layout, directory))
        found += [(layout, packed) for packed in sorted(path.glob(archive)) if packed.is_file()]
    return found
