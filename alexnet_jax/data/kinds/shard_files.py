"""Finds the files of sets that are stored in parts: train-00000-of-00040.parquet, train-000017.tar, train/0003.tar."""

import functools
import logging
import pathlib
import re
from collections.abc import Sequence

from alexnet_jax import UserError
from alexnet_jax.data.base import Dataset
from alexnet_jax.data.kinds.folders import SPLIT_OF
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

MOST_FILES = 10**6  # of a split

# What follows the prefix: 00000-of-00040 and perhaps a checksum, or a number, or nothing.
NAME = re.compile(
    r"(?P<prefix>.*?)((?P<number>\d{1,9})-of-(?P<count>\d{1,9})(-[0-9a-f]+)?|(?P<alone>\d{1,9}))?\.(?P<suffix>[a-zA-Z]+)"
)


class ShardedDataset(Dataset):
    """The base class of data sets whose splits are stored in parts.

    Attributes:
      suffixes: of their files, in small letters.
      places: the directories below the root where the files may lie.
    """

    suffixes: tuple[str, ...]
    places: tuple[str, ...] = ("",)

    @classmethod
    def shards_in(cls, root: pathlib.Path) -> dict[str, list[pathlib.Path]]:
        """{split: its files}, from the first of `places` that has any. Raises as `find`."""
        places = [root / place for place in cls.places if files.is_directory(root / place)]
        return next(filter(None, (find(place, cls.suffixes) for place in places)), {})

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.shards)

    @functools.cached_property
    def shards(self) -> dict[str, list[pathlib.Path]]:
        """The files of each split, in order. Raises UserError if there are none, or one is missing."""
        if not files.is_directory(self.directory):
            raise UserError(f"dataset root {self.root!r}: no such directory; set it (config.dataset.root, --root)")
        shards = self.shards_in(self.directory)
        if not shards:
            raise UserError(f"dataset root {self.root!r}: {self.layout}; there are no such files")
        check_complete(shards)
        warn_of_unused(self.directory, shards, self.suffixes)
        return shards

    def shards_of(self, split: str) -> list[pathlib.Path]:
        """The files of a split, in order. Raises UserError if there is no such split."""
        if split not in self.shards:
            raise UserError(f"{self.root}: has no split {split!r}, but {', '.join(self.splits)}")
        return self.shards[split]


def find(root: pathlib.Path, suffixes: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """{split: its files, in the order of their numbers}, by the words in their names, or by their directory's name.

    If no name tells a split, all files are 'train'.

    Raises:
      UserError: a directory cannot be read.
    """
    shards: dict[str, list[pathlib.Path]] = {}
    others = []
    for path in _entries(root):
        name = NAME.fullmatch(path.name)
        if path.name.lower() in SPLIT_OF and files.is_directory(path):
            split = SPLIT_OF[path.name.lower()]
            for inner in _entries(path):
                if (name := NAME.fullmatch(inner.name)) and name["suffix"].lower() in suffixes:
                    shards.setdefault(split, []).append(inner)
        elif name and name["suffix"].lower() in suffixes:
            words = re.split(r"[-_.]", name["prefix"].lower())
            if splits := [SPLIT_OF[word] for word in words if word in SPLIT_OF]:
                shards.setdefault(splits[-1], []).append(path)
            else:
                others.append(path)
    if others and not shards:
        shards = {"train": others}
    return {split: sorted(shards[split], key=_key) for split in dict.fromkeys(SPLIT_OF.values()) if split in shards}


def warn_of_unused(root: pathlib.Path, shards: dict[str, list[pathlib.Path]], suffixes: Sequence[str]) -> None:
    """Logs which files with one of the suffixes, as in x.tar.gz, in a directory or up to two below it, are not used."""
    used = {path for paths in shards.values() for path in paths}
    places, found = [root], []
    for _ in range(3):
        entries = [path for place in places for path in _entries(place)]
        found += [path for path in entries if set(path.name.lower().split(".")[1:]).intersection(suffixes)]
        places = [path for path in entries if path.is_dir()]
    if unused := [str(path.relative_to(root)) for path in found if path not in used]:
        shown = ", ".join(unused[:3]) + (", …" if unused[3:] else "")
        log.warning("%s: %d files are not used: %s", root, len(unused), shown)


def _entries(directory):
    with files.explaining(directory, "read"):
        return sorted(directory.iterdir())


def _key(path):
    name = NAME.fullmatch(path.name)
    assert name  # as `find` has chosen it
    return name["prefix"], int(name["number"] or name["alone"] or 0), path.name


def check_complete(shards: dict[str, list[pathlib.Path]]) -> None:
    """Raises UserError if the numbers of a split's files have a gap, or they belong to several sets.

    The numbers begin with 0; with 1, if those of every split do, and that is logged.
    """
    numbers = {split: [_key(path)[1] for path in paths] for split, paths in shards.items()}
    first = 1 if all(min(of_split) == 1 for of_split in numbers.values()) else 0
    if first:
        log.warning("%s: the numbers of its files begin with 1; is 0 missing?", shards[next(iter(shards))][0].parent)
    for split, paths in shards.items():
        _check_split(paths, numbers[split], first)


def _check_split(paths, numbers, first):
    names = [name for path in paths if (name := NAME.fullmatch(path.name))]
    sets = {(name["prefix"], name["count"], name["suffix"].lower()) for name in names}
    if len(sets) > 1:
        shown = " and ".join(sorted(f"{prefix}*.{suffix}" for prefix, _, suffix in sets)[:2])
        raise UserError(f"{paths[0].parent}: holds the files of several data sets ({shown}); move one away")
    ((prefix, count, suffix),) = sets
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{paths[0].parent}: two files of {prefix}* have the same number; remove one")
    if max(numbers) > MOST_FILES or count and int(count) > MOST_FILES:
        raise UserError(f"{paths[0].parent}: a file of {prefix}*.{suffix} has a number above {MOST_FILES:,}; rename it")
    whole = set(range(int(count)) if count else range(first, max(numbers) + 1))
    if missing := sorted(whole - set(numbers)):
        width = len(names[0]["number"] or names[0]["alone"])
        shown = ", ".join(f"{number:0{width}}" for number in missing[:3]) + (", …" if missing[3:] else "")
        raise UserError(
            f"{paths[0].parent}: {len(missing)} of the {len(whole)} files {prefix}*.{suffix} are missing ({shown}); "
            "download them"
        )
    if unexpected := sorted(set(numbers) - whole):
        raise UserError(
            f"{paths[0].parent}: a file of {prefix}*.{suffix} has the number {unexpected[0]}, but there are "
            f"{len(whole)}; remove it"
        )
