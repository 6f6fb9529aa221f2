"""Data sets of TensorFlow Datasets (TFDS) stored as ArrayRecord: stock ones, and those that `preparation` writes."""

import functools
import os
from typing import Any

import numpy as np
from google.protobuf import json_format

from alexnet_jax import UserError
from alexnet_jax.data import sources
from alexnet_jax.data.base import Dataset, Split, Statistics
from alexnet_jax.runtime import files

REMEDY = "prepare the set again in another directory"


class Tfds(Dataset):
    """A stock data set, 'tfds:NAME', in a TFDS data directory."""

    takes_name = True
    needs_root = False
    test_is_final = False

    @functools.cached_property
    def builder(self) -> Any:
        """The TFDS builder. Raises UserError if the data set does not exist."""
        import tensorflow_datasets as tfds  # slow to import, and other kinds do not need it

        try:
            return tfds.builder(self.short_name, data_dir=os.path.expanduser(self.root) or None)
        except (tfds.core.DatasetNotFoundError, AssertionError, ImportError, ValueError) as error:
            raise UserError(f"dataset {self.name!r}: no usable data set; {self.how_to_get}") from error

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

        info = self.builder.info
        features = info.features or {}
        if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
            raise UserError(f"dataset {self.name!r}: has no `image` with a `label` that is a class")
        if info.splits and split.partition("[")[0] not in info.splits:
            raise UserError(f"{self.name} has no split {split!r}, but {', '.join(info.splits)}")
        try:
            examples = self.builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except (AssertionError, NotImplementedError, ValueError, OSError, RuntimeError) as error:
            if "[" in split:
                raise UserError(
                    f"{self.name}: the split {split!r} is empty or no such slice; they look like train[:10%]"
                ) from error
            raise UserError(self.unreadable) from error
        source = sources.TfdsSource(
            examples,
            f"{self.name}/{split}",
            self.identity,
            image_size,
            stretch,
            0,
            len(examples),
            features["label"].num_classes,
        )
        return Split(source, tuple(features["label"].names))

    @property
    def identity(self) -> Any:
        """A value whose repr identifies the images and labels of the data set."""
        info = self.builder.info
        return info.full_name, [(s.name, s.num_bytes, s.shard_lengths) for s in info.splits.values()]

    @property
    def unreadable(self) -> str:
        """The message about files that cannot be opened."""
        info = self.builder.info
        stored = f"is stored as {info.file_format.value}, not as ArrayRecord," if info.splits else "has not been built"
        return f"{self.name} {stored} in {self.builder.data_dir}: {self.how_to_get}"


class Prepared(Tfds):
    """A data set that `alexnet_jax.prepare` wrote: square images, their mean image and the covariance of RGB."""

    takes_name = False
    default_root = "imagenet256"
    preparable = False
    cropped = True
    test_is_final = True

    @functools.cached_property
    def builder(self) -> Any:
        import tensorflow_datasets as tfds

        directory = self.directory
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
        self.check()
        try:
            return tfds.builder_from_directory(directory)
        except (json_format.ParseError, OSError, ValueError) as error:
            raise UserError(f"{directory}: its dataset_info.json cannot be read; {REMEDY}") from error

    @property
    def identity(self) -> Any:
        path = self.directory / "prepare.json"
        return super().identity, files.read_json(path, {"listing": str})["listing"] if path.exists() else ""

    @property
    def stored_size(self) -> int:
        return len(self._mean_image)

    @functools.cached_property
    def _mean_image(self):
        return files.read_array(self.directory / "mean_image.npy", REMEDY)

    @property
    def unreadable(self) -> str:
        return f"{self.root}: the prepared set is damaged; {REMEDY}"

    def check(self) -> None:
        """Raises UserError if a file of the set is missing or its length has changed since it was written."""
        for name, length in files.read_json(self.directory / "statistics.json").get("bytes", {}).items():
            path = self.directory / name
            if not path.is_file() or path.stat().st_size != length:
                raise UserError(f"{path}: is missing or damaged; {REMEDY}")

    def statistics(self, image_size: int) -> Statistics:
        try:
            statistics = files.read_json(self.directory / "statistics.json")
            mean = self._mean_image if self.stored_size == image_size else np.array(statistics["rgb_mean"])
            return Statistics.of(mean, np.array(statistics["rgb_covariance"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.directory}: its statistics cannot be read ({error}); {REMEDY}") from error
