"""A shard of a prepared data set: decoded, cut to size, encoded and written, with its sums, by one worker."""

import csv
import dataclasses
import multiprocessing
import os
import pathlib
import re
import resource
import sys
import threading
import zipfile

import numpy as np
import simplejpeg

from alexnet_jax import UserError
from alexnet_jax.data import images
from alexnet_jax.runtime import files

JPEG_QUALITY = 95
GOES_ON = "mend that, and the same command goes on"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split, and the file that it becomes in the directory `output`."""

    split: str
    index: int
    shards: int  # in the split
    source: object
    name: str  # of the data set
    size: int
    output: pathlib.Path

    @property
    def path(self):
        return self.output / f"{self.name}-{self.split}.array_record-{self.index:05}-of-{self.shards:05}"

    @property
    def notes(self):
        """Is there if the shard is: its counts and sums, and what could not be decoded."""
        return work_directory(self.output) / f"{self.split}-{self.index:05}.npz"

    def read_notes(self, *names):
        with np.load(self.notes) as notes:
            return [notes[name] for name in names]

    @property
    def done(self):
        """Whether the shard and its notes are there, whole."""
        try:
            (bytes_on_disk,) = self.read_notes("bytes_on_disk")
            return self.path.stat().st_size == bytes_on_disk
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            return False


def work_directory(output):
    """What is needed until the set is complete."""
    return output / ".prepare"


def start_worker(shared):
    """Prepares a process to make shards. `shared` counts images and undecodable ones, and says when to stop."""
    global _shared
    _shared = shared
    images.ignore_warnings()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def make_shard(shard):
    """Writes a shard and its notes; each appears whole or not at all. Returns the process's most memory so far, bytes.

    Runs in a worker. Memory: one image as it is decoded, converted and resized, and sums of the size of a small one;
    shards go to disk as they grow. Raises UserError if an image cannot be read or the shard cannot be written.
    """
    from array_record.python import array_record_module

    temporary = work_directory(shard.output) / f"{shard.split}-{shard.index:05}-{os.getpid()}.tmp"
    undecodable, sums = [], Sums(shard.size)
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            for i in range(len(shard.source)):
                if _shared[2]:
                    raise UserError("stopped")
                name = shard.source.name(i).encode(errors="surrogateescape").decode(errors="replace")
                data, label = shard.source.read(i)
                try:
                    data = images.encode(data, name, shard.size, JPEG_QUALITY)
                except UserError as error:
                    reason = str(error).removeprefix(f"{name}: ").partition("; ")[0]
                    undecodable.append((shard.split, name, reason))
                    with (shard.output / "undecodable.tsv").open("a", encoding="utf-8") as file:
                        csv.writer(file, "excel-tab", lineterminator="\n").writerow(undecodable[-1])
                    with _shared.get_lock():
                        _shared[1] += 1
                else:
                    record = serialize(data, label, name)
                    writer.write(record)
                    sums.add(data, len(record), pixels=shard.split == "train")
                with _shared.get_lock():
                    _shared[0] += 1
        finally:
            writer.close()
        bytes_on_disk = temporary.stat().st_size
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, shard.path)
        with files.whole(shard.notes, "wb") as file:
            rows = np.array(undecodable, str).reshape(-1, 3)
            np.savez(file, bytes_on_disk=bytes_on_disk, undecodable=rows, **vars(sums))
    except RuntimeError as error:  # of ArrayRecord
        raise UserError(
            f"--output={shard.output}: cannot be written ({str(error).partition(';')[0]}); {GOES_ON}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return most_memory()


def most_memory():
    """The most memory that this process has had so far, in bytes."""
    if sys.platform == "linux":  # where getrusage begins with the parent's
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Sums:
    """Of a shard: the examples and their bytes, and over its images every pixel's values and the products of RGB."""

    def __init__(self, size):
        self.count, self.num_bytes = 0, 0
        self.total, self.products = np.zeros((size, size, 3), np.uint32), np.zeros((3, 3), np.int64)

    def add(self, data, num_bytes, pixels):
        self.count += 1
        self.num_bytes += num_bytes
        if pixels:
            image = simplejpeg.decode_jpeg(data)  # as it will be read: encoding changed it a little
            self.total += image
            channels = [image[..., c].ravel().astype(np.float64) for c in range(3)]
            # Integers, far below 2⁵³: exact, in whatever order they are added.
            self.products += np.array([[a @ b for a in channels] for b in channels]).astype(np.int64)


def serialize(data, label, name):
    """An example as TFDS stores it, a tf.train.Example, but always in the same bytes."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(data)
    feature["label"].int64_list.value.append(label)
    feature["file_name"].bytes_list.value.append(name.encode())
    return example.SerializeToString(deterministic=True)
