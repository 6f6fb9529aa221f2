"""One split of a data set: images with labels, by index.

`pipeline` reads decoded images from a source, `preparation` the encoded bytes.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data import images

MOST_BYTES = 2**29  # of one file: bounds the memory that a file takes which is no image


class Source(Protocol):
    """Images with labels.

    Attributes:
      origin: where the images come from, for messages.
      image_size: height and width of the images, in pixels.
    """

    origin: str
    image_size: int

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Image `i`, uint8 [image_size, image_size, 3], and its label. Raises UserError if it cannot be read."""
        ...

    def name(self, i: int) -> str:
        """What people call image `i`."""
        ...


class ArraySource:
    """Images in one array [N, S, S, 3], uint8. Image i has the label i modulo the number of classes."""

    def __init__(self, pixels: np.ndarray, origin: str, num_classes: int, image_size: int):
        self.pixels, self.origin, self.num_classes, self.image_size = pixels, origin, num_classes, image_size

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        image = self.pixels[i]
        if len(image) != self.image_size:
            image = images.square(image, self.image_size)
        return image, i % self.num_classes

    def name(self, i):
        return f"{self.origin}/{i}"


class EncodedSource:
    """A source of encoded images, which can be prepared.

    Attributes, beside those of `Source`:
      stretch: whether images that are not square are stretched; otherwise their centres are taken.
      manifest: what tells sources with other images or labels apart.
    """

    origin: str
    image_size: int
    stretch: bool
    manifest: Any

    def __getitem__(self, i):
        data, label = self.read(i)
        return images.decode(data, self.describe(i), self.image_size, self.stretch), label

    def describe(self, i: int) -> str:
        """What a message calls image `i`."""
        return f"{self.origin}, {self.name(i)}"

    def name(self, i: int) -> str:
        raise NotImplementedError

    def read(self, i: int) -> tuple[bytes, int]:
        """The bytes of image `i`, and its label. Raises UserError if they cannot be read."""
        raise NotImplementedError

    def part(self, start: int, stop: int) -> "EncodedSource":
        """The images from `start` to `stop`, as a source."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class FileSource(EncodedSource):
    """Image files below the directory `origin`, as (path, label)."""

    origin: str
    files: Sequence[tuple[str, int]]
    image_size: int
    stretch: bool = False

    @property
    def manifest(self):
        try:
            return [(name, label, os.path.getsize(os.path.join(self.origin, name))) for name, label in self.files]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def __len__(self):
        return len(self.files)

    def describe(self, i):
        return os.path.join(self.origin, self.name(i))

    def name(self, i):
        return self.files[i][0]

    def read(self, i):
        return read_file(self.describe(i)), self.files[i][1]

    def part(self, start, stop):
        return dataclasses.replace(self, files=self.files[start:stop])


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveSource(EncodedSource):
    """Members of the tar file `origin`, as (offset, bytes, name, label)."""

    origin: str
    members: Sequence[tuple[int, int, str, int]]
    image_size: int
    stretch: bool = False

    @property
    def manifest(self):
        return self.members

    def __len__(self):
        return len(self.members)

    def name(self, i):
        return self.members[i][2]

    def read(self, i):
        offset, size, _, label = self.members[i]
        try:
            with open(self.origin, "rb") as archive:
                return os.pread(archive.fileno(), min(size, MOST_BYTES), offset), label
        except OSError as error:
            raise UserError(f"{self.origin}: cannot be read ({error.strerror})") from error

    def part(self, start, stop):
        return dataclasses.replace(self, members=self.members[start:stop])


class SecretLabelsError(UserError):
    """A test set whose labels are not published."""


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource(EncodedSource):
    """Examples `start` to `stop` of a TFDS data source with an encoded `image`, a `label` and perhaps a `file_name`."""

    examples: Any
    origin: str
    identity: Any  # of the data set
    image_size: int
    stretch: bool
    start: int
    stop: int

    @property
    def manifest(self):
        return self.identity, self.start, self.stop

    def __len__(self):
        return self.stop - self.start

    def describe(self, i):
        return f"{self.origin}, example {self.start + i}"

    def _example(self, i):
        try:
            return self.examples[self.start + i]
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            why = str(error).splitlines()[0][:200]
            raise UserError(f"{self.describe(i)}: cannot be read ({why}); build it again") from error

    def name(self, i):
        file_name = self._example(i).get("file_name", f"{self.origin}/{self.start + i}")
        return file_name.decode() if isinstance(file_name, bytes) else str(file_name)

    def read(self, i):
        example = self._example(i)
        if example["label"] < 0:
            raise SecretLabelsError(f"{self.origin}: its labels are secret; use another split")
        return example["image"], int(example["label"])

    def part(self, start, stop):
        return dataclasses.replace(self, start=self.start + start, stop=self.start + stop)


@dataclasses.dataclass(frozen=True, eq=False)
class Relabelled:
    """A source whose label l becomes labels[l]."""

    source: Any
    labels: Sequence[int]

    @property
    def origin(self):
        return self.source.origin

    @property
    def image_size(self):
        return self.source.image_size

    @property
    def manifest(self):
        return self.labels, self.source.manifest

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        image, label = self.source[i]
        return image, self.labels[label]

    def name(self, i):
        return self.source.name(i)

    def read(self, i):
        data, label = self.source.read(i)
        return data, self.labels[label]

    def part(self, start, stop):
        return Relabelled(self.source.part(start, stop), self.labels)


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of an image file, MOST_BYTES at most. Raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
