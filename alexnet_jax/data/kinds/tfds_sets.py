"""Data sets of TensorFlow Datasets (TFDS) stored as ArrayRecord: stock ones, and those that `preparation` writes."""

import functools
import itertools
import os
import pathlib
import re
from typing import Any

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data import images, sources
from alexnet_jax.data.base import Dataset, Split, Statistics
from alexnet_jax.runtime import files

FIRST = 1000  # entries of a directory, in which to look for data sets
VERSION = re.compile(r"\d+\.\d+\.\d+")
MOST_SQUARED = 256**2  # of pixels, and so of their mean and covariance


class Tfds(Dataset):
    """A stock data set, 'tfds:NAME', in a TFDS data directory.

    Attributes:
      remedy: what a message about a damaged file tells the user to do.
    """

    title = "a TFDS data set"
    remedy = "build the set again"
    takes_name = True
    needs_root = False
    test_is_final = False

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        if not files.is_directory(path):
            return []
        names = set()
        for directory in _directories(path):
            for inner in _directories(directory):
                for entry in (inner, *(_directories(inner) if not VERSION.fullmatch(inner.name) else ())):
                    if VERSION.fullmatch(entry.name) and files.exists(entry / "dataset_info.json"):
                        names.add(f"tfds:{entry.parent.relative_to(path).as_posix()}")
        return sorted(names)

    @functools.cached_property
    def builder(self) -> Any:
        """The TFDS builder. Raises UserError if the data set does not exist, or is damaged."""
        from alexnet_jax.data.kinds import tfds_directory  # TFDS is slow to import, and other kinds do not need it

        directory = tfds_directory.find(self.short_name, self.directory)
        if not directory:
            raise UserError(f"dataset {self.name!r}: no usable data set in {self.directory}; {self.how_to_get}")
        return tfds_directory.builder(directory, self.remedy)

    @property
    def directory(self) -> pathlib.Path:
        import tensorflow_datasets as tfds

        return files.absolute(self.root or tfds.core.constants.DATA_DIR)

    @property
    def short_name(self) -> str:
        return self.name.removeprefix("tfds:")

    @property
    def how_to_get(self) -> str:
        """The advice of a message about a missing data set."""
        return (
            "build it where TensorFlow is (pip install -e '.[tfds-build]'; python -c \"import tensorflow_datasets as "
            f"tfds; tfds.builder('{self.short_name}', file_format='array_record').download_and_prepare()\"; ImageNet "
            "itself needs none: python -m alexnet_jax.prepare --dataset=imagenet), "
            "or use folders (--config.dataset.name=folder --config.dataset.root=DIR; train/CLASS/*, val/CLASS/*); "
            "without any data, try python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart"
        )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.builder.info.splits)

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        import tensorflow_datasets as tfds

        from alexnet_jax.data.kinds import tfds_directory

        info = self.builder.info
        features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
        image, label = features.get("image"), features.get("label")
        if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
            raise UserError(f"dataset {self.name!r}: has no `image` with a `label` that is a class")
        names = tuple(label.names)
        if not 0 < len(set(names)) == label.num_classes:
            raise UserError(
                f"{info.data_dir}/label.labels.txt: has {len(set(names))} different names for "
                f"{label.num_classes} classes; {self.remedy}"
            )
        name = split.partition("[")[0]
        if info.splits and name not in info.splits:
            raise UserError(f"{self.name} has no split {split!r}, but {', '.join(info.splits)}")
        try:
            records = self.builder.as_data_source(split, file_format="array_record").data_source
        except (AssertionError, KeyError, NotImplementedError, ValueError, OSError, RuntimeError) as error:
            if "[" in split:
                raise UserError(
                    f"{self.name}: the split {split!r} is empty or no such slice; they look like train[:10%]"
                ) from error
            raise UserError(self.unreadable) from error
        records = tfds_directory.Records(records, self.builder.info.splits[split].file_instructions, self.remedy)
        tfds_directory.check_shards(self.builder.info.splits[name], self.remedy)
        source = sources.TfdsSource(
            records,
            f"{self.name}/{split}",
            self.identity,
            image_size,
            stretch,
            0,
            len(records),
            len(names),
            self.orientation,
        )
        return Split(source, names)

    @property
    def identity(self) -> Any:
        """A value whose repr identifies the images and labels of the data set."""
        info = self.builder.info
        return info.full_name, [(s.name, s.num_bytes, s.shard_lengths) for s in info.splits.values()]

    @property
    def unreadable(self) -> str:
        """The message about files that cannot be opened."""
        info = self.builder.info
        if info.splits and info.file_format.value == "array_record":
            return f"{self.name}: the data set in {self.builder.data_dir} is damaged; {self.remedy}"
        stored = f"is stored as {info.file_format.value}, not as ArrayRecord," if info.splits else "has not been built"
        return f"{self.name} {stored} in {self.builder.data_dir}: {self.how_to_get}"


class Prepared(Tfds):
    """A data set that `alexnet_jax.prepare` wrote: square images, their mean image and the covariance of RGB."""

    remedy = "prepare the set again in another directory"
    takes_name = False
    default_root = "imagenet256"
    preparable = False
    cropped = True
    test_is_final = True

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return ["prepared"] if files.exists(path / "statistics.json") and files.exists(path / "mean_image.npy") else []

    @property
    def directory(self) -> pathlib.Path:
        return files.absolute(self.root or self.default_root)

    @functools.cached_property
    def builder(self) -> Any:
        from alexnet_jax.data.kinds import tfds_directory

        self._check_exists()
        self.check()
        return tfds_directory.builder(self.directory, self.remedy)

    def _check_exists(self):
        directory = self.directory
        if not files.exists(directory / "statistics.json"):
            if files.exists(directory / "train") or files.exists(directory / "val"):
                raise UserError(
                    f"dataset root {directory}: is a folder of images; prepare it (python -m alexnet_jax.prepare "
                    f"--dataset=folder --root={directory} --output=DIR), or name the dataset folder, not prepared"
                )
            raise UserError(
                f"dataset root {directory}: no (finished) prepared set; make one by "
                "python -m alexnet_jax.prepare, or, without any data, try "
                "python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart"
            )

    @property
    def identity(self) -> Any:
        path = self.directory / "prepare.json"
        return super().identity, files.read_json(path, {"listing": str})["listing"] if files.exists(path) else ""

    @property
    def orientation(self) -> str:
        """The orientation that the set was prepared with."""
        self._check_exists()
        path = self.directory / "prepare.json"
        description = files.read_json(path, {"orientation?": str}, self.remedy) if files.exists(path) else {}
        orientation = description.get("orientation", "stored")  # earlier versions did not record it
        if orientation not in images.ORIENTATIONS:
            raise UserError(f"{path}: is not what prepare wrote (orientation); {self.remedy}")
        return orientation

    @property
    def stored_size(self) -> int:
        return len(self._mean_image)

    @functools.cached_property
    def _mean_image(self) -> np.ndarray:
        path = self.directory / "mean_image.npy"
        mean = files.read_array(path, self.remedy)
        if (
            mean.ndim != 3
            or mean.shape != (len(mean), len(mean), 3)
            or mean.dtype.kind != "f"
            or not np.isfinite(mean).all()
        ):
            raise UserError(f"{path}: is not a mean image, but {mean.dtype} {list(mean.shape)}; {self.remedy}")
        return mean

    @functools.cached_property
    def _statistics(self) -> dict[str, Any]:
        path = self.directory / "statistics.json"
        shape = {"rgb_mean": [float], "rgb_covariance": [[float]], "bytes?": {str: int}}
        statistics = files.read_json(path, shape, self.remedy)
        rows = [statistics["rgb_mean"], *statistics["rgb_covariance"]]
        if [len(row) for row in rows] != [3] * 4 or not all(abs(x) <= MOST_SQUARED for row in rows for x in row):
            raise UserError(f"{path}: holds no mean and covariance of three colours; {self.remedy}")
        return statistics

    def check(self) -> None:
        """Raises UserError if a file of the set is missing or its length has changed since it was written."""
        for name, length in self._statistics.get("bytes", {}).items():
            path = self.directory / pathlib.Path(name).name
            if not path.is_file() or path.stat().st_size != length:
                raise UserError(f"{path}: is missing or damaged; {self.remedy}")

    def statistics(self, image_size: int) -> Statistics:
        mean = self._mean_image if self.stored_size == image_size else np.array(self._statistics["rgb_mean"])
        return Statistics.of(mean, np.array(self._statistics["rgb_covariance"]))


def _directories(directory):
    """The directories among the first entries of a directory."""
    with os.scandir(directory) as entries:
        return [pathlib.Path(entry.path) for entry in itertools.islice(entries, FIRST) if entry.is_dir()]
