"""Tiny ImageNet: 200 of ImageNet's classes, 64 pixels."""

import logging
import pathlib

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split
from alexnet_jax.data.kinds import folders
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

ANNOTATIONS = "val_annotations.txt"
AGAIN = "download it again"


class TinyImagenet(Dataset):
    """train/CLASS/images/*, val/images/* and val/val_annotations.txt; class names are WordNet ids, sorted.

    The test images have no labels, and are not used.
    """

    title = "Tiny ImageNet"
    layout = f"Tiny ImageNet holds train/CLASS/images/*, val/images/* and val/{ANNOTATIONS}"
    splits = ("train", "validation", "test")
    test_is_final = False
    prepared_size = 64
    owns_root = True

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return ["tiny_imagenet"] if files.exists(path / "val" / ANNOTATIONS) else []

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.splits:
            raise UserError(f"{self.title} has no split {split!r}, but {', '.join(self.splits)}")
        if split == "test":
            raise sources.SecretLabelsError("Tiny ImageNet's test images have no labels; use another split")
        train = self.directory / "train"
        if not files.is_directory(train):
            raise UserError(f"dataset root {self.root!r}: no directory train; {self.layout}")
        class_names = tuple(sorted(folders.folder_names(train)))
        if not class_names:
            raise UserError(f"{train}: no class folders; {self.layout}")
        listed = self.directory / "wnids.txt"
        if files.exists(listed) and (lacking := set(files.read_text(listed).split()) - set(class_names)):
            raise UserError(
                f"{train}: {len(lacking)} of the classes in wnids.txt are missing ({min(lacking)}); {AGAIN}"
            )
        if split == "train":
            images = [
                (f"{class_name}/images/{name}", label)
                for label, class_name in enumerate(class_names)
                for name in folders.loose_files(train / class_name / "images")
            ]
            directory = train
        else:
            directory = self.directory / "val" / "images"
            if not files.is_directory(directory):
                raise UserError(f"{directory}: no such directory; {self.layout}")
            path = self.directory / "val" / ANNOTATIONS
            class_of = _annotations(path)
            names = folders.loose_files(directory)
            if lacking := class_of.keys() - set(names):
                log.warning("%s: %d of the images that %s lists are missing", directory, len(lacking), ANNOTATIONS)
            if missing := [name for name in names if name not in class_of]:
                raise UserError(f"{path}: has no label for {len(missing)} images, as {missing[0]!a}; {AGAIN}")
            if unknown := {class_of[name] for name in names} - set(class_names):
                raise UserError(f"{path}: {min(unknown)!a} is not a class of the training images; {AGAIN}")
            images = [(name, class_names.index(class_of[name])) for name in names]
        if not images:
            raise UserError(f"{directory}: no images; {self.layout}")
        source = sources.FileSource(str(directory), images, image_size, stretch, self.orientation)
        return Split(source, class_names)


def _annotations(path: pathlib.Path) -> dict[str, str]:
    """{file name: class}, from lines of a file name, a class and a box. Raises UserError if they are something else."""
    rows = [line.split("\t") for line in files.read_text(path, AGAIN).splitlines() if line.strip()]
    class_of: dict[str, str] = {}
    for row in rows:
        if len(row) < 2 or class_of.setdefault(row[0], row[1].strip()) != row[1].strip():
            raise UserError(f"{path}: is not lines of a file name, a class and a box; {AGAIN}")
    return class_of
