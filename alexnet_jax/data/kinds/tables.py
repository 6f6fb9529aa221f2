"""Tables of images and labels in Parquet and Arrow files, read by groups of rows."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alexnet_jax import UserError
from alexnet_jax.data import archives, sources
from alexnet_jax.runtime import files

IMAGES = ("image", "img", "jpg", "png", "picture")  # names of columns, the usual ones first
LABELS = ("label", "labels", "fine_label", "class", "cls", "target")
LEAST_ROW = 16  # bytes of an image and its label
MOST_GROUP = 2**32  # bytes of the images in a row group, or in a batch of rows: they are in memory together
FILE = b"ARROW1"  # begins the other format of Arrow
END = b"\xff\xff\xff\xff\0\0\0\0"  # of a whole Arrow file
BROKEN = (pa.ArrowException, ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclasses.dataclass(frozen=True)
class Table:
    """A file: which columns it has, and its labels. `groups` are the rows, or the places, of its parts."""

    path: pathlib.Path
    version: files.Version
    image: str
    label: str
    class_names: tuple[str, ...] | None
    labels: np.ndarray  # int64, or texts
    groups: tuple[Any, ...]


def read(path: pathlib.Path) -> Table:
    """What a file holds, without its images. Raises UserError if it is damaged or has no images with labels."""
    version = files.version(path)
    archives.check_no_pointer(files.read_bytes(path, 100), path)
    with _reading(path) as file:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                if parquet.metadata.num_rows > version[0] // LEAST_ROW:
                    raise ValueError(f"it has {parquet.metadata.num_rows:,} rows in {version[0]:,} bytes")
                schema = parquet.schema_arrow
                image, label, class_names = _columns(path, schema)
                column = parquet.read([label]).column(label)
                groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
                sizes = [group.total_byte_size for group in groups]
                counts: list[Any] = [group.num_rows for group in groups]
        elif file.read(len(FILE)) == FILE:
            raise UserError(f"{path}: is an Arrow file for random access; write it as save_to_disk or to_parquet does")
        else:
            # Mapped, so that listing the labels does not read the images.
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
                image, label, class_names = _columns(path, stream.schema)
                labels, counts, sizes = [], [], []
                while True:
                    start = mapped.tell()
                    try:
                        batch = stream.read_next_batch()
                    except StopIteration:
                        break
                    labels.append(batch.column(label))
                    counts.append((batch.num_rows, start, mapped.tell() - start))
                    sizes.append(mapped.tell() - start)
                column = pa.concat_arrays(labels or [pa.array([], pa.int64())])
                mapped.seek(max(0, mapped.size() - len(END)))
                if mapped.read(len(END)) != END:  # without it, the file may have been cut between two batches
                    raise ValueError("it is cut off at its end")
        if column.null_count:
            raise UserError(f"{path}: its column {label!a} has rows without a label; use another set")
        kind = np.dtype(np.int64 if pa.types.is_integer(column.type) else np.str_)
        labels_N = np.array(column.to_pylist(), kind)
    if max(sizes, default=0) > MOST_GROUP:
        raise UserError(
            f"{path}: has {max(sizes) / 1e9:.3g} GB in one group of rows, which have to be in memory together; "
            "write it again with smaller groups"
        )
    return Table(path, version, image, label, class_names, labels_N, tuple(counts))


@contextlib.contextmanager
def _reading(path: files.Path) -> Iterator[Any]:
    """Opens a file to read. Turns what pyarrow raises for a damaged one into a UserError of one line."""
    with files.reading(path) as file:
        try:
            yield file
        except BROKEN as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{path}: cannot be read ({reason}); download it again") from error


def _columns(path: pathlib.Path, schema: pa.Schema) -> tuple[str, str, tuple[str, ...] | None]:
    """The names of the columns of images and labels, and the class names."""
    features = {}
    if text := (schema.metadata or {}).get(b"huggingface"):
        with contextlib.suppress(ValueError):
            features = files.parse_json(text, {"info": {"features": {str: object}}})["info"]["features"]
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    encoded = [field.name for field in schema if _is_encoded(field.type)]
    labels = [field.name for field in schema if _is_label(field.type)]
    image = next((name for name in IMAGES if name in encoded), None)
    label = next((name for name in LABELS if name in labels), None)
    image = image or _only([name for name in encoded if kinds.get(name) == "Image"])
    label = label or _only([name for name in labels if kinds.get(name) == "ClassLabel"])
    if not image or not label:
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UserError(
            f"{path}: has no column of {'images' if not image else 'labels'}; call the encoded images `image`, and "
            f"their numbers or names of classes `label`; it has {columns}"
        )
    names = features.get(label, {}).get("names") if kinds.get(label) == "ClassLabel" else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path}: the class names in its schema are not texts; download it again")
    if names is not None and len(set(names)) < len(names):
        raise UserError(f"{path}: two classes in its schema have the same name; use another set")
    return image, label, tuple(names) if names is not None else None


def _is_encoded(kind):
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_encoded(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_label(kind):
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _only(names):
    return names[0] if len(names) == 1 else None


@dataclasses.dataclass(frozen=True, eq=False)
class RowSource(sources.EncodedSource):
    """Rows `start` and following of some files, (path, version, groups of rows), whose labels are given."""

    origin: str
    tables: Sequence[tuple[str, files.Version, tuple[Any, ...]]]
    column: str
    labels: Sequence[int]
    image_size: int
    stretch: bool = False
    orientation: str = "upright"
    start: int = 0

    @functools.cached_property
    def _groups(self) -> tuple[list[tuple[int, int]], list[int]]:
        """(table, group) of every group of rows, and the row at which each ends."""
        places = [(t, g) for t, (_, _, groups) in enumerate(self.tables) for g in range(len(groups))]
        counts = [group if isinstance(group, int) else group[0] for _, _, groups in self.tables for group in groups]
        return places, list(itertools.accumulate(counts))

    @property
    def manifest(self) -> Sequence[Any]:
        names = [(os.path.basename(path), version[0]) for path, version, _ in self.tables]
        return names, self.column, self.start, *self.labels

    @property
    def listing(self) -> Iterator[tuple[str, int, int]]:
        # With the bytes of the whole file: a row's own are not in its schema.
        return ((self.name(i), label, self._place(i)[1][0]) for i, label in enumerate(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def _place(self, i):
        """(path, version, group, row in the group) of row i."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        places, stops = self._groups
        row = self.start + i
        k = bisect.bisect_right(stops, row)
        table, group = places[k]
        path, version, groups = self.tables[table]
        place = (group, None) if isinstance(groups[group], int) else (group, groups[group][1:])
        return path, version, place, row - (stops[k - 1] if k else 0)

    def describe(self, i: int) -> str:
        path, _, (group, _), row = self._place(i)
        return f"{path}, row {row} of group {group}"

    def name(self, i: int) -> str:
        path, _, (group, _), row = self._place(i)
        return f"{os.path.basename(path)}/{group}/{row}"

    def read(self, i: int) -> tuple[bytes, int]:
        path, version, place, row = self._place(i)
        data = _read_group(path, version, place, self.column)[row].as_py()
        if data is None:
            raise UserError(
                f"{self.describe(i)}: holds no image, at most the path of one; use the folder that holds the images, "
                "or what save_to_disk of the library datasets writes"
            )
        return data, self.labels[i]

    def part(self, start: int, stop: int) -> sources.EncodedSource:
        return dataclasses.replace(self, labels=self.labels[start:stop], start=self.start + start)


@functools.lru_cache(maxsize=1)
def _read_group(path: str, version: files.Version, place: tuple[int, Any], column: str) -> Any:
    """The encoded images of a group of rows, a pyarrow array. The last one is kept: images are read in their order."""
    group, extent = place
    with _reading(path) as file:
        if extent is None:
            with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                images = parquet.read_row_group(group, [column]).column(column).combine_chunks()
        else:
            with pa.ipc.open_stream(file) as stream:
                schema = stream.schema
            offset, length = extent
            batch = pa.ipc.read_record_batch(pa.py_buffer(files.read_part(path, version, offset, length)), schema)
            images = batch.column(column)
        if isinstance(images, pa.ChunkedArray):
            images = pa.concat_arrays(images.chunks)
        if pa.types.is_struct(images.type):
            images = images.field("bytes")
    files.check_unchanged(path, version, "restore it")
    return images
