"""Where images come from: the embedded textures, a folder of images, or TFDS.

A `source` is what `input_pipeline` reads: `len(source)`, `source.image_size`, and `source[i]`, an image
[image_size, image_size, 3] uint8 with its label.
"""

import dataclasses
import io
import os
import pathlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from alexnet_jax import UserError, textures

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


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Three sources and what is known of the training images.

    Attributes:
      train, validation, test: sources. For TFDS, where test labels may be secret, and for a folder without test/,
        `test` is the validation split again.
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


def load(name, root, image_size):
    """The data set that `config.dataset` names.

    Args:
      name: 'textures' (embedded; made once, in a cache directory), 'folder' or 'tfds:NAME'.
      root: for `folder` the directory with train/ and val/, otherwise '' for the default place or the directory to use.
      image_size: height and width of the stored images to deliver, in pixels.

    Raises:
      UserError: there is no such data set, or it is incomplete.
    """
    if name == "textures":
        return _textures(root, image_size)
    if name == "folder":
        try:
            return _folder(root, image_size)
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if name.startswith("tfds:"):
        return _tfds(name.removeprefix("tfds:"), root, image_size)
    raise UserError(f"config.dataset.name: no data set {name!r}; use textures, folder or tfds:NAME")


def decode(data, origin, size):
    """An encoded image of any format and mode as the paper's: shorter side to `size`, then the centre (section 2).

    Areas are averaged when it shrinks and cubics fitted when it grows.

    Returns:
      uint8 [size, size, 3].

    Raises:
      UserError: the bytes are no complete image; names `origin`.
    """
    try:
        image = Image.open(io.BytesIO(data))
        if image.mode.startswith("I;16"):  # Pillow's own conversion clips these instead of scaling them
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.mode == "P":  # a palette may hold transparent colours
            image = image.convert("RGBA")
        return _square(image.convert("RGB"), size)
    except Image.DecompressionBombError as error:
        raise UserError(f"{origin}: too large an image ({error}); shrink or remove the file") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{origin}: not an image; replace or remove the file") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say that a file is broken
        raise UserError(f"{origin}: not a complete image ({error}); replace or remove the file") from error


def _square(image, size):
    shorter = min(image.size)
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BOX if size < shorter else Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


class ArraySource:
    """Images in one array [N, S, S, 3], uint8; the labels go round the classes."""

    def __init__(self, images, num_classes, image_size):
        self.images, self.num_classes, self.image_size = images, num_classes, image_size

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = self.images[i]
        if len(image) != self.image_size:
            image = _square(Image.fromarray(image), self.image_size)
        return image, i % self.num_classes


class FileSource:
    """Image files and their labels."""

    def __init__(self, files, image_size):
        self.files, self.image_size = files, image_size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        path, label = self.files[i]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        return decode(data, path, self.image_size), label


class TfdsSource:
    """A split of a TFDS data set whose examples have an encoded `image` and a `label`."""

    def __init__(self, data_source, origin, image_size):
        self.data_source, self.origin, self.image_size = data_source, origin, image_size

    def __len__(self):
        return len(self.data_source)

    def __getitem__(self, i):
        example = self.data_source[i]
        return decode(example["image"], f"{self.origin}, example {i}", self.image_size), example["label"]


def _textures(root, image_size):
    arrays, statistics = textures.load(root)
    splits = {split: ArraySource(images, len(textures.CLASS_NAMES), image_size) for split, images in arrays.items()}
    return Dataset(**splits, class_names=textures.CLASS_NAMES, **statistics)


def _folder(root, image_size):
    if not root or not pathlib.Path(root).expanduser().is_dir():
        raise UserError(f"config.dataset.root: no directory {root!r}; set it to one: {_FOLDER_LAYOUT}")
    root = pathlib.Path(root).expanduser()
    class_names = _class_names(root / "train")
    labels = {name: label for label, name in enumerate(class_names)}

    def source(split):
        files = []
        for name in _class_names(root / split):
            directory = root / split / name
            if name not in labels:
                raise UserError(f"{directory}: a class that train/ does not have; remove it or add it there")
            images = sorted(p for p in directory.iterdir() if p.is_file() and not p.name.startswith("."))
            if not images:
                raise UserError(f"{directory}: no images in this class folder; add some or remove it")
            files += [(image, labels[name]) for image in images]
        return FileSource(files, image_size)

    train, validation = source("train"), source("val")
    test = source("test") if (root / "test").is_dir() else validation
    return Dataset(train, validation, test, class_names)


_FOLDER_LAYOUT = "a folder of images holds train/CLASS/* and val/CLASS/*"


def _class_names(directory):
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; {_FOLDER_LAYOUT}")
    names = tuple(sorted(p.name for p in directory.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise UserError(f"{directory}: no class folders; {_FOLDER_LAYOUT}")
    return names


def _tfds(name, root, image_size):
    import tensorflow_datasets as tfds  # a slow import that other data sets don't need

    how = (
        "use images in folders (--config.dataset.name=folder --config.dataset.root=DIR; train/CLASS/*, val/CLASS/*) "
        f"or build it where TensorFlow is installed (tfds build {name} --file_format=array_record; ImageNet needs its "
        "two archives in ~/tensorflow_datasets/downloads/manual); "
        "without any data, try python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart"
    )
    try:
        builder = tfds.builder(name, data_dir=os.path.expanduser(root) or None)
    except (tfds.core.DatasetNotFoundError, ImportError, ValueError) as error:
        raise UserError(f"config.dataset.name: TFDS has no usable data set {name!r}; {how}") from error
    if not {"image", "label"} <= set(builder.info.features or ()):
        raise UserError(f"config.dataset.name: the TFDS data set {name!r} has no `image` and `label`")
    try:
        held_out = "validation" if "validation" in builder.info.splits else "test"
        decoders = {"image": tfds.decode.SkipDecoding()}
        train, validation = (
            TfdsSource(builder.as_data_source(split, decoders=decoders), f"{name}/{split}", image_size)
            for split in ("train", held_out)
        )
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise UserError(f"{name} is not prepared as ArrayRecord in {builder.data_dir}: {how}") from error
    return Dataset(train, validation, validation, tuple(builder.info.features["label"].names))
