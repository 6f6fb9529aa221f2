"""Data sets of Hugging Face: Parquet files, and the Arrow files that `datasets.save_to_disk` and its cache hold."""

import logging
import pathlib
from typing import Any

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data import sources, views
from alexnet_jax.data.base import Split, check_class_names, normalized
from alexnet_jax.data.class_names import canonical, ordered
from alexnet_jax.data.kinds.folders import SPLIT_OF
from alexnet_jax.data.kinds.shard_files import ShardedDataset

log = logging.getLogger("alexnet_jax")


class HuggingFace(ShardedDataset):
    """Images and labels in columns of Parquet or Arrow files.

    The classes are those of the schema, in its order. Without them, they are the numbers or texts that occur, ordered.
    Rows with the label −1 have no class, and are not used.
    """

    title = "Parquet or Arrow files of Hugging Face"
    layout = "Hugging Face's files are train-*.parquet and validation-*.parquet, or train/*.arrow and others"

    suffixes = ("parquet", "arrow")
    places = ("", "data", "default")

    @classmethod
    def names_in(cls, path: pathlib.Path) -> list[str]:
        return ["huggingface"] if cls.shards_in(path) else []

    def _tables(self, split: str) -> list[Any]:
        from alexnet_jax.data.kinds import tables  # pyarrow takes 30 MB in every worker, and other kinds do not need it

        return [tables.read(path) for path in self.shards_of(split)]

    def held_out(self) -> tuple[str, str]:
        validation, test = super().held_out()
        if test != validation and all((table.labels == sources.SECRET).all() for table in self._tables(test)):
            test = validation
        return validation, test

    def load(self, split: str, image_size: int, stretch: bool = False) -> Split:
        from alexnet_jax.data.kinds.tables import RowSource

        split = SPLIT_OF.get(split, split)
        tables = self._tables(split)
        columns = {(table.image, table.label, table.class_names, table.labels.dtype.kind) for table in tables}
        if len(columns) > 1:
            raise UserError(f"{self.directory}: the files of {split} have different columns; use those of one data set")
        image, label, class_names, _ = columns.pop()
        if (image, label) != ("image", "label"):
            log.warning("%s: the images are in the column %r, and the labels in %r", self.root, image, label)
        labels = np.concatenate([table.labels for table in tables])
        if not len(labels):
            raise UserError(f"{self.directory}: {split} has no rows; remove its files, or download them again")
        rows = np.flatnonzero(labels != sources.SECRET)
        if not len(rows):
            raise sources.SecretLabelsError(f"{self.directory}: {split} has no labels; use another split")
        if len(rows) < len(labels):
            log.warning("%s: %d rows of %s are not used: their label is -1", self.root, len(labels) - len(rows), split)
        found = np.unique(labels[rows]).tolist()
        if class_names is None:
            class_names = ordered(normalized(str(label)) for label in found)
            known = {label: class_names.index(normalized(str(label))) for label in found}
        else:
            known = {label: label for label in range(len(class_names))}
        if wrong := [label for label in found if label not in known or isinstance(label, int) and label < 0]:
            raise UserError(
                f"{self.directory}: {split} has the label {wrong[0]!a}, but {len(class_names)} classes from 0 on; "
                "download it again"
            )
        check_class_names(self.directory, class_names)
        source: sources.EncodedSource = RowSource(
            f"{self.directory}/{split}",
            tuple((str(table.path), table.version, table.groups) for table in tables),
            image,
            [known.get(label, sources.SECRET) for label in labels.tolist()],
            image_size,
            stretch,
            self.orientation,
        )
        if len(rows) < len(labels):
            source = views.SelectedSource(source, rows.tolist())
        return Split(source, canonical(tuple(map(normalized, class_names))))
