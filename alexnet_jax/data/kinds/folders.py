"""Folders of images: train/CLASS/*, val/CLASS/* and optionally test/CLASS/*; or CLASS/* alone."""

import contextlib
import functools
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence

from PIL import Image

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split, check_class_names, normalized
from alexnet_jax.data.images import FORMATS
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

# The names of a split's directory, in small or capital letters.
DIRECTORIES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in DIRECTORIES.items() for name in names}
OF_PYTORCH = ("meta.bin",)  # torchvision's ImageNet leaves it beside train/ and val/
SUFFIXES = [suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS]
FIRST = 100  # folders in which to look for images
OF_WINDOWS = ("Thumbs.db", "desktop.ini")  # its file manager leaves them in folders of images


class Folder(Dataset):
    """Images in one directory per class. Labels number the classes in sorted order.

    Class names are in Unicode's form NFC: file systems store the same name in different forms. A directory of nothing
    but class folders is undivided.
    """

    title = "class folders"
    owns_root = True
    layout = "a folder of images holds train/CLASS/* and val/CLASS/*"

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        if not files.is_directory(path):
            return []
        splits = {entry.name.lower(): entry.path for entry in _visible(path) if _is_folder(entry)}
        found = [splits[name] for name in SPLIT_OF if name in splits]  # training images first
        return ["folder"] if has_images(found[0] if found else path) else []

    @property
    def undivided(self) -> bool:
        return self.directories == {"train": self.directory}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.directories)

    @functools.cached_property
    def directories(self) -> dict[str, pathlib.Path]:
        """The directory of each split. Raises UserError if the root cannot be read, or a split has two directories."""
        if not self.root or not files.is_directory(self.directory):
            raise UserError(
                f"dataset root {self.root!r}: no such directory; set it (config.dataset.root, --root): {self.layout}"
            )
        entries = _visible(self.directory)
        directories: dict[str, pathlib.Path] = {}
        for split, names in DIRECTORIES.items():
            found = [entry for entry in entries if entry.name.lower() in names and _is_folder(entry)]
            if len(found) > 1:
                both = " and ".join(entry.name for entry in found)
                raise UserError(f"{self.root}: holds {both}, which are both {split} images; rename or remove one")
            if found:
                directories[split] = pathlib.Path(found[0])
        if not directories and has_images(self.directory):
            return {"train": self.directory}
        used = {path.name for path in directories.values()} | set(OF_PYTORCH)
        _warn_of_unused(self.root, [entry for entry in entries if entry.name not in used], "beside the splits")
        return directories

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        split = SPLIT_OF.get(split, split)
        if split not in self.directories:
            path = self.directory / DIRECTORIES.get(split, (split,))[0]
            is_split = self.directory.name.lower() in SPLIT_OF
            inside = f"; is {self.directory.parent} the root?" if is_split else ""
            raise UserError(f"{path}: no such directory; {self.layout}{inside}")
        directory = self.directories[split]
        listed = dict(class_folders(directory, self.layout))
        names = tuple(map(normalized, listed))  # sorted
        images = [
            (os.path.join(folder, name), label)
            for label, (folder, within) in enumerate(listed.items())
            for name in within
        ]
        return Split(sources.FileSource(str(directory), images, image_size, stretch, self.orientation), names)


def class_folders(directory: pathlib.Path, layout: str) -> Iterator[tuple[str, list[str]]]:
    """(name, sorted names of its files) of every class folder in a directory, sorted by the names in NFC.

    It logs what is not used.

    Raises:
      UserError: there are none, one is empty, or its name cannot be a class name.
    """
    entries = _visible(directory)
    folders = {normalized(entry.name): entry for entry in entries if _is_folder(entry)}
    if not folders:
        raise UserError(f"{directory}: no class folders; {layout}")
    unused, inner = [], []
    for entry in entries:
        if not _is_folder(entry):
            unused.append(entry)
        elif entry is not folders[normalized(entry.name)]:
            raise UserError(
                f"{directory}: two class folders have the same name in different Unicode forms ({entry.name!a}, "
                f"{folders[normalized(entry.name)].name!a}); merge them"
            )
    _warn_of_unused(directory, unused, "beside the class folders")
    for class_name in sorted(folders):
        folder = folders[class_name].name
        check_class_names(directory, [folder])
        entries = _visible(directory / folder)
        names = sorted(entry.name for entry in entries if _is_file(entry))
        inner += [entry for entry in entries if not _is_file(entry)]
        if not names:
            raise UserError(f"{directory / folder}: no images in this class folder; add some or remove it")
        yield folder, names
    _warn_of_unused(directory, inner, "inside class folders")


def loose_files(directory: pathlib.Path) -> list[str]:
    """The sorted names of the files in a directory; if it has any, it logs how many others are not used."""
    entries = _visible(directory)
    names = sorted(entry.name for entry in entries if _is_file(entry))
    if names:
        _warn_of_unused(directory, [entry for entry in entries if not _is_file(entry)], "inside folders")
    return names


def folder_names(directory: pathlib.Path) -> list[str]:
    """The names of the folders in a directory. Raises UserError if it cannot be read."""
    return [entry.name for entry in _visible(directory) if _is_folder(entry)]


def has_images(directory: str | os.PathLike) -> bool:
    """Whether one of the first folders in a directory holds image files, by their names."""
    try:
        folders = [entry for entry in _visible(pathlib.Path(directory)) if _is_folder(entry)]
        return any(
            os.path.splitext(entry.name)[1].lower() in SUFFIXES
            for folder in folders[:FIRST]
            for entry in _visible(pathlib.Path(folder.path))
        )
    except UserError:
        return False


def _visible(directory: pathlib.Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in OF_WINDOWS]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _is_folder(entry):
    with contextlib.suppress(OSError):  # a link that leads back to itself
        return entry.is_dir()
    return False


def _is_file(entry):
    with contextlib.suppress(OSError):
        return entry.is_file()
    return False


def _warn_of_unused(directory: str | os.PathLike, entries: Sequence[os.DirEntry[str]], place: str) -> None:
    """Logs how many files are not used, and where the first ones are."""
    counts = {os.path.relpath(entry.path, directory): _count_files(entry) for entry in entries}
    counts = {name: count for name, count in counts.items() if count}
    if counts:
        first = sorted(counts)[:3]
        log.warning(
            "%s: %s not used: %s",
            directory,
            f"{sum(counts.values()):,} files {place} are" if sum(counts.values()) != 1 else f"1 file {place} is",
            ", ".join([f"{name} ({counts[name]:,})" if counts[name] != 1 else name for name in first])
            + (", …" if counts.keys() - set(first) else ""),
        )


def _count_files(entry):
    """How many files an entry is or holds. Links to directories are not followed: they may lead back."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    unreadable: list[OSError] = []
    return sum(len(names) for _, _, names in os.walk(entry.path, onerror=unreadable.append)) + len(unreadable)
