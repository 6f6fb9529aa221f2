"""ImageNet as its authors publish it: the archives of ILSVRC2012 and ILSVRC2010, read without extracting them.

A development kit numbers the classes in an order of its own. Here they are in the order of their WordNet ids.
"""

import collections
import functools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from alexnet_jax import UserError
from alexnet_jax.data import archives, sources
from alexnet_jax.data.base import Dataset, Split
from alexnet_jax.data.class_names import imagenet_names, kit_numbers
from alexnet_jax.runtime import files, untrusted

TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
MOST_KIT = 2**24  # bytes of a file in a development kit
CLASSES = 1000  # of ILSVRC2010 and ILSVRC2012; a kit also describes the groups that they form


class Archives(Dataset):
    """The images in official archives; class names are WordNet ids, sorted.

    A training image's class is the name of its inner archive. The class of another image is looked up by the number in
    its file name, so that a missing file does not shift the labels of the others.

    Attributes:
      year: of the challenge.
      archives: the archive of each split.
      site: where they come from.
    """

    year: int
    archives: dict[str, str]
    site: str
    default_orientation = "stored"  # as in 2012

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.archives)

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.archives:
            raise UserError(f"the archives of ImageNet have no split {split!r}, but {', '.join(self.splits)}")
        if missing := [name for name in self.needed if not files.exists(self.directory / name)]:
            packed = [name for name in missing if files.exists(self.directory / f"{name}.gz")]
            remedy = f"decompress {packed[0]}.gz" if packed else self.site
            raise UserError(f"dataset root {self.root!r}: {' and '.join(missing)} not found; {remedy}")
        path = self.directory / self.archives[split]
        version = files.version(path)
        members = list(self._training_images(path) if split == "train" else self._numbered_images(path, split))
        if not members:
            raise UserError(f"{path}: holds no images; download it again")
        names = collections.Counter(member.name for member in members)
        if len(names) < len(members):
            ((name, count),) = names.most_common(1)
            raise UserError(f"{path}: holds {name!a} {count} times; download it again")
        source = sources.ArchiveSource(
            str(path), ((str(path), version),), members, image_size, stretch, self.orientation
        )
        return Split(source, self.class_names)

    @property
    def needed(self) -> Sequence[str]:
        """The files that must be there."""
        return tuple(self.archives.values())

    @property
    def class_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    def numbered(self, split: str) -> Sequence[str]:
        """The class of every image of a split, by the numbers in their file names from 1 on."""
        raise NotImplementedError

    @property
    def _labels(self):
        return {class_name: label for label, class_name in enumerate(self.class_names)}

    def _training_images(self, path: pathlib.Path) -> Iterator[sources.Member]:
        labels = self._labels
        for inner in archives.tar_members(path):
            class_name, dot, _ = os.path.basename(inner.name).partition(".")
            if class_name not in labels or not dot:
                raise UserError(f"{path}: {inner.name} is not a class of ILSVRC{self.year}; use its training archive")
            images = list(archives.tar_members(path, inner))
            if not images:
                raise UserError(f"{path}, {inner.name}: not a complete archive (holds no images); download it again")
            for image in images:
                yield sources.Member(image.offset_data, image.size, os.path.basename(image.name), labels[class_name])

    def _numbered_images(self, path: pathlib.Path, split: str) -> Iterator[sources.Member]:
        labels, classes = self._labels, self.numbered(split)
        short, full = {"validation": "val"}.get(split, split), {"validation": "validation"}.get(split, split)
        for image in archives.tar_members(path):
            number = re.search(rf"_{short}_(\d{{8}})\.JPEG$", image.name)
            if not number or not 1 <= int(number[1]) <= len(classes):
                raise UserError(f"{path}: {image.name} is not an image of ILSVRC{self.year}; use its {full} archive")
            label = labels[classes[int(number[1]) - 1]]
            yield sources.Member(image.offset_data, image.size, os.path.basename(image.name), label)


class Ilsvrc2012(Archives):
    """The training and validation images of ILSVRC2012. If its development kit lies beside them, it is checked."""

    title = "the archives of ILSVRC2012"
    year = 2012
    archives = {"train": TRAIN, "validation": VALIDATION}
    kit = "ILSVRC2012_devkit_t12.tar.gz"
    site = "download from https://image-net.org/download"

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return ["imagenet"] if any(files.exists(path / name) for name in cls.archives.values()) else []

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(imagenet_names())

    def numbered(self, split: str) -> Sequence[str]:
        path = self.directory / self.kit
        if files.exists(path):
            classes, numbers = read_kit(path, self.year)
            if classes != kit_numbers():
                raise UserError(f"{path}: its classes are not those of ILSVRC2012; download it again")
            if len(numbers) != (count := len(validation_classes())):
                raise UserError(
                    f"{path}: has {len(numbers):,} labels for {count:,} validation images; download it again"
                )
            check_labels(path, enumerate((classes.get(number, "") for number in numbers), 1))
        return validation_classes()


@functools.cache
def validation_classes() -> tuple[str, ...]:
    """The WordNet id of every validation image of ILSVRC2012, by its number from 1 on, as TFDS includes them."""
    import tensorflow_datasets as tfds

    return tuple(tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split())


def check_labels(path: files.Path, labels: Iterable[tuple[int, str]]) -> None:
    """Raises UserError if a validation image of ILSVRC2012, (number, WordNet id), has another class than published."""
    published = validation_classes()
    for number, class_name in labels:
        if not 1 <= number <= len(published) or published[number - 1] != class_name:
            expected = published[number - 1] if 1 <= number <= len(published) else "none"
            raise UserError(
                f"{path}: labels the validation image {number} as {class_name!a}, but its class is {expected}; "
                "download it again"
            )


class Ilsvrc2010(Archives):
    """The training, validation and test images of ILSVRC2010 (Table 1), which needs its development kit.

    The test labels are a file of their own. `patch_images.tar`, if it is there, replaces the images that are broken in
    the archives.
    """

    title = "the archives of ILSVRC2010"
    year = 2010
    archives = {
        "train": "ILSVRC2010_images_train.tar",
        "validation": "ILSVRC2010_images_val.tar",
        "test": "ILSVRC2010_images_test.tar",
    }
    kits = ("ILSVRC2010_devkit-1.0.tar.gz", "devkit-1.0.tar.gz")
    test_labels = "ILSVRC2010_test_ground_truth.txt"
    patches = "patch_images.tar"
    site = "download from https://image-net.org/challenges/LSVRC/2010/2010-downloads.php"

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return ["imagenet2010"] if any(files.exists(path / name) for name in cls.archives.values()) else []

    @property
    def needed(self) -> Sequence[str]:
        return (*self.archives.values(), self._kit.name, self.test_labels)

    @property
    def _kit(self) -> pathlib.Path:
        found = [name for name in self.kits if files.exists(self.directory / name)]
        return self.directory / (found or self.kits)[0]

    @functools.cached_property
    def _described(self) -> tuple[dict[int, str], list[int]]:
        return read_kit(self._kit, self.year)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(self._described[0].values()))

    def numbered(self, split: str) -> Sequence[str]:
        classes, numbers = self._described
        path = self._kit
        if split == "test":
            path = self.directory / self.test_labels
            numbers = parse_numbers(path, files.read_text(path, "download it again"))
        if (unknown := next((number for number in numbers if number not in classes), None)) is not None:
            raise UserError(f"{path}: has the label {unknown}; the classes are 1 to {CLASSES}; download it again")
        return [classes[number] for number in numbers]

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        loaded = super().load(split, image_size, stretch)
        path, source = self.directory / self.patches, loaded.source
        if not files.exists(path) or not isinstance(source, sources.ArchiveSource):
            return loaded
        version = files.version(path)
        patches = {os.path.basename(member.name): member for member in archives.tar_members(path)}
        members = [
            member._replace(offset=patch.offset_data, size=patch.size, archive=1)
            if (patch := patches.get(member.name))
            else member
            for member in source.members
        ]
        both = (*source.archives, (str(path), version))
        return Split(
            sources.ArchiveSource(source.origin, both, members, image_size, stretch, self.orientation),
            loaded.class_names,
        )


def read_kit(path: pathlib.Path, year: int) -> tuple[dict[int, str], list[int]]:
    """A development kit of ILSVRC: the WordNet ids of its classes by its numbers, and those of the validation images.

    Raises:
      UserError: it cannot be read, or describes something else.
    """
    meta, labels = "data/meta.mat", f"data/ILSVRC{year}_validation_ground_truth.txt"
    found = archives.packed_members(path, {meta: MOST_KIT, labels: MOST_KIT})
    if missing := [name for name in (meta, labels) if name not in found]:
        raise UserError(f"{path}: holds no {' and no '.join(missing)}; download it again")
    with tempfile.TemporaryFile() as file:
        file.write(found[meta])
        file.flush()
        try:
            arrays, texts = untrusted.read(file, "mat")
            synsets = json.loads(texts["WNID"])
            classes = {int(i): str(synset) for i, synset in zip(arrays["ids"], synsets, strict=True) if i <= CLASSES}
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: its meta.mat cannot be read ({error}); download it again") from error
    if sorted(classes) != list(range(1, CLASSES + 1)) or len(set(classes.values())) != CLASSES:
        raise UserError(f"{path}: its meta.mat does not describe {CLASSES} classes; download it again")
    return classes, parse_numbers(path, found[labels].decode("latin1"))


def parse_numbers(path: pathlib.Path, text: str) -> list[int]:
    """The numbers in a text, one on each line. Raises UserError if it holds something else."""
    lines = text.split()
    if not lines or not all(line.isascii() and line.isdigit() and len(line) < 9 for line in lines):
        raise UserError(f"{path}: its labels are not numbers, one on each line; download it again")
    return [int(line) for line in lines]
