"""The kinds of data sets, and the data of a training.

A new kind is a subclass of `base.Dataset` and an entry of KINDS; docs/extending.md adds one.
"""

import contextlib
import dataclasses
import logging
import os

from alexnet_jax import UserError
from alexnet_jax.data import base, sources
from alexnet_jax.data.kinds import (
    cifar,
    csv_list,
    folders,
    hugging_face,
    imagenet,
    kaggle,
    textures,
    tfds_sets,
    tiny_imagenet,
    webdataset,
)
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

# Keys are config.dataset.name, or the part before its colon.
KINDS: dict[str, type[base.Dataset]] = {
    "prepared": tfds_sets.Prepared,
    "tfds": tfds_sets.Tfds,
    "folder": folders.Folder,
    "csv": csv_list.CsvList,
    "imagenet": imagenet.Ilsvrc2012,
    "imagenet2010": imagenet.Ilsvrc2010,
    "kaggle": kaggle.Kaggle,
    "huggingface": hugging_face.HuggingFace,
    "webdataset": webdataset.WebDataset,
    "tiny_imagenet": tiny_imagenet.TinyImagenet,
    "cifar10": cifar.Cifar,
    "cifar100": cifar.Cifar,
    "textures": textures.Textures,
}
AUTO = "auto"  # the name that `recognise` replaces
SHOWN = 8  # names of files in a message


def find(name: str, root: str, orientation: str | None = None) -> base.Dataset:
    """The data set that `config.dataset` names.

    Args:
      name, root: as for `load`.
      orientation: see `images.decode`; None for the data set's own. A prepared set has its own in any case.

    Raises:
      UserError: its kind does not exist.
    """
    if name == AUTO:
        name = recognise(root)
    kind, colon, rest = name.partition(":")
    if kind not in KINDS or bool(colon) != KINDS[kind].takes_name or bool(rest) != bool(colon):
        raise UserError(f"dataset {name!r}: no such data set; use {kind_names()}")
    return KINDS[kind](name, root, orientation)


def recognise(root: str) -> str:
    """The name of the data set in a directory or an archive, by what lies there.

    Raises:
      UserError: it holds nothing that is recognised, or more than one data set.
    """
    path = files.absolute(root)
    if not root or not files.exists(path):
        raise UserError(f"dataset root {root!r}: no such file or directory; set it (config.dataset.root, --root)")
    names = _names_in(path)
    if len(names) > 1:
        flags = " or ".join(f"--dataset={name}" for name in names)
        raise UserError(f"dataset root {root!r}: holds several data sets; name one: {flags}")
    if not names and not files.is_directory(path):
        raise UserError(
            f"dataset root {root!r}: no archive that is read in place; extract it, and name the directory; "
            "docs/getting-data.md has the layouts"
        )
    if not names:
        with files.explaining(path, "read"):
            entries = sorted(entry.name for entry in path.iterdir())
        for name in entries[:SHOWN]:
            if found := _names_in(path / name):
                raise UserError(
                    f"dataset root {root!r}: holds no data set itself, but its directory {name} does ({found[0]}); "
                    f"use {os.path.join(root, name)}"
                )
        shown = ", ".join(entries[:SHOWN]) + (", …" if entries[SHOWN:] else "")
        raise UserError(
            f"dataset root {root!r}: no data set is recognised in it (it holds {shown or 'nothing'}); "
            "docs/getting-data.md has the layouts"
        )
    return names[0]


def _names_in(path):
    names = []
    for kind in dict.fromkeys(KINDS.values()):
        with contextlib.suppress(OSError, UserError):  # of a directory beside the data that cannot be read
            names += kind.names_in(path)
    return names


def kind_names(preparable: bool = False) -> str:
    """The names of the kinds, for messages; with `preparable`, only of those that `alexnet_jax.prepare` reads."""
    argument = {"csv": "FILE"}
    names = [name for name, kind in KINDS.items() if kind.preparable or not preparable]
    *most, last = [f"{name}:{argument.get(name, 'NAME')}" if KINDS[name].takes_name else name for name in names]
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
      name: one of KINDS, with a name after a colon as in 'tfds:NAME' and 'csv:FILE'; or AUTO.
      root: the directory or archive. '' means ./imagenet256 for `prepared`, ~/tensorflow_datasets for TFDS, the
        directory of the file for `csv`, and a cache directory for `textures`.
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
