"""Shards of a prepared data set: a worker decodes, resizes and encodes the images of one, and sums their pixels."""

import contextlib
import csv
import dataclasses
import multiprocessing
import os
import pathlib
import re
import resource
import stat
import struct
import sys
import threading
import zipfile
from multiprocessing.sharedctypes import SynchronizedArray

import numpy as np
import simplejpeg

from alexnet_jax import UserError
from alexnet_jax.data import images, sources
from alexnet_jax.runtime import files

JPEG_QUALITY = 95
REMEDY = "fix that and run the same command again to continue"

_counters: SynchronizedArray  # set by `start_worker`


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split, written to a file in the directory `output`.

    Attributes:
      index: from 0.
      shards: the number of shards of the split.
      name: the name of the data set.
      size: height and width of the images, in pixels.
    """

    split: str
    index: int
    shards: int
    source: sources.EncodedSource
    name: str
    size: int
    output: pathlib.Path

    @property
    def path(self) -> pathlib.Path:
        return self.output / f"{self.name}-{self.split}.array_record-{self.index:05}-of-{self.shards:05}"

    @property
    def summary(self) -> pathlib.Path:
        """The file with the shard's counts, sums and undecodable images. It is written after the shard."""
        return work_directory(self.output) / f"{self.split}-{self.index:05}.npz"

    def read_summary(self, *names: str) -> list[np.ndarray]:
        """Arrays of the summary by name: the fields of `Sums`, `bytes_on_disk`, and `undecodable` [N, 3] of str.

        Raises UserError if the summary is missing or damaged, or an array is not one that this shard can have.
        """
        with files.reading(self.summary) as file:
            try:
                with np.load(file) as summary:
                    if any(member.compress_type for member in summary.zip.infolist()):
                        raise ValueError("compressed, unlike those of this program")  # it could fill the memory
                    arrays = {name: summary[name] for name in ("count", *names)}
                left_out = len(self.source) - int(arrays["count"])
                expected = vars(Sums(self.size)) | {"bytes_on_disk": 0, "undecodable": np.zeros((left_out, 3), str)}
                for name, array in arrays.items():
                    if (array.shape, array.dtype.kind) != (
                        np.shape(expected[name]),
                        np.array(expected[name]).dtype.kind,
                    ):
                        raise ValueError(f"{name} is {array.dtype} {list(array.shape)}")
            except (*files.NO_ARRAY, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile) as error:
                raise UserError(f"{self.summary}: is not the summary of a shard ({error}); remove it") from error
        return [arrays[name] for name in names]

    @property
    def done(self) -> bool:
        """Whether the shard and its summary are complete."""
        try:
            (bytes_on_disk,) = self.read_summary("bytes_on_disk")
            status = self.path.lstat()
            return stat.S_ISREG(status.st_mode) and status.st_size == int(bytes_on_disk)
        except (OSError, UserError):
            return False


def work_directory(output: pathlib.Path) -> pathlib.Path:
    """The directory for files that are needed only until the set is complete."""
    return output / ".prepare"


def start_worker(counters: SynchronizedArray) -> None:
    """Prepares a process to make shards.

    `counters` are three integers: images done, undecodable images among them, and 1 once the workers have to stop.
    """
    global _counters
    _counters = counters
    images.ignore_warnings()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent():
    parent = multiprocessing.parent_process()
    assert parent  # this is a worker
    parent.join()
    os._exit(1)


def make_shard(shard: Shard) -> int:
    """Writes a shard and its summary, each completely or not at all. Runs in a worker.

    It streams: memory holds one image at a time, and sums of the size of a prepared image.

    Returns:
      the peak memory of the process so far, in bytes.

    Raises:
      UserError: an image cannot be read, or the shard cannot be written.
    """
    undecodable, sums = [], Sums(shard.size)
    work = work_directory(shard.output)
    with files.explaining(f"--output={shard.output}", "written", REMEDY), files.temporary(work) as unfinished:
        with _array_record(unfinished) as writer:
            for i in range(len(shard.source)):
                if _counters[2]:
                    raise UserError("stopped")
                name = shard.source.name(i).encode(errors="surrogateescape").decode(errors="replace")
                data, label = shard.source.read(i)
                try:
                    data = images.encode(data, name, shard.size, JPEG_QUALITY, shard.source.orientation)
                except UserError as error:
                    reason = str(error).removeprefix(f"{name}: ").partition("; ")[0]
                    undecodable.append((shard.split, name, reason))
                    with files.append(shard.output / "undecodable.tsv") as file:
                        csv.writer(file, "excel-tab", lineterminator="\n").writerow(undecodable[-1])
                    with _counters.get_lock():
                        _counters[1] += 1
                else:
                    record = serialize(data, label, name)
                    writer.write(record)
                    sums.add(data, len(record), pixels=shard.split == "train")
                with _counters.get_lock():
                    _counters[0] += 1
        bytes_on_disk = unfinished.stat().st_size
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, shard.path)
        with files.whole(shard.summary, "wb", REMEDY) as file:
            rows = np.array(undecodable, str).reshape(-1, 3)
            np.savez(file, bytes_on_disk=bytes_on_disk, undecodable=rows, **vars(sums))
    return peak_memory()


@contextlib.contextmanager
def _array_record(path):
    """A writer of an ArrayRecord file. Raises OSError if the file cannot be written."""
    from array_record.python import array_record_module

    try:
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:  # of ArrayRecord
        raise OSError(str(error).partition(";")[0]) from error


def peak_memory() -> int:
    """The peak memory of this process so far, in bytes."""
    if sys.platform == "linux":  # getrusage would include the parent's peak
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())
        return 1024 * int(kilobytes)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Sums:
    """Sums over a shard.

    Attributes:
      count, num_bytes: examples, and the bytes of their records.
      total: uint32 [size, size, 3], the sum of the images.
      products: int64 [3, 3], the sum over all pixels of the products of two colours.
    """

    def __init__(self, size: int):
        self.count, self.num_bytes = 0, 0
        self.total, self.products = np.zeros((size, size, 3), np.uint32), np.zeros((3, 3), np.int64)

    def add(self, data: bytes, num_bytes: int, pixels: bool) -> None:
        """Adds a JPEG whose record has `num_bytes` bytes; its pixels only if `pixels`."""
        self.count += 1
        self.num_bytes += num_bytes
        if pixels:
            image = simplejpeg.decode_jpeg(data)  # the pixels that a reader will get: JPEG is lossy
            self.total += image
            channels = [image[..., c].ravel().astype(np.float64) for c in range(3)]
            # The sums are integers far below 2⁵³, so float64 is exact in any order of addition.
            self.products += np.array([[a @ b for a in channels] for b in channels]).astype(np.int64)


def serialize(data: bytes, label: int, name: str) -> bytes:
    """An example as TFDS stores it, a tf.train.Example. Unlike TFDS's own, its bytes are deterministic."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(data)
    feature["label"].int64_list.value.append(label)
    feature["file_name"].bytes_list.value.append(name.encode())
    return example.SerializeToString(deterministic=True)
