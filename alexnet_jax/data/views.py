"""Views: sources that show another source with other labels, or some of its images."""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data.sources import EncodedSource, Source


class RelabelledSource:
    """A source whose label l becomes labels[l]."""

    def __init__(self, source: Source, labels: Sequence[int]):
        self.source, self.labels = source, labels
        self.origin, self.image_size = source.origin, source.image_size

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image, label = self.source[i]
        return image, self.labels[label]

    def name(self, i: int) -> str:
        return self.source.name(i)

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        return _relabelled(self.source.listing, self.labels)


class EncodedView(EncodedSource):
    """The base class of encoded sources that show another one differently."""

    def __init__(self, source: EncodedSource):
        self.source = source
        self.origin, self.image_size = source.origin, source.image_size
        self.stretch, self.orientation = source.stretch, source.orientation
        self.lists_labels = source.lists_labels

    def __len__(self) -> int:
        return len(self.source)

    def describe(self, i: int) -> str:
        return self.source.describe(i)

    def name(self, i: int) -> str:
        return self.source.name(i)


class RelabelledEncodedSource(EncodedView):
    """An encoded source whose label l becomes labels[l]."""

    def __init__(self, source: EncodedSource, labels: Sequence[int]):
        super().__init__(source)
        self.labels = labels

    @property
    def labels_by_name(self) -> Iterator[tuple[str, int]]:
        return ((name, self.labels[label]) for name, label in self.source.labels_by_name)

    @property
    def manifest(self) -> Sequence[Any]:
        return self.labels, self.source.manifest

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        return _relabelled(self.source.listing, self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        image, label = self.source[i]
        return image, self.labels[label]

    def read(self, i: int) -> tuple[bytes, int]:
        data, label = self.source.read(i)
        return data, self.labels[label]

    def part(self, start: int, stop: int) -> EncodedSource:
        return RelabelledEncodedSource(self.source.part(start, stop), self.labels)


class SelectedSource(EncodedView):
    """Some images of an encoded source, by their indices in rising order."""

    def __init__(self, source: EncodedSource, indices: Sequence[int]):
        super().__init__(source)
        self.indices = indices

    @property
    def manifest(self) -> Sequence[Any]:
        return self.indices, self.source.manifest

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        listed = list(self.source.listing)
        return (listed[i] for i in self.indices)

    @property
    def labels_by_name(self) -> Iterator[tuple[str, int]]:
        listed = list(self.source.labels_by_name)
        return (listed[i] for i in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.source[self.indices[i]]

    def describe(self, i: int) -> str:
        return self.source.describe(self.indices[i])

    def name(self, i: int) -> str:
        return self.source.name(self.indices[i])

    def read(self, i: int) -> tuple[bytes, int]:
        return self.source.read(self.indices[i])

    def part(self, start: int, stop: int) -> EncodedSource:
        indices = self.indices[start:stop]
        first = indices[0] if indices else 0
        last = indices[-1] + 1 if indices else 0
        return SelectedSource(self.source.part(first, last), [i - first for i in indices])


def hold_out(source: EncodedSource, fraction: float, class_names: Sequence[str]) -> tuple[EncodedSource, EncodedSource]:
    """Divides a source into training and validation images: `fraction` of every class, at least one image.

    A hash of their names chooses them, so that they are the same in any order and on any machine.

    Raises:
      UserError: a class has only one image.
    """
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for i, (name, label) in enumerate(source.labels_by_name):
        digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode(errors="surrogateescape")).digest()
        by_class.setdefault(label, []).append((digest, i))
    chosen: set[int] = set()
    for label, hashed in by_class.items():
        if len(hashed) < 2:
            raise UserError(
                f"{source.describe(hashed[0][1])}: is the only image of the class {class_names[label]!a}, of which "
                "--holdout takes one for validation; add images or remove the class"
            )
        count = min(max(1, round(fraction * len(hashed))), len(hashed) - 1)
        chosen.update(i for _, i in sorted(hashed)[:count])
    rest = [i for i in range(len(source)) if i not in chosen]
    return SelectedSource(source, rest), SelectedSource(source, sorted(chosen))


def _relabelled(listing, labels):
    return ((name, label if label < 0 else labels[label], size) for name, label, size in listing)
