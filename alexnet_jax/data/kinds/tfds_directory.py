"""The directory of a TFDS data set: found, and checked before TFDS reads it.

TFDS trusts these files. It imports the module of every class that `features.json` names, and reads whatever paths
`dataset_info.json` describes.
"""

import bisect
import itertools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from google.protobuf import json_format

from alexnet_jax import UserError
from alexnet_jax.runtime import files

# The classes of features in data sets of images, and the kind of description that each has.
FEATURES = {
    f"tensorflow_datasets.core.features.{name}": kind
    for name, kind in {
        "audio_feature.Audio": "audio",
        "bounding_boxes.BBoxFeature": "bounding_box",
        "class_label_feature.ClassLabel": "class_label",
        "dataset_feature.Dataset": "sequence",
        "features_dict.FeaturesDict": "features_dict",
        "image_feature.Image": "image",
        "labeled_image.LabeledImage": "image",
        "scalar.Scalar": "tensor",
        "sequence_feature.Sequence": "sequence",
        "tensor_feature.Tensor": "tensor",
        "text_feature.Text": "text",
        "translation_feature.Translation": "translation",
        "video_feature.Video": "video",
    }.items()
}
MOST_CLASSES = 10**6
# NAME[/CONFIG][:VERSION]. TFDS would also take a namespace, whose code or data it loads, and arguments for the builder.
NAME = re.compile(
    r"(?P<name>[a-zA-Z]\w*)(/(?P<config>[\w+-][\w+.-]*))?(:(?P<version>(\d{1,9}|\*)(\.(\d{1,9}|\*)){2}))?", re.ASCII
)
# What becomes a part of a file's name: of sets and splits, of features, and the templates of the names of shards.
SET_NAME = re.compile(r"\w[\w-]*")
FEATURE_NAME = re.compile(r"\w[\w .-]*(/\w[\w .-]*)*")
TEMPLATE = re.compile(r"(\w|{[A-Z_]+})([\w.%-]|{[A-Z_]+})*(/(\w|{[A-Z_]+})([\w.%-]|{[A-Z_]+})*)*")


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """The directory of a set in a TFDS data directory, NAME[/CONFIG]/VERSION; None if it is not there.

    Without a config or a version in the name, it takes the default config and the newest version, as TFDS does.

    Raises:
      UserError: the name is not NAME[/CONFIG][:VERSION], or there are several configs.
    """
    parts = NAME.fullmatch(name)
    if not parts:
        raise UserError(
            f"dataset {'tfds:' + name!a}: no name of a data set; they look like tfds:cifar10, tfds:NAME/CONFIG"
        )
    directory = data_dir / tfds.core.naming.camelcase_to_snakecase(parts["name"])
    if not files.exists(directory):
        return None
    with files.explaining(directory, "read"):
        parents = [directory, *filter(pathlib.Path.is_dir, directory.iterdir())]
        paths = [path for parent in parents for path in parent.iterdir() if (path / "dataset_info.json").exists()]
    versions: dict[str, list[tfds.core.Version]] = {}
    for path in paths:
        config, version = "/".join(path.relative_to(directory).parts[:-1]), path.name
        if tfds.core.Version.is_valid(version) and tfds.core.Version(version).match(parts["version"] or "*.*.*"):
            versions.setdefault(config, []).append(tfds.core.Version(version))
    config = parts["config"] or (next(iter(versions)) if len(versions) == 1 else _default_config(directory))
    if config in versions:
        return directory / config / str(max(versions[config]))
    if versions and not parts["config"]:
        raise UserError(f"dataset 'tfds:{name}': name one of its configs: {', '.join(sorted(versions))}")
    return None


def _default_config(directory):
    path = directory / ".config" / "metadata.json"
    return files.read_json(path, {"default_config_name": str})["default_config_name"] if os.path.lexists(path) else ""


def builder(directory: pathlib.Path, remedy: str = files.RESTORE) -> Any:
    """The TFDS builder of a set. Nothing that its files name is imported, and no file outside its directory is read.

    Args:
      remedy: what a message tells the user to do.

    Raises:
      UserError: a file is missing or damaged, names a class that is not in FEATURES, or leads out of the directory.
    """
    path = directory / "features.json"
    _check_feature(_read_proto(path, tfds.core.proto.feature_pb2.Feature(), remedy), path)
    path = directory / "dataset_info.json"
    info = _read_proto(path, tfds.core.proto.dataset_info_pb2.DatasetInfo(), remedy)
    if info.HasField("features"):
        _check_feature(info.features, path)
    _check_names(path, [info.name, *(split.name for split in info.splits)], SET_NAME)
    _check_names(path, [split.filepath_template for split in info.splits if split.filepath_template], TEMPLATE)
    for path in directory.glob("*.labels.txt"):
        if not files.read_text(path, remedy).strip():  # TFDS would go on without class names
            raise UserError(f"{path}: is empty; {remedy}")
    try:
        os.fspath(directory).encode()  # ArrayRecord takes no other paths
        return tfds.builder_from_directory(directory)
    except Exception as error:  # TFDS raises whatever its parts raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{directory}: TFDS cannot read this data set ({reason}); {remedy}") from error


def _read_proto(path, message, remedy):
    value = files.read_json(path, remedy=remedy)
    try:
        return json_format.ParseDict(value, message)
    except (
        json_format.ParseError,
        RecursionError,
        SystemError,
        TypeError,
        ValueError,
    ) as error:  # of text that is not Unicode: SystemError
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: is not a description of a TFDS data set ({reason}); {remedy}") from error


def _check_feature(feature, path):
    """Raises UserError if a feature, or one within it, has a class that is not in FEATURES."""
    content = feature.WhichOneof("content")
    if content is None or FEATURES.get(feature.python_class_name) != content:
        raise UserError(
            f"{path}: has a feature of the class {feature.python_class_name!a}, which is not one that TFDS has for "
            "images; use a data set without it"
        )
    if content == "class_label" and not 0 <= feature.class_label.num_classes <= MOST_CLASSES:
        raise UserError(f"{path}: has {feature.class_label.num_classes} classes; at most {MOST_CLASSES:,} are possible")
    if content == "features_dict":
        _check_names(path, feature.features_dict.features, FEATURE_NAME)
        for part in feature.features_dict.features.values():
            _check_feature(part, path)
    elif content == "sequence":
        _check_feature(feature.sequence.feature, path)


def _check_names(path, names, pattern):
    """Raises UserError for a name that could lead out of the directory, because it becomes a part of a file's name."""
    for name in names:
        if not pattern.fullmatch(name):
            raise UserError(f"{path}: the name {name!a} may lead out of the directory; use another data set")


def check_shards(split: Any, remedy: str = files.RESTORE) -> None:
    """Raises UserError if a shard of a `tfds.core.SplitInfo` does not hold as many examples as it should."""
    for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
        with files.reading(path, remedy):
            try:
                reader = array_record_module.ArrayRecordReader(os.fspath(path), "readahead_buffer_size:0")
                count = reader.num_records()
                reader.close()  # only this raises if the file is damaged
            except RuntimeError as error:
                reason = str(error).partition(";")[0]
                raise UserError(f"{path}: cannot be read ({reason}); {remedy}") from error
        if count != expected:
            raise UserError(f"{path}: cannot be read ({count:,} examples instead of {expected:,}); {remedy}")


class Records(Sequence[bytes]):
    """The records of a split, from its shards. A shard must not change while it is in use.

    ArrayRecord finds a record by the positions that it read as it opened the shard. In another file of the same length
    they may lead to another record.
    """

    def __init__(self, records: Sequence[bytes], shards: Sequence[Any], remedy: str):
        """Raises UserError if a shard cannot be read.

        Args:
          records: ArrayRecord's data source.
          shards: its files, `file_instructions` of a `tfds.core.SplitInfo`.
          remedy: what a message tells the user to do.
        """
        self._records, self._remedy = records, remedy
        self._paths = [os.fspath(shard.filename) for shard in shards]
        self._versions = [files.version(path, remedy) for path in self._paths]
        self._stops = list(itertools.accumulate(shard.take for shard in shards))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i):
        """Record `i`. Raises UserError if it cannot be read, or its shard has changed."""
        shard = bisect.bisect_right(self._stops, i)
        path, opened = self._paths[shard], self._versions[shard]
        try:
            record = self._records[i]
        except (OSError, RuntimeError, ValueError) as error:
            files.check_unchanged(path, opened, self._remedy)
            reason = str(error).partition("\n")[0].partition(";")[0]
            raise UserError(f"{path}: cannot be read ({reason}); {self._remedy}") from error
        files.check_unchanged(path, opened, self._remedy)  # afterwards: what was read before a change is right
        return record
