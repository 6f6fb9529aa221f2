"""ImageNet as Kaggle has it, extracted or inside its zip file, which is read in place."""

import csv
import functools
import io
import logging
import pathlib
import re
import zipfile
from collections.abc import Iterator

from alexnet_jax import UserError
from alexnet_jax.data import archives, sources
from alexnet_jax.data.base import Dataset, Split
from alexnet_jax.data.class_names import imagenet_names
from alexnet_jax.data.kinds import folders, imagenet
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

IMAGES = "ILSVRC/Data/CLS-LOC"
SOLUTION = "LOC_val_solution.csv"
MOST_SOLUTION = 2**26  # bytes; it has 4 million
CHALLENGE = "imagenet-object-localization-challenge"
AGAIN = f"kaggle competitions download -c {CHALLENGE}"


class Kaggle(Dataset):
    """The training and validation images; class names are WordNet ids, sorted.

    The labels of the validation images are those of LOC_val_solution.csv, checked against the published ones. The test
    images have no labels, and are not used.
    """

    title = "ImageNet from Kaggle"
    default_orientation = "stored"  # the same files as in the official archives
    layout = f"Kaggle's files are {SOLUTION} and {IMAGES}/train/CLASS/*, {IMAGES}/val/*, or one zip file of them"
    splits = ("train", "validation", "test")
    test_is_final = False

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        if files.is_directory(path):
            return ["kaggle"] if files.is_directory(path / IMAGES) or _zips(path) else []
        return ["kaggle"] if path.suffix == ".zip" and _is_kaggles(path) else []

    @functools.cached_property
    def _zip(self) -> pathlib.Path | None:
        """The zip file; None if the files are extracted."""
        if not files.is_directory(self.directory):
            return self.directory
        found = _zips(self.directory)
        if files.is_directory(self.directory / IMAGES):
            for path in found:
                log.warning("%s: is not used, but the files extracted beside it", path)
            return None
        if len(found) != 1:
            raise UserError(f"dataset root {self.root!r}: {len(found)} zip files with {IMAGES}; {self.layout}")
        return found[0]

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        if split not in self.splits:
            raise UserError(f"{self.title} has no split {split!r}, but {', '.join(self.splits)}")
        if split == "test":
            raise sources.SecretLabelsError("Kaggle's test images have no labels; use another split")
        class_names = tuple(imagenet_names())
        labels = {class_name: label for label, class_name in enumerate(class_names)}
        path = self._zip
        source: sources.EncodedSource
        if path:
            version = files.version(path)
            members = [
                sources.Member(
                    info.header_offset,
                    info.compress_size,
                    name,
                    labels[class_name],
                    crc=info.CRC,
                    deflated=info.compress_type == zipfile.ZIP_DEFLATED,
                )
                for name, class_name, info in self._members(path, split)
            ]
            source = sources.ArchiveSource(
                str(path), ((str(path), version),), members, image_size, stretch, self.orientation
            )
        else:
            directory = self.directory / IMAGES / ("train" if split == "train" else "val")
            images = [(name, labels[class_name]) for name, class_name in self._files(directory, split)]
            source = sources.FileSource(str(directory), images, image_size, stretch, self.orientation)
        if not len(source):
            raise UserError(f"{path or directory}: holds no {split} images; {self.layout}")
        return Split(source, class_names)

    def _files(self, directory: pathlib.Path, split: str) -> Iterator[tuple[str, str]]:
        """(path below the directory, class) of every image."""
        if not files.is_directory(directory):
            raise UserError(f"{directory}: no such directory; {self.layout}")
        path = self.directory / SOLUTION
        loose = folders.loose_files(directory) if split != "train" else []
        if loose:
            solution = self._solution(path, files.read_bytes(path, MOST_SOLUTION, AGAIN))
            yield from _labelled(path, solution, loose)
            return
        for class_name, names in folders.class_folders(directory, self.layout):
            _check_class(directory / class_name, class_name)
            if split != "train":  # a script that many use has moved the images into class folders
                imagenet.check_labels(directory, ((_number(directory, name), class_name) for name in names))
            yield from ((f"{class_name}/{name}", class_name) for name in names)

    def _members(self, path: pathlib.Path, split: str) -> Iterator[tuple[str, str, zipfile.ZipInfo]]:
        """(name, class, member) of every image in the zip file."""
        listed = {info.filename: info for info in archives.zip_members(path)}
        start = next((name[: name.index(f"{IMAGES}/")] for name in listed if f"{IMAGES}/" in name), "")
        solution: dict[str, str] = {}
        if split != "train":
            name = next((name for name in listed if name.rpartition("/")[2] == SOLUTION), None)
            if name is None:
                raise UserError(f"{path}: holds no {SOLUTION}; download it again: {AGAIN}")
            info = listed[name]
            member = sources.Member(
                info.header_offset, info.compress_size, name, 0, 0, info.CRC, info.compress_type == zipfile.ZIP_DEFLATED
            )
            text, _ = sources.ArchiveSource(str(path), ((str(path), files.version(path)),), [member], 1).read(0)
            solution = self._solution(path, text)
        folder = f"{start}{IMAGES}/{'train' if split == 'train' else 'val'}/"
        names = sorted(name.removeprefix(folder) for name in listed if name.startswith(folder))
        if split != "train":
            yield from ((name, label, listed[folder + name]) for name, label in _labelled(path, solution, names))
            return
        for name in names:
            class_name, slash, base = name.partition("/")
            if not slash or base.startswith("."):
                continue
            _check_class(f"{path}, {folder}{class_name}", class_name)
            yield name, class_name, listed[folder + name]

    def _solution(self, path: pathlib.Path, data: bytes) -> dict[str, str]:
        """{name of a validation image: class}, from LOC_val_solution.csv, as in `path`."""
        try:
            rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
            solved = [(row["ImageId"], row["PredictionString"].split()[0]) for row in rows]
            numbers = [_number(path, name) for name, _ in solved]
        except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"{path}: its labels, {SOLUTION}, are not (ImageId, PredictionString); download it again: {AGAIN}"
            ) from error
        imagenet.check_labels(path, zip(numbers, (class_name for _, class_name in solved), strict=True))
        return dict(solved)


def _zips(directory):
    """The zip files of ImageNet in a directory."""
    with files.explaining(directory, "read"):
        return [path for path in sorted(directory.glob("*.zip")) if _is_kaggles(path)]


def _is_kaggles(path):
    """Whether a zip file has Kaggle's name or holds its directories."""
    if not path.is_file():
        return False
    if path.name == f"{CHALLENGE}.zip":
        return True
    try:
        return any(f"{IMAGES}/" in name for name in archives.zip_names(path))
    except UserError:
        return False


def _number(path, name):
    """The number of a validation image. Raises UserError if its name has none."""
    number = re.fullmatch(r"ILSVRC2012_val_(\d{8})(\.JPEG)?", name)
    if not number:
        raise UserError(f"{path}: {name!a} is no name of a validation image of ILSVRC2012; remove it")
    return int(number[1])


def _check_class(path, class_name):
    if class_name not in imagenet_names():
        raise UserError(f"{path}: is not a class of ILSVRC2012; remove it")


def _labelled(path, solution, names):
    """(name, class) of the validation images among some names. It logs how many are missing, and what is not used."""
    images = [name for name in names if name.endswith(".JPEG")]
    if unused := [name for name in names if not name.endswith(".JPEG")]:
        log.warning("%s: %d files beside the validation images are not used: %s", path, len(unused), unused[0])
    if unlabelled := [name for name in images if name.removesuffix(".JPEG") not in solution]:
        raise UserError(f"{path}: has no label for {unlabelled[0]!a}; remove the image, or download it again: {AGAIN}")
    if count := len(solution) - len(images):
        log.warning("%s: %d of the %d validation images that it lists are missing", path, count, len(solution))
    return [(name, solution[name.removesuffix(".JPEG")]) for name in images]
