"""The base class of data sets, and their splits and statistics."""

import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data import class_names as names
from alexnet_jax.data import sources, views
from alexnet_jax.runtime import files


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the training images, RGB, 0–255.

    Attributes:
      mean: float32, the mean image [S, S, 3] or, if the data set has none of this size, the channel means [3].
      colour_std, colour_axes: standard deviations [3] along the principal axes of RGB, the columns of [3, 3]; float32.
    """

    mean: np.ndarray
    colour_std: np.ndarray
    colour_axes: np.ndarray

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray) -> "Statistics":
        """The statistics of images with this mean and this covariance [3, 3] of RGB."""
        variances, axes = np.linalg.eigh(covariance)
        colour_std = np.sqrt(np.maximum(variances, 0))  # rounding can make a variance negative
        return cls(*(x.astype(np.float32) for x in (mean, colour_std, axes)))


# ImageNet's 256×256 training images, from the metadata that cuda-convnet2 published.
IMAGENET = Statistics(
    mean=np.array([127.305, 119.715, 104.913], np.float32),
    colour_std=np.array([19.72083305, 37.09388853, 121.78006099], np.float32),
    colour_axes=np.array(
        [
            [0.41795513, -0.71257945, -0.56351045],
            [-0.81698062, -0.02354167, -0.5761844],
            [0.39731118, 0.70119634, -0.59200296],
        ],
        np.float32,
    ),
)


class Split(NamedTuple):
    """A source, and the class name of each label."""

    source: sources.Source
    class_names: tuple[str, ...]

    def relabelled(self, class_names: tuple[str, ...]) -> sources.Source:
        """The source with labels that index `class_names`. Raises UserError if the split has other classes."""
        own_names = [normalized(name) for name in self.class_names]
        if own_names == [normalized(name) for name in class_names]:
            return self.source
        own_names = list(names.translated(own_names, class_names))
        label_of = {normalized(name): label for label, name in enumerate(class_names)}
        labels = [label_of.get(name, -1) for name in own_names]
        if missing := self._missing(own_names, labels):
            shown = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
            raise UserError(
                f"{self.source.origin}: {len(missing)} of its classes ({shown}) are not among the {len(class_names)} "
                "of the training images; use images of those classes under the same names"
            )
        if isinstance(self.source, sources.EncodedSource):
            return views.RelabelledEncodedSource(self.source, labels)
        return views.RelabelledSource(self.source, labels)

    def _missing(self, own_names, labels):
        """The names of the classes that have images but no label, sorted; all without a label if that is unknown."""
        missing = {name for name, label in zip(own_names, labels, strict=True) if label < 0}
        if missing and isinstance(self.source, sources.EncodedSource) and self.source.lists_labels:
            missing &= {own_names[label] for _, label in self.source.labels_by_name}
        return sorted(missing)


def check_class_names(origin: files.Path, class_names: Sequence[str]) -> None:
    """Raises UserError for class names that TFDS, which keeps them as lines of a UTF-8 file, would change."""
    for name in class_names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{origin}: a class name is not UTF-8 ({name!a}); rename the class") from error
        if name.splitlines() != [name.strip()]:
            raise UserError(
                f"{origin}: a class name is empty or has a space at an end or a line break ({name!a}); rename it"
            )
    if len(set(map(normalized, class_names))) < len(class_names):
        raise UserError(f"{origin}: two classes have the same name; rename one")


def normalized(class_name: str) -> str:
    """A class name in Unicode's form NFC, to compare names that file systems and programs store in different forms."""
    return unicodedata.normalize("NFC", class_name)


class Dataset:
    """A data set. Each kind is a subclass; `datasets.KINDS` lists them.

    Attributes:
      name: as in `config.dataset.name`.
      root: the directory, '' for the default.
      title: of the kind, for messages.
      default_orientation: of the kind.
      default_root: the default directory; '' if the kind has none.
      layout: the layout of the directory, for messages.
      takes_name: whether the kind needs a name after a colon, as 'tfds:cifar10'.
      needs_root: whether `alexnet_jax.prepare` needs a root.
      owns_root: whether everything below the root belongs to the data set.
      preparable: whether `alexnet_jax.prepare` can read it; its sources must then be `sources.EncodedSource`.
      cropped: whether its images were made square by cropping.
      prepared_size: height and width in pixels that `alexnet_jax.prepare` gives its images.
      test_is_final: whether the final evaluation uses the test split, if it exists. Otherwise it uses the validation
        split, because the labels of the test images may be secret.
    """

    title = ""
    default_orientation = "upright"
    default_root = ""
    layout = ""
    takes_name = False
    needs_root = True
    owns_root = False
    preparable = True
    cropped = False
    prepared_size = 256
    test_is_final = True

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        """The names, as in `config.dataset.name`, of the data sets of this kind in a directory, or in an archive.

        A kind that `--dataset=auto` shall find overrides it. It looks at names of files, and reads as little as it can.
        """
        return []

    def __init__(self, name: str, root: str, orientation: str | None = None):
        self.name, self.root = name, root
        self._orientation = orientation

    @property
    def recorded_name(self) -> str:
        """The name that `alexnet_jax.prepare` records."""
        return self.name

    @property
    def orientation(self) -> str:
        """Whether images are turned by their EXIF orientation; see `images.decode`. Raises UserError if unknown."""
        return self._orientation or self.default_orientation

    @property
    def directory(self) -> pathlib.Path:
        return files.absolute(self.root or self.default_root)

    @property
    def absolute_root(self) -> str:
        """The root as an absolute path; '' for the default root of a kind that has no default directory."""
        root = self.root or self.default_root
        return root and os.path.abspath(files.absolute(root))

    @property
    def stored_size(self) -> int | None:
        """Height and width of its images in pixels, if they are the same for all; otherwise None."""
        return None

    @property
    def undivided(self) -> bool:
        """Whether its images are not divided into splits; they are all 'train' then. Raises as `load`."""
        return False

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits: 'train', 'validation', 'test' and perhaps others. Raises as `load`."""
        raise NotImplementedError

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        """Loads a split.

        Args:
          split: one of `splits`; for TFDS also a slice, as 'train[:10%]'.
          image_size: height and width of the source's images, in pixels.
          stretch: whether images that are not square are stretched; otherwise they are cropped to their centres.

        Raises:
          UserError: the data set or the split does not exist, or is incomplete.
        """
        raise NotImplementedError

    def statistics(self, image_size: int) -> Statistics:
        """The statistics of the training images; ImageNet's if the data set has none. Raises as `load`."""
        return IMAGENET

    def held_out(self) -> tuple[str, str]:
        """The splits for validation and for the final evaluation. Raises UserError if the data set has neither."""
        splits = self.splits
        if splits and not {"validation", "test"} & set(splits):
            raise no_images_to_measure_with(self, splits)
        validation = "validation" if "validation" in splits else "test"
        test = "test" if "test" in splits and self.test_is_final else validation
        return validation, test


def no_images_to_measure_with(dataset: Dataset, splits: tuple[str, ...]) -> UserError:
    """The error about a data set of which only training images can be used."""
    hint = f"{dataset.layout}, or " if dataset.layout else ""
    return UserError(
        f"{dataset.root or dataset.name}: no validation or test images to measure with, only {', '.join(splits)}; "
        f"{hint}set some aside: python -m alexnet_jax.prepare --holdout=0.1"
    )
