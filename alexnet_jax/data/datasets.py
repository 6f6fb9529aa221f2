"""Where images come from: a prepared set, TFDS, a folder of images, or the embedded textures.

A split of a data set is a source; see `sources`.
"""

import dataclasses
import functools
import importlib.resources
import logging
import os
import pathlib

import numpy as np
from google.protobuf import json_format

from alexnet_jax import UserError
from alexnet_jax.data import sources, textures
from alexnet_jax.runtime import files

# ImageNet's 256×256 training images, 0–255, from cuda-convnet2's published metadata: the channel means, and the
# standard deviations (the paper's λ) along the principal axes of RGB (the columns).
IMAGENET_MEAN = np.array([127.305, 119.715, 104.913], np.float32)
IMAGENET_COLOUR_STD = np.array([19.72083305, 37.09388853, 121.78006099], np.float32)
IMAGENET_COLOUR_AXES = np.array(
    [
        [0.41795513, -0.71257945, -0.56351045],
        [-0.81698062, -0.02354167, -0.5761844],
        [0.39731118, 0.70119634, -0.59200296],
    ],
    np.float32,
)

DEFAULT_PREPARED = "imagenet256"

log = logging.getLogger("alexnet_jax")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three sources and what is known of the training images.

    Attributes:
      train, validation, test: sources. For a TFDS data set, whose test labels may be secret, and where there are no
        test images, `test` is the validation split again.
      class_names: a name for each label.
      mean: float32, the mean image [S, S, 3] or, where there is none, the channel means [3].
      colour_std, colour_axes: standard deviations [3] of RGB along its principal axes, the columns of [3, 3].
    """

    train: object
    validation: object
    test: object
    class_names: tuple[str, ...]
    mean: np.ndarray = dataclasses.field(default_factory=lambda: IMAGENET_MEAN)
    colour_std: np.ndarray = dataclasses.field(default_factory=lambda: IMAGENET_COLOUR_STD)
    colour_axes: np.ndarray = dataclasses.field(default_factory=lambda: IMAGENET_COLOUR_AXES)


def load(name, root, image_size, stretch=False):
    """The data set that `config.dataset` names.

    Args:
      name: 'prepared' (by alexnet_jax.prepare), 'tfds:NAME', 'folder', or 'textures' (embedded).
      root: the directory; '' is imagenet256 in the current one for `prepared`, ~/tensorflow_datasets for TFDS, a cache
        for `textures`.
      image_size: height and width of the stored images to deliver, in pixels.
      stretch: whether images that are not square are stretched; otherwise their centres are taken.

    Raises:
      UserError: there is no such data set, or it is incomplete.
    """
    train, class_names = load_split(name, root, "train", image_size, stretch)
    validation, test = held_out(name, root)
    held = {
        split: relabelled(*load_split(name, root, split, image_size, stretch), class_names)
        for split in dict.fromkeys([validation, test])
    }
    return Dataset(train, held[validation], held[test], class_names, **_statistics(name, root, image_size))


def held_out(name, root):
    """The splits that serve for validation and for the final test; see `Dataset`. Raises UserError if there is none."""
    there = splits(name, root)
    if there and not {"validation", "test"} & set(there):
        hint = f"; {_FOLDER_LAYOUT}" if name == "folder" else ""
        raise UserError(f"{root or name}: no validation or test images to measure with, only {', '.join(there)}{hint}")
    validation = "validation" if "validation" in there else "test"
    test = "test" if "test" in there and not name.startswith("tfds:") else validation
    return validation, test


def splits(name, root):
    """The names of the splits that a data set has."""
    if name == "textures":
        return tuple(textures.SPLITS)
    if name == "folder":
        return tuple(split for split, directory in _FOLDERS.items() if (_directory(root) / directory).is_dir())
    return tuple(_builder(name, root).info.splits)


def load_split(name, root, split, image_size, stretch=False):
    """A split of a data set, and the names that its labels stand for; arguments and errors as for `load`.

    Args:
      split: 'train', 'validation' or 'test'; for a prepared set or TFDS any of theirs, also 'train[:10%]'.
    """
    if name == "textures":
        arrays, _ = textures.load(root)
        if split not in arrays:
            raise UserError(f"textures have no split {split!r}, but {', '.join(arrays)}")
        source = sources.ArraySource(arrays[split], split, len(textures.CLASS_NAMES), image_size)
        return source, textures.CLASS_NAMES
    if name == "folder":
        return _folder(root, split, image_size, stretch)
    return _tfds(name, root, split, image_size, stretch)


def relabelled(source, class_names, new_class_names):
    """A source with labels that stand for `new_class_names`. Raises UserError if one of its names is not there."""
    if tuple(class_names) == tuple(new_class_names):
        return source
    missing = sorted(set(class_names) - set(new_class_names))
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if missing[3:] else "")
        raise UserError(
            f"{source.origin}: {len(missing)} of its classes ({shown}) are not among the {len(new_class_names)} of the "
            "training images; use images of those classes under the same names"
        )
    labels = {new_name: label for label, new_name in enumerate(new_class_names)}
    return sources.Relabelled(source, [labels[old_name] for old_name in class_names])


@functools.cache
def imagenet_names():
    """The 1000 classes of ILSVRC2012 in the order of their labels, each with torchvision's name for it."""
    text = importlib.resources.files("alexnet_jax.data").joinpath("imagenet_classes.tsv").read_text()
    return dict(line.split("\t") for line in text.splitlines())


def readable(class_name):
    """A class name for people: 'n02102040 English springer' for 'n02102040', others as they are.

    The names are torchvision's, for the 1000 classes of ILSVRC2012.
    """
    words = imagenet_names().get(class_name)
    return f"{class_name} {words}" if words else class_name


_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_FOLDER_LAYOUT = "a folder of images holds train/CLASS/* and val/CLASS/*"


def _folder(root, split, image_size, stretch):
    if not root or not _directory(root).is_dir():
        raise UserError(
            f"dataset root {root!r}: no such directory; set it (config.dataset.root, --root): {_FOLDER_LAYOUT}"
        )
    directory = _directory(root) / _FOLDERS.get(split, split)
    try:
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory; {_FOLDER_LAYOUT}")
        class_names = tuple(sorted(entry.name for entry in _visible(directory) if entry.is_dir()))
        if not class_names:
            raise UserError(f"{directory}: no class folders; {_FOLDER_LAYOUT}")
        found, others = [], []
        for label, class_name in enumerate(class_names):
            entries = _visible(directory / class_name)
            names = sorted(entry.name for entry in entries if entry.is_file())
            others += [entry.path for entry in entries if not entry.is_file()]
            if not names:
                raise UserError(f"{directory / class_name}: no images in this class folder; add some or remove it")
            found += [(os.path.join(class_name, name), label) for name in names]
        if others:
            log.warning(
                "%s: left out %d things in class folders that are no files, as %s", root, len(others), others[0]
            )
        for class_name in class_names:
            class_name.encode()
            if class_name.splitlines() != [class_name.strip()]:  # TFDS keeps names as lines of a file
                raise UserError(
                    f"{directory}: a class folder's name has a space at an end or a line break "
                    f"({class_name!a}); rename it"
                )
    except UnicodeEncodeError as error:
        raise UserError(f"{directory}: a class folder's name is not UTF-8 ({error.object!a}); rename it") from error
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return sources.FileSource(str(directory), found, image_size, stretch), class_names


def _visible(directory):
    with os.scandir(directory) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]


def _directory(root):
    return pathlib.Path(root).expanduser()


def _tfds(name, root, split, image_size, stretch):
    import tensorflow_datasets as tfds  # a slow import that other data sets don't need

    builder = _builder(name, root)
    features = builder.info.features or {}
    if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise UserError(f"dataset {name!r}: has no `image` with a `label` that is a class")
    there = builder.info.splits
    if there and split.partition("[")[0] not in there:
        raise UserError(f"{name} has no split {split!r}, but {', '.join(there)}")
    try:
        data_source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except (AssertionError, NotImplementedError, ValueError, OSError, RuntimeError) as error:
        if "[" in split:
            raise UserError(
                f"{name}: the split {split!r} is empty or no such slice; they look like train[:10%]"
            ) from error
        if name == "prepared":
            raise UserError(f"{root}: the prepared set is damaged; {_AGAIN}") from error
        what = f"is stored as {builder.info.file_format.value}, not as ArrayRecord," if there else "has not been built"
        raise UserError(f"{name} {what} in {builder.data_dir}: {_how_to_get(name)}") from error
    identity = builder.info.full_name, [(s.name, s.num_bytes, s.shard_lengths) for s in there.values()]
    source = sources.TfdsSource(data_source, f"{name}/{split}", identity, image_size, stretch)
    return source, tuple(features["label"].names)


def _builder(name, root):
    import tensorflow_datasets as tfds

    if name == "prepared":
        directory = _directory(root or DEFAULT_PREPARED)
        if not (directory / "statistics.json").is_file():
            if (directory / "train").is_dir() or (directory / "val").is_dir():
                raise UserError(
                    f"dataset root {directory}: is a folder of images; prepare it (python -m alexnet_jax.prepare "
                    f"--dataset=folder --root={directory} --output=DIR), or name the dataset folder, not prepared"
                )
            raise UserError(
                f"dataset root {directory}: no (finished) prepared set; make one by "
                "python -m alexnet_jax.prepare, or, without any data, try "
                "python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart"
            )
        check_prepared(directory)
        try:
            return tfds.builder_from_directory(directory)
        except (json_format.ParseError, OSError, ValueError) as error:
            raise UserError(f"{directory}: its dataset_info.json cannot be read; {_AGAIN}") from error
    if not name.startswith("tfds:"):
        raise UserError(f"dataset {name!r}: no such data set; use prepared, tfds:NAME, folder or textures")
    try:
        return tfds.builder(name.removeprefix("tfds:"), data_dir=os.path.expanduser(root) or None)
    except (tfds.core.DatasetNotFoundError, AssertionError, ImportError, ValueError) as error:
        raise UserError(f"dataset {name!r}: no usable data set; {_how_to_get(name)}") from error


_AGAIN = "prepare the set again in another directory"


def check_prepared(directory):
    """Raises UserError if a file of a prepared set is not there or not as long as it was."""
    for name, length in files.read_json(directory / "statistics.json").get("bytes", {}).items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != length:
            raise UserError(f"{path}: is lost or damaged; {_AGAIN}")


def absolute_root(name, root):
    """A root that means the same from whatever directory a program runs in."""
    root = root or (DEFAULT_PREPARED if name == "prepared" else "")
    return root and os.path.abspath(os.path.expanduser(root))


def _how_to_get(name):
    name = name.removeprefix("tfds:")
    return (
        "build it where TensorFlow is (pip install '.[tfds-build]'; python -c \"import tensorflow_datasets as tfds; "
        f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"; ImageNet itself needs none: "
        "python -m alexnet_jax.prepare --dataset=imagenet), "
        "or use folders (--config.dataset.name=folder --config.dataset.root=DIR; train/CLASS/*, val/CLASS/*); "
        "without any data, try python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart"
    )


def _statistics(name, root, image_size):
    if name == "textures":
        return textures.load(root)[1]
    if name != "prepared":
        return {}
    directory = _directory(root or DEFAULT_PREPARED)
    try:
        statistics = files.read_json(directory / "statistics.json")
        mean_image = np.load(directory / "mean_image.npy")
        variances, axes = np.linalg.eigh(np.array(statistics["rgb_covariance"]))
        mean = mean_image if len(mean_image) == image_size else np.array(statistics["rgb_mean"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory}: its statistics cannot be read ({error}); {_AGAIN}") from error
    return {
        "mean": mean.astype(np.float32),
        "colour_std": np.sqrt(np.maximum(variances, 0)).astype(np.float32),
        "colour_axes": axes.astype(np.float32),
    }
