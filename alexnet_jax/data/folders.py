"""Folders of images: train/CLASS/*, val/CLASS/* and optionally test/CLASS/*."""

import logging
import os

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split

log = logging.getLogger("alexnet_jax")

DIRECTORIES = {"train": "train", "validation": "val", "test": "test"}


class Folder(Dataset):
    """Images of any format, in one directory per class. Labels number the classes in sorted order."""

    owns_root = True
    layout = "a folder of images holds train/CLASS/* and val/CLASS/*"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split, name in DIRECTORIES.items() if (self.directory / name).is_dir())

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if not self.root or not self.directory.is_dir():
            raise UserError(
                f"dataset root {self.root!r}: no such directory; set it (config.dataset.root, --root): {self.layout}"
            )
        directory = self.directory / DIRECTORIES.get(split, split)
        try:
            if not directory.is_dir():
                raise UserError(f"{directory}: no such directory; {self.layout}")
            class_names = tuple(sorted(entry.name for entry in _visible(directory) if entry.is_dir()))
            if not class_names:
                raise UserError(f"{directory}: no class folders; {self.layout}")
            files, others = [], []
            for label, class_name in enumerate(class_names):
                _check_class_name(directory, class_name)
                entries = _visible(directory / class_name)
                names = sorted(entry.name for entry in entries if entry.is_file())
                others += [entry.path for entry in entries if not entry.is_file()]
                if not names:
                    raise UserError(f"{directory / class_name}: no images in this class folder; add some or remove it")
                files += [(os.path.join(class_name, name), label) for name in names]
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
        if others:
            log.warning(
                "%s: ignored %d entries of class folders that are not files, such as %s",
                self.root,
                len(others),
                others[0],
            )
        return Split(sources.FileSource(str(directory), files, image_size, stretch), class_names)


def _visible(directory):
    with os.scandir(directory) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _check_class_name(directory, class_name):
    # TFDS keeps class names as lines of a UTF-8 file.
    try:
        class_name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{directory}: a class folder's name is not UTF-8 ({error.object!a}); rename it") from error
    if class_name.splitlines() != [class_name.strip()]:
        raise UserError(
            f"{directory}: a class folder's name has a space at an end or a line break ({class_name!a}); rename it"
        )
