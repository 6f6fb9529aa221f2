"""Sources: the images and labels of a split, by index.

`pipeline` reads decoded images from a source; `preparation` reads the encoded bytes.
"""

import dataclasses
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from google.protobuf import message

from alexnet_jax import UserError
from alexnet_jax.data import images
from alexnet_jax.runtime import files

REMEDY = "set config.dataset.root to a new directory, and the images are drawn again"
SECRET = -1  # TFDS's label of an example whose class is not published
MOST_BYTES = 2**29  # of one file; bounds the memory for a huge file that is not an image
ZIP_HEADER = struct.Struct(
    "<4s22xHH"
)  # before each file in a zip file: a mark, and the bytes of its name and of extras


class Source(Protocol):
    """Images with labels.

    Attributes:
      origin: the directory, archive or split of the images, for messages.
      image_size: height and width of the images, in pixels.
    """

    @property
    def origin(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        """Image `i`, uint8 [image_size, image_size, 3], and its label. Raises UserError if it cannot be read."""
        ...

    def name(self, i: int) -> str:
        """The name of image `i` in messages and lists."""
        ...

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        """(name, label, bytes) of every image; or one tuple of a name, -1 and a number that identify all images."""
        ...


class ArraySource:
    """Images in a .npy file, uint8 [N, S, S, 3]. Image i has the label i modulo the number of classes.

    They are read one by one. If the file changes, a read fails; a file mapped to memory would kill the process.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        shape: tuple[int, int, int, int],
        origin: str,
        num_classes: int,
        image_size: int,
    ):
        """Raises UserError if the file does not hold an array of this shape."""
        self.path, self.shape, self.origin = path, shape, origin
        self.num_classes, self.image_size = num_classes, image_size
        self._version = files.version(path, REMEDY)
        files.check_array(path, shape, np.dtype(np.uint8), REMEDY)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        length = math.prod(self.shape[1:])
        offset = self._version[0] - (len(self) - i) * length  # the array ends with the file
        data = files.read_part(self.path, self._version, offset, length, REMEDY)
        image = np.frombuffer(data, np.uint8).reshape(self.shape[1:])
        if len(image) != self.image_size:
            image = images.square(image, self.image_size)
        return image, i % self.num_classes

    def name(self, i: int) -> str:
        return f"{self.origin}/{i}"

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        yield self.origin, -1, len(self)


class EncodedSource:
    """The base class of sources of encoded images, which can be prepared.

    Attributes, in addition to those of `Source`:
      stretch: whether images that are not square are stretched; otherwise they are cropped to their centres.
      orientation: whether images are turned by their EXIF orientation; see `images.decode`.
      lists_labels: whether `labels_by_name` is quick, because it reads no images.
    """

    origin: str
    image_size: int
    stretch: bool
    orientation: str
    lists_labels = True

    @property
    def manifest(self) -> Sequence[Any]:
        """Values whose reprs identify the images and labels of the source."""
        raise NotImplementedError

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        raise NotImplementedError

    @property
    def labels_by_name(self) -> Iterator[tuple[str, int]]:
        """(name, label) of every image."""
        return ((name, label) for name, label, _ in self.listing)

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        data, label = self.read(i)
        return images.decode(data, self.describe(i), self.image_size, self.stretch, self.orientation), label

    def describe(self, i: int) -> str:
        """The path or name of image `i` in messages."""
        return f"{self.origin}, {self.name(i)}"

    def name(self, i: int) -> str:
        raise NotImplementedError

    def read(self, i: int) -> tuple[bytes, int]:
        """The encoded bytes of image `i`, and its label. Raises UserError if they cannot be read."""
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
    orientation: str = "upright"

    @property
    def manifest(self) -> Sequence[Any]:
        try:
            return [(name, label, os.path.getsize(os.path.join(self.origin, name))) for name, label in self.files]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        yield from self.manifest

    @property
    def labels_by_name(self) -> Iterator[tuple[str, int]]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, i: int) -> str:
        return os.path.join(self.origin, self.name(i))

    def name(self, i: int) -> str:
        return self.files[i][0]

    def read(self, i: int) -> tuple[bytes, int]:
        return read_file(self.describe(i), "restore it, or run the same command again"), self.files[i][1]

    def part(self, start: int, stop: int) -> EncodedSource:
        return dataclasses.replace(self, files=self.files[start:stop])


class Member(NamedTuple):
    """An image in an archive. It has `size` bytes from `offset` on; in a zip file, from behind the header there.

    Attributes:
      archive: which of the archives it is in.
      crc: in a zip file, the checksum of the image.
      deflated: in a zip file, whether the bytes are compressed.
    """

    offset: int
    size: int
    name: str
    label: int
    archive: int = 0
    crc: int | None = None
    deflated: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveSource(EncodedSource):
    """Members of tar or zip files, which are read in place."""

    origin: str
    archives: Sequence[tuple[str, files.Version]]  # their paths, and their versions when the members were listed
    members: Sequence[Member]
    image_size: int
    stretch: bool = False
    orientation: str = "stored"

    @property
    def manifest(self) -> Sequence[Any]:
        return [tuple(member[:4]) for member in self.members]

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        return ((member.name, member.label, member.size) for member in self.members)

    def __len__(self) -> int:
        return len(self.members)

    def describe(self, i: int) -> str:
        return f"{self.archives[self.members[i].archive][0]}, {self.name(i)}"

    def name(self, i: int) -> str:
        return self.members[i].name

    def read(self, i: int) -> tuple[bytes, int]:
        offset, size, _, label, archive, crc, deflated = self.members[i]
        path, version = self.archives[archive]
        if crc is None:
            return files.read_part(path, version, offset, min(size, MOST_BYTES), "restore it"), label
        header = files.read_part(path, version, offset, ZIP_HEADER.size, "restore it")
        mark, name_length, extra_length = ZIP_HEADER.unpack(header)
        offset += ZIP_HEADER.size + name_length + extra_length
        data = files.read_part(path, version, offset, min(size, MOST_BYTES), "restore it")
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MOST_BYTES) if deflated else data
        except zlib.error:
            data = b""
        if mark != b"PK\3\4" or zlib.crc32(data) != crc:
            raise UserError(f"{self.describe(i)}: is damaged in the zip file; download it again")
        return data, label

    def part(self, start: int, stop: int) -> EncodedSource:
        return dataclasses.replace(self, members=self.members[start:stop])


@dataclasses.dataclass(frozen=True, eq=False)
class PixelSource(EncodedSource):
    """Images that are stored as pixels, in memory: uint8 [N, S, S, 3], and their labels and names."""

    origin: str
    pixels: np.ndarray
    labels: Sequence[int]
    names: Sequence[str]
    image_size: int
    stretch: bool = False
    orientation: str = "upright"

    @property
    def manifest(self) -> Sequence[Any]:
        return hashlib.sha256(self.pixels.tobytes()).hexdigest(), *self.labels

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        # With a checksum: all images have the same number of bytes.
        return zip(self.names, self.labels, map(zlib.crc32, self.pixels), strict=True)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return images.square(self.pixels[i], self.image_size, self.stretch), self.labels[i]

    def name(self, i: int) -> str:
        return self.names[i]

    def read(self, i: int) -> tuple[bytes, int]:
        """Image `i` as PNG, which is lossless, and its label."""
        return images.png(self.pixels[i]), self.labels[i]

    def part(self, start: int, stop: int) -> EncodedSource:
        place = slice(start, stop)
        return dataclasses.replace(self, pixels=self.pixels[place], labels=self.labels[place], names=self.names[place])


class SecretLabelsError(UserError):
    """The labels of a test set are not published."""


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource(EncodedSource):
    """Records `start` to `stop` of a TFDS set, of `tf.train.Example`: `image`, `label` and optionally `file_name`."""

    records: Sequence[bytes]
    origin: str
    identity: Any  # identifies the files of the data set
    image_size: int
    stretch: bool
    start: int
    stop: int
    num_classes: int
    orientation: str = "upright"
    lists_labels = False

    @property
    def manifest(self) -> Sequence[Any]:
        return self.identity, self.start, self.stop

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        yield hashlib.sha256(repr(self.manifest).encode()).hexdigest(), -1, len(self)

    @property
    def labels_by_name(self) -> Iterator[tuple[str, int]]:
        return ((self.name(i), self.read(i)[1]) for i in range(len(self)))

    def __len__(self) -> int:
        return self.stop - self.start

    def describe(self, i: int) -> str:
        return f"{self.origin}, example {self.start + i}"

    def _features(self, i: int) -> Any:
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            return tf_example_pb2.Example.FromString(self.records[self.start + i]).features.feature
        except message.DecodeError as error:
            raise UserError(f"{self.describe(i)}: cannot be read ({error}); build the set again") from error

    def name(self, i: int) -> str:
        names = self._features(i)["file_name"].bytes_list.value
        return names[0].decode(errors="replace") if names else f"{self.origin}/{self.start + i}"

    def read(self, i: int) -> tuple[bytes, int]:
        features = self._features(i)
        data, labels = features["image"].bytes_list.value, features["label"].int64_list.value
        if len(data) != 1 or len(labels) != 1 or not SECRET <= labels[0] < self.num_classes:
            raise UserError(f"{self.describe(i)}: not an image with a label; build the set again")
        if labels[0] == SECRET:
            raise SecretLabelsError(f"{self.origin}: its labels are secret; use another split")
        return data[0], labels[0]

    def part(self, start: int, stop: int) -> EncodedSource:
        return dataclasses.replace(self, start=self.start + start, stop=self.start + stop)


def read_file(path: str | os.PathLike, remedy: str = "") -> bytes:
    """The bytes of an image file, MOST_BYTES at most. Raises UserError, with the remedy, if it cannot be read."""
    return files.read_bytes(path, MOST_BYTES, remedy)
