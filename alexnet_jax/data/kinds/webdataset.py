"""WebDataset: tar files, in which the members of a sample share a key, as in 0017.jpg and 0017.cls."""

import functools
import itertools
import json
import pathlib

from alexnet_jax import UserError
from alexnet_jax.data import archives, sources
from alexnet_jax.data.base import Split, normalized
from alexnet_jax.data.class_names import canonical, is_number, ordered
from alexnet_jax.data.kinds.folders import SPLIT_OF
from alexnet_jax.data.kinds.shard_files import ShardedDataset
from alexnet_jax.runtime import files

FIRST = 20  # members of a shard, in which to look for a sample
IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "img")
LABELS = ("label", "cls", "class", "class_id", "target", "fine_label")  # in .json, the usual ones first
CLASS_NAMES = ("classnames.txt", "classes.txt", "class_names.txt")
MOST_LABEL = 2**20  # bytes of a .cls or .json
MOST_NAME = 1000  # letters of a label


class WebDataset(ShardedDataset):
    """Images in shards NAME-000000.tar, with labels in .cls or .json: numbers or names.

    Numbers are indices into classnames.txt beside the shards, one name on each line. Without it, the classes are the
    numbers or names that occur.
    """

    title = "shards of WebDataset"
    layout = "WebDataset's shards are train-000000.tar and val-000000.tar, or train/000000.tar and val/000000.tar"

    suffixes = ("tar",)

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return ["webdataset"] if any(_has_samples(paths[0]) for paths in cls.shards_in(path).values()) else []

    @functools.cached_property
    def shards(self) -> dict[str, list[pathlib.Path]]:
        """As `ShardedDataset.shards`; it also compares them with _info.json, in which timm's sets list them."""
        shards, path = super().shards, self.directory / "_info.json"
        if files.exists(path):
            info = files.read_json(path, {"splits?": {str: {"filenames?": [str]}}}, "download it again")
            listed = [name for split in info.get("splits", {}).values() for name in split.get("filenames", [])]
            there = {shard.name for paths in shards.values() for shard in paths}
            if missing := [name for name in listed if pathlib.PurePosixPath(name).name not in there]:
                raise UserError(
                    f"{path}: lists {len(listed)} shards, of which {len(missing)} are missing ({missing[0]}); download "
                    "them"
                )
        return shards

    @functools.cached_property
    def _given_names(self) -> tuple[str, ...]:
        """The names in classnames.txt; () if there is none."""
        places = dict.fromkeys([self.directory, *(paths[0].parent for paths in self.shards.values())])
        for path in (place / name for place in places for name in CLASS_NAMES):
            if files.exists(path):
                names = tuple(normalized(line.strip()) for line in files.read_text(path).rstrip().splitlines())
                if len(set(names)) < len(names) or "" in names:
                    raise UserError(f"{path}: holds a name twice, or an empty line; labels are line numbers from 0 on")
                return names
        return ()

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        split = SPLIT_OF.get(split, split)
        paths = self.shards_of(split)
        shards = [(str(path), files.version(path)) for path in paths]
        samples = [(i, *sample) for i, path in enumerate(paths) for sample in _samples(path)]
        if not samples:
            raise UserError(f"{paths[0].parent}: {split} holds no images; {self.layout}")
        names = self._given_names or ordered({label for *_, label in samples})
        if not self._given_names and any(map(is_number, names)) and not all(map(is_number, names)):
            raise UserError(f"{self.directory}: {split} has numbers and names as labels; write them again as one kind")
        label_of = {name: i for i, name in enumerate(names)}
        if self._given_names:
            label_of |= {str(i): i for i in range(len(names))}
        members = []
        for shard, name, offset, size, label in samples:
            if label not in label_of:
                raise UserError(
                    f"{paths[shard]}: {name} has the label {label!a}, which is none of the {len(names)} names in "
                    f"{' or '.join(CLASS_NAMES)}, nor the number of one from 0 on"
                )
            members.append(sources.Member(offset, size, f"{paths[shard].name}/{name}", label_of[label], shard))
        source = sources.ArchiveSource(
            f"{self.directory}/{split}", tuple(shards), members, image_size, stretch, self.orientation
        )
        return Split(source, canonical(names))


def _has_samples(path):
    """Whether the first members of a tar file have the names of images and of labels."""
    try:
        first = list(itertools.islice(archives.tar_members(path), FIRST))
    except UserError:
        return False
    extensions = {_split_name(member.name)[1] for member in first}
    return bool(extensions.intersection(IMAGES) and extensions & {"cls", "json"})


def _split_name(name: str) -> tuple[str, str]:
    """The key of a member, which ends at the first dot of its name, and what follows the last dot, in small letters."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}", base.rpartition(".")[2].lower()


def _samples(path: pathlib.Path) -> list[tuple[str, int, int, str]]:
    """(name of the image, offset, bytes, label as text) of every sample of a shard, in the order of the images."""
    images: dict[str, tuple[str, int, int]] = {}
    found: dict[str, dict[str, str]] = {"json": {}, "cls": {}}
    with files.reading(path) as file:
        for member in archives.tar_members(path):
            key, extension = _split_name(member.name)
            if extension in IMAGES:
                if key in images:
                    raise UserError(f"{path}: the sample {key!a} has two images; use one image for each key")
                images[key] = member.name, member.offset_data, member.size
            elif extension in found:
                if member.size > MOST_LABEL:
                    raise UserError(f"{path}: {member.name!a} has {member.size:,} bytes, which is no label")
                file.seek(member.offset_data)
                label = _label(path, member.name, extension, file.read(member.size))
                if label is not None and found[extension].setdefault(key, label) != label:
                    raise UserError(f"{path}: the sample {key!a} has two labels; use one for each key")
    name_of: dict[str, str] = {}
    for key in found["cls"].keys() & found["json"].keys():
        one, other = sorted((found["cls"][key], found["json"][key]), key=is_number)
        # A number and its name are one label, if each sample agrees.
        if one != other and (is_number(one) == is_number(other) or name_of.setdefault(other, one) != one):
            raise UserError(f"{path}: the sample {key!a} has two labels, {one!a} and {other!a}; use one for each key")
    labels = found["json"] | found["cls"]
    for these, others, what in ((images, labels, "label (.cls or .json)"), (labels, images, "image")):
        if missing := [key for key in these if key not in others]:
            raise UserError(f"{path}: {len(missing)} samples have no {what}, as {missing[0]!a}; write them again")
    return [(*images[key], labels[key]) for key in images]


def _label(path, name, extension, data) -> str | None:
    """The label in a .cls or .json as text; None if it is a .json without one."""
    try:
        text = data.decode().strip()
        if extension == "json":
            value = files.parse_json(text, dict)
            found = next((value[key] for key in LABELS if key in value), None)
            if found is not None and (isinstance(found, bool) or not isinstance(found, int | str)):
                raise ValueError(f"its label is {json.dumps(found)[:40]}")
            text = None if found is None else str(found).strip()
    except ValueError as error:
        raise UserError(f"{path}: {name!a} is not a label ({error}); write it again") from error
    if text is None:
        return None
    if text.splitlines() != [text] or len(text) > MOST_NAME or text.startswith("-"):
        raise UserError(
            f"{path}: {name!a} is not a label ({text[:MOST_NAME]!a}); write it again, or leave the sample out"
        )
    return str(int(text)) if is_number(text) else normalized(text)
