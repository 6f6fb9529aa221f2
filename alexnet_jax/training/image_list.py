"""images.tsv.gz in a run's directory: the images of a run, to compare with those of its next start.

A line has the split, class, name and size in bytes of an image; a backslash begins an escape. A prepared, TFDS or
embedded set has one line for each split, with a checksum or a version as the name, no class, and the number of images
as the size.
"""

import collections
import gzip
import hashlib
import io
import logging
import os
import pathlib
import zlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax import UserError
from alexnet_jax.data import base, datasets
from alexnet_jax.runtime import files, processes
from alexnet_jax.runtime.text import printable

log = logging.getLogger("alexnet_jax")

NAME = "images.tsv.gz"
MOST_CHANGED = 0.5  # of the training images, if the run may go on


def describe(data: datasets.Data) -> str:
    """The lines of images.tsv.gz."""
    splits = {"train": data.train, data.validation_split: data.validation, data.test_split: data.test}
    class_names = [_escaped(name) for name in data.class_names]
    return "".join(
        f"{split}\t{class_names[label] if label >= 0 else ''}\t{_escaped(name)}\t{size}\n"
        for split, source in splits.items()
        for name, label, size in source.listing
    )


def _escaped(name):
    return printable(base.normalized(name).replace("\\", r"\\"))


def check_same(lines: str, data: datasets.Data) -> None:
    """Raises UserError in all processes if their images, classes or statistics differ."""
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256(f"{data.class_names}{lines}".encode(errors="surrogateescape"))
    for statistic in vars(data.statistics).values():
        digest.update(statistic.tobytes())
    counts = [len(data.class_names), len(data.train), len(data.validation), len(data.test)]
    numbers_PxN = multihost_utils.process_allgather(np.array([*counts, *np.frombuffer(digest.digest(), np.int32)]))
    if process := int((numbers_PxN != numbers_PxN[0]).any(1).argmax()):  # the first that differs
        theirs, first = (
            "{} classes, {} training, {} validation and {} test images".format(*numbers_PxN[i]) for i in (process, 0)
        )
        if theirs == first:
            theirs, first = "names, classes or sizes", "others"
        raise UserError(
            f"config.dataset.root: process {process} sees {theirs}, and process 0 sees {first}; give all processes the "
            "same copy"
        )


def keep(lines: str, workdir: pathlib.Path) -> None:
    """Writes images.tsv.gz, by process 0. Raises UserError in all processes if it cannot be written."""
    with processes.together():
        if jax.process_index() == 0:
            with files.whole(workdir / NAME, "wb") as file:
                file.write(gzip.compress(lines.encode(), compresslevel=1, mtime=0))


def check_changes(lines: str, workdir: pathlib.Path) -> None:
    """Logs which images have changed since the run on `workdir` last started.

    Raises:
      UserError: more than MOST_CHANGED of the training images have changed, or the file cannot be read.
    """
    path = workdir / NAME
    if not path.exists():  # an earlier version of the program began the run
        return
    try:
        packed = io.BytesIO(files.read_bytes(path, files.MOST_TEXT, files.RESTORE))
        most = files.MOST_TEXT + 2 * len(lines)  # a small file can hold any number of bytes
        before = gzip.GzipFile(fileobj=packed).read(most + 1).decode()
        if len(before) > most:
            raise ValueError(f"more than {most:,} bytes")
        if before == lines:
            return
        old, new = _by_name(before), _by_name(lines)
        if not old:
            raise ValueError("empty")
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: is not what training wrote ({error}); {files.RESTORE}") from error
    changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    changes = _in_words(changed, old, new)
    most = max(_training_images(changed & old.keys()), _training_images(changed & new.keys()))
    if most > max(1, MOST_CHANGED * _training_images(old)):
        raise UserError(f"{workdir} was trained on other images ({changes}); use a new --workdir")
    same_order = [key for key in old if key[0] == "train"] == [key for key in new if key[0] == "train"]
    log.warning(
        "the images changed since this run last started (%s); it goes on%s",
        changes,
        "" if same_order else ", with a new order of the training images",
    )


def _by_name(lines):
    """{(split, name, how many images before have this name): (class, size)}; Unicode forms make names equal."""
    images: dict[tuple[str, str, int], tuple[str, str]] = {}
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in lines.splitlines():
        split, class_name, name, size = line.split("\t")
        images[split, name, counts[split, name]] = class_name, size
        counts[split, name] += 1
    return images


def _training_images(keys):
    return sum(split == "train" for split, *_ in keys)


def _in_words(changed, old, new):
    """The changed images as '2 removed (train: a/1.png, train: a/2.png), 1 replaced (val: b/3.png)'."""
    added = collections.defaultdict(list)  # the names by what a moved image keeps: split, name of the file, bytes
    for key in sorted(changed - old.keys()):
        added[key[0], os.path.basename(key[1]), new[key][1]].append(key[1])
    kinds: dict[str, list[str]] = {"moved": [], "removed": [], "added": [], "given another class": [], "replaced": []}
    for key in sorted(changed):
        split, name, _ = key
        if key not in new:
            targets = added[split, os.path.basename(name), old[key][1]]
            if targets:
                kinds["moved"].append(f"{split}: {name} to {targets.pop(0)}")
            else:
                kinds["removed"].append(f"{split}: {name}")
        elif key in old:
            kinds["given another class" if old[key][0] != new[key][0] else "replaced"].append(f"{split}: {name}")
    kinds["added"] = sorted(f"{split}: {name}" for (split, _, _), names in added.items() for name in names)
    return ", ".join(
        f"{len(names):,} {kind} ({', '.join(names[:3])}{', …' * (len(names) > 3)})"
        for kind, names in kinds.items()
        if names
    )
