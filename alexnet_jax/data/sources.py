"""Splits of data sets as `input_pipeline` and `prepare` read them.

A source has `len(source)`, `source.image_size`, `source[i]`, an image [image_size, image_size, 3] uint8 with its label,
and `source.name(i)` to tell people which image that is. Those of encoded images also have `source.read(i)`, the bytes
with their label, `source.part(start, stop)`, a smaller source, and `source.listing`, which tells sources of other
images or labels apart.
"""

import os

from alexnet_jax import UserError
from alexnet_jax.data import images


class ArraySource:
    """Images in one array [N, S, S, 3], uint8; the labels go round the classes."""

    def __init__(self, images, origin, num_classes, image_size):
        self.images, self.origin, self.num_classes, self.image_size = images, origin, num_classes, image_size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = self.images[i]
        if len(image) != self.image_size:
            image = images.square(image, self.image_size)
        return image, i % self.num_classes

    def name(self, i):
        return f"{self.origin}/{i}"


MOST_BYTES = 2**29  # of a file that could be an image: memory is bounded, whatever lies among them


class FileSource:
    """Image files in a directory, as (path below it, label)."""

    def __init__(self, origin, files, image_size, stretch=False):
        self.origin, self.files, self.image_size, self.stretch = origin, files, image_size, stretch

    @property
    def listing(self):
        try:
            return [(name, label, os.path.getsize(os.path.join(self.origin, name))) for name, label in self.files]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        data, label = self.read(i)
        return images.decode(data, os.path.join(self.origin, self.name(i)), self.image_size, self.stretch), label

    def name(self, i):
        return self.files[i][0]

    def read(self, i):
        name, label = self.files[i]
        path = os.path.join(self.origin, name)
        try:
            with open(path, "rb") as file:
                return file.read(MOST_BYTES), label
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error

    def part(self, start, stop):
        return FileSource(self.origin, self.files[start:stop], self.image_size, self.stretch)


class ArchiveSource:
    """Members of a tar file, as (offset, bytes, name, label)."""

    def __init__(self, origin, members, image_size):
        self.origin, self.members, self.image_size = origin, members, image_size
        self.listing = members

    def __len__(self):
        return len(self.members)

    def __getitem__(self, i):
        data, label = self.read(i)
        return images.decode(data, f"{self.origin}, {self.name(i)}", self.image_size), label

    def name(self, i):
        return self.members[i][2]

    def read(self, i):
        offset, size, name, label = self.members[i]
        try:
            with open(self.origin, "rb") as archive:
                data = os.pread(archive.fileno(), min(size, MOST_BYTES), offset)
        except OSError as error:
            raise UserError(f"{self.origin}: cannot be read ({error.strerror})") from error
        return data, label

    def part(self, start, stop):
        return ArchiveSource(self.origin, self.members[start:stop], self.image_size)


class SecretLabelsError(UserError):
    """A test set whose answers are not published."""


class TfdsSource:
    """Examples of a TFDS data set that have an encoded `image`, a `label` and perhaps a `file_name`."""

    def __init__(self, data_source, origin, identity, image_size, stretch=False, start=0, stop=None):
        self.data_source, self.origin, self.identity = data_source, origin, identity
        self.image_size, self.stretch = image_size, stretch
        self.start, self.stop = start, len(data_source) if stop is None else stop

    @property
    def listing(self):
        return self.identity, self.start, self.stop

    def __len__(self):
        return self.stop - self.start

    def __getitem__(self, i):
        data, label = self.read(i)
        return images.decode(data, f"{self.origin}, example {self.start + i}", self.image_size, self.stretch), label

    def _example(self, i):
        try:
            return self.data_source[self.start + i]
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            why = str(error).splitlines()[0][:200]
            raise UserError(
                f"{self.origin}, example {self.start + i}: cannot be read ({why}); build it again"
            ) from error

    def name(self, i):
        example = self._example(i)
        file_name = example.get("file_name", f"{self.origin}/{self.start + i}")
        return file_name.decode() if isinstance(file_name, bytes) else str(file_name)

    def read(self, i):
        example = self._example(i)
        if example["label"] < 0:
            raise SecretLabelsError(f"{self.origin}: its labels are secret; use another split")
        return example["image"], int(example["label"])

    def part(self, start, stop):
        start, stop = self.start + start, self.start + stop
        return TfdsSource(self.data_source, self.origin, self.identity, self.image_size, self.stretch, start, stop)


class Relabelled:
    """A source whose label l becomes labels[l]."""

    def __init__(self, source, labels):
        self.source, self.labels = source, labels
        self.origin, self.image_size, self.name = source.origin, source.image_size, source.name

    @property
    def listing(self):
        return self.labels, self.source.listing

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        image, label = self.source[i]
        return image, self.labels[label]

    def read(self, i):
        data, label = self.source.read(i)
        return data, self.labels[label]

    def part(self, start, stop):
        return Relabelled(self.source.part(start, stop), self.labels)
