"""The record of a run's settings and net in its directory, and whether another run may continue there."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import UserError, settings
from alexnet_jax.data import datasets
from alexnet_jax.model import nets
from alexnet_jax.runtime import files, processes
from alexnet_jax.training import fidelity, lab_notes, metrics, schedules

# Settings that may change between two runs on one directory: the steps already taken do not depend on them.
MAY_CHANGE = {"num_epochs", "mesh.data", "mesh.model", "dataset.root", "dataset.cache", "log_every", "save_every"}
# Nets that were corrected before runs recorded their net in net.json.
CORRECTED = ("separate", "sixth_conv", "cifar10_80sec", "cifar10_18pct")
# Evaluation does not depend on the fields of a record that have these endings.
ONLY_IN_TRAINING = (".stddev", ".bias", ".decay", ".weights", ".biases", ".noise_off", ".end")
RENAMED = {"both": "cross_tower", "overhang": "ceil_mode"}  # fields of records, from the names in earlier versions

Record = dict[str, Any]


def has_begun(workdir: pathlib.Path) -> bool:
    """Whether the directory has a checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def check(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Makes the directory. Raises UserError if it cannot be written, or holds a run of another config."""
    path = workdir / "config.json"
    if has_begun(workdir):
        if path.exists():
            fixed_length = schedules.from_config(config).depends_on_length
            may_change = MAY_CHANGE - {"num_epochs"} if fixed_length else MAY_CHANGE
            stored = fidelity.read(path)
            if changed := settings.changes(json.loads(stored.to_json()), json.loads(config.to_json()), may_change):
                raise UserError(f"{workdir} holds a run of another config ({changed}); use another --workdir")
        if corrected := corrections(read_record(workdir), config):
            raise UserError(
                f"{workdir} holds a run of another version of this net or schedule ({corrected}); use another "
                "--workdir, or continue with the version that began it"
            )
    files.make_directory(workdir)
    for path in (workdir / "checkpoints", *(workdir / "checkpoints").glob("*")):
        files.check_no_link(path)
    if (workdir / "metrics.jsonl").exists():
        metrics.read(workdir / "metrics.jsonl")  # reports damage before anything is written


def set_orientation(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Sets `dataset.orientation`, if it is None, to that of the run on a directory or, for a new run, the data set's.

    It also sets `dataset.name` to the one that was recognised, with a whole path.

    Raises:
      UserError: the data set is prepared and has another, or cannot be read.
    """
    dataset, path = config.dataset, workdir / "config.json"
    if dataset.orientation is None and has_begun(workdir) and path.exists():
        dataset.orientation = fidelity.read(path).dataset.orientation
    found = datasets.find(dataset.name, dataset.root, dataset.orientation)
    dataset.name, own = found.name, found.orientation
    if dataset.orientation not in (None, own):
        raise UserError(
            f"config.dataset.orientation={dataset.orientation}: the set was prepared with --orientation={own}; use "
            f"{own}, or another set"
        )
    dataset.orientation = own


def record(config: ConfigDict) -> Record:
    """The net of a config and the notes that its rates follow, as this version of the program has them."""
    net = nets.from_config(config.model)
    layers = {layer.name: {"kind": type(layer).__name__} | dataclasses.asdict(layer) for layer in net.layers}
    del layers[net.last.name]["features"]  # the classes of the data
    fields = dataclasses.asdict(net) | {"order": list(layers), "layers": layers}
    if notes := schedules.from_config(config).notes:
        fields["notes"] = notes._asdict()
    return json.loads(json.dumps(fields))


def read_record(workdir: pathlib.Path) -> Record:
    """The `record` of a run by the version that last ran it; {} if there is none. Raises UserError if damaged."""
    path = workdir / "net.json"
    if not path.exists():
        return {}
    fields = files.read_json(path, {"layers": {str: dict}, "order": [str], "notes?": dict}, "restore it")
    if list(fields["layers"]) != fields["order"]:
        raise UserError(f"{path}: is not what this program wrote (layers or order); restore it")
    return fields


def corrections(recorded: Record, config: ConfigDict, training: bool = True) -> str:
    """How a config's net and schedule differ from those that a version recorded, in words; '' if they do not.

    A field that only one of the two versions has is not compared; without `training`, neither is what only training
    depends on. Where a run has no record, the answer depends on which nets and schedules were corrected by then.
    """
    if recorded:
        now = dict(_fields(record(config)))
        different = {
            name: value
            for name, value in _fields(recorded)
            if value != now.get(name, value) and (training or not name.endswith(ONLY_IN_TRAINING))
        }
        first = dict(list(different.items())[:3])
        return settings.changes(first, {name: now[name] for name in first})
    name, net = config.schedule.name, config.model.net
    notes = schedules.from_config(config).notes
    # Of the schedules by hand only net 145's was right, and only where the rates of biases do not fall with those of
    # weights.
    by_hand = notes is not None and notes is not lab_notes.NOTES["145"]
    if net in CORRECTED:
        corrected = f"net {net!r}"
    elif by_hand or name == "hand" and config.optimizer.bias_rate_falls:
        corrected = f"schedule {name!r} of net {net!r}"
    else:
        return ""
    return f"there is no net.json, and {corrected} was corrected after the last version without one"


def _fields(recorded: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a record as ('a.b', value); a norm, which may be None, is one."""
    for name, value in recorded.items():
        for path, leaf in settings.flatten({name: value}) if name in ("layers", "notes") else [(name, value)]:
            *parents, last = path.split(".")
            yield ".".join([*parents, RENAMED.get(last, last)]), leaf


def keep(config: ConfigDict, absolute_root: str, mean: np.ndarray, start: int, workdir: pathlib.Path) -> None:
    """Writes `config.json`, `net.json`, and `mean.npy`, which is subtracted from all images that the net will see.

    Args:
      absolute_root: of the data set.
      mean: of the training images.
      start: the step at which the run continues.

    Raises:
      UserError: the run so far subtracted another mean, or the directory cannot be written.
    """
    path = workdir / "mean.npy"
    with processes.together():
        if start and path.exists():
            remedy = "remove it, and the same command writes it again"
            if not np.array_equal(files.read_array(path, remedy), mean):
                raise UserError(f"{workdir} was trained on images with another mean; use a new --workdir")
        if jax.process_index() == 0:
            files.remove_unfinished(workdir)
            fields = json.loads(config.to_json())
            fields["dataset"]["root"] = absolute_root
            files.write_json(workdir / "config.json", fields)
            files.write_json(workdir / "net.json", record(config))
            files.write_array(path, mean)
    with processes.together():
        if path.name not in os.listdir(workdir):
            raise UserError(f"--workdir={workdir}: must be one directory, which all processes share")
