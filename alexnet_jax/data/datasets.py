"""The kinds of data sets, and the data of a training.

A new kind is a subclass of `base.Dataset` and an entry of KINDS; docs/extending.md adds one.
"""

import dataclasses
import logging

from alexnet_jax import UserError
from alexnet_jax.data import archives, base, folders, sources, textures, tfds_sets

log = logging.getLogger("alexnet_jax")

# Keys are config.dataset.name, or the part before its colon.
KINDS: dict[str, type[base.Dataset]] = {
    "prepared": tfds_sets.Prepared,
    "tfds": tfds_sets.Tfds,
    "folder": folders.Folder,
    "imagenet": archives.ImagenetArchives,
    "textures": textures.Textures,
}


def find(name: str, root: str, orientation: str | None = None) -> base.Dataset:
    """The data set that `config.dataset` names.

    Args:
      orientation: see `images.decode`; None for the data set's own. A prepared set has its own in any case.

    Raises:
      UserError: its kind does not exist.
    """
    kind, colon, rest = name.partition(":")
    if kind not in KINDS or bool(colon) != KINDS[kind].takes_name or bool(rest) != bool(colon):
        raise UserError(f"dataset {name!r}: no such data set; use {kind_names()}")
    return KINDS[kind](name, root, orientation)


def kind_names(preparable: bool = False) -> str:
    """The names of the kinds, for messages; with `preparable`, only of those that `alexnet_jax.prepare` reads."""
    names = [name for name, kind in KINDS.items() if kind.preparable or not preparable]
    *most, last = [f"{name}:NAME" if KINDS[name].takes_name else name for name in names]
    return f"{', '.join(most)} or {last}"


@dataclasses.dataclass(frozen=True)
class Data:
    """The images of a training.

    Attributes:
      train, validation, test: sources; without a split of their own, `validation` is the test split, or `test` the
        validation split.
      validation_split, test_split: the names of their splits.
      class_names: a name for each label.
      statistics: of the training images.
      root: `Dataset.absolute_root`.
    """

    train: sources.Source
    validation: sources.Source
    test: sources.Source
    validation_split: str
    test_split: str
    class_names: tuple[str, ...]
    statistics: base.Statistics
    root: str


def load(name: str, root: str, image_size: int, stretch: bool = False, orientation: str | None = None) -> Data:
    """Loads the data that `config.dataset` names.

    Args:
      name: 'prepared' (by alexnet_jax.prepare), 'tfds:NAME', 'folder', 'imagenet' or 'textures' (embedded).
      root: the directory. '' means ./imagenet256 for `prepared`, ~/tensorflow_datasets for TFDS, and a cache directory
        for `textures`.
      image_size: height and width of the sources' images, in pixels.
      stretch: whether images that are not square are stretched; otherwise they are cropped to their centres.
      orientation: as for `find`.

    Raises:
      UserError: the data set does not exist, or is incomplete.
    """
    dataset = find(name, root, orientation)
    train, class_names = dataset.load("train", image_size, stretch)
    validation, test = dataset.held_out()
    held_out = {
        split: dataset.load(split, image_size, stretch).relabelled(class_names)
        for split in dict.fromkeys([validation, test])
    }
    if dataset.stored_size not in (None, image_size):
        log.info(
            "%d images of %d×%d pixels are resized to the net's %d×%d; the mean of each channel is subtracted, not a "
            "mean image",
            sum(map(len, (train, *held_out.values()))),
            *(dataset.stored_size, dataset.stored_size, image_size, image_size),
        )
    return Data(
        train,
        held_out[validation],
        held_out[test],
        validation,
        test,
        class_names,
        dataset.statistics(image_size),
        dataset.absolute_root,
    )
