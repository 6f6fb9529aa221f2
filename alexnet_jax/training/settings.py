"""A run's settings: what is wrong with them, and what its directory keeps of them."""

import dataclasses
import json
import math
import os

import jax
import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data import augment, datasets
from alexnet_jax.model import nets
from alexnet_jax.runtime import files, processes
from alexnet_jax.training import lab_notes, optimizer

# What may change between two runs on one directory: nothing that the steps already taken depend on.
MAY_CHANGE = {"num_epochs", "mesh.data", "mesh.model", "dataset.root", "log_every", "save_every"}
# Nets that were corrected before runs recorded in net.json what their net was.
CORRECTED = ("separate", "sixth_conv", "cifar10_80sec", "cifar10_18pct")
# Evaluation does not depend on the fields of a record that have these endings.
ONLY_IN_TRAINING = (".stddev", ".bias", ".decay", ".weights", ".biases", ".noise_off", ".end")


def check(config):
    """Raises UserError for values that nothing else checks."""
    if config.schedule.name not in optimizer.SCHEDULES:
        raise UserError(
            f"config.schedule.name: no schedule {config.schedule.name!r}; there are {', '.join(optimizer.SCHEDULES)}"
        )
    lab_notes.of(config)
    if config.optimizer.name not in optimizer.OPTIMIZERS:
        names = ", ".join(optimizer.OPTIMIZERS)
        raise UserError(f"config.optimizer.name: no optimizer {config.optimizer.name!r}; there are {names}")
    if config.augment.colour_scale not in augment.COLOUR_SCALES:
        raise UserError(f"config.augment.colour_scale: must be one of {', '.join(augment.COLOUR_SCALES)}")
    if config.model.stretch and config.dataset.name == "prepared":
        raise UserError("config.model.stretch: a prepared set is cropped; use config.dataset.name=folder or tfds:NAME")
    flat = dict(flatten(config.to_dict()))
    for name in (
        "num_epochs",
        "log_every",
        "eval_every",
        "save_every",
        "augment.divisor",
        "schedule.patience",
    ):
        if not 0 < flat[name] < math.inf:
            raise UserError(f"config.{name}={flat[name]}: must be a number above 0")
    for name in (
        "schedule.learning_rate",
        "schedule.warmup",
        "augment.colour_noise",
        "augment.noise_off_at",
        "optimizer.bias_rate",
    ):
        if not 0 <= flat[name] < math.inf:
            raise UserError(f"config.{name}={flat[name]}: must be a number, 0 or above")
    if config.augment.crop_group < 1:
        raise UserError(f"config.augment.crop_group={config.augment.crop_group}: must be 1 or above")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed}: must be from 0 to 2³² − 1")
    if not all(isinstance(epoch, (int, float)) for epoch in config.schedule.epochs):
        raise UserError(f"config.schedule.epochs={config.schedule.epochs}: must be numbers, as (30,60)")


def has_begun(workdir):
    """Whether there is a checkpoint."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def check_workdir(config, workdir):
    """Makes the directory. Raises UserError if it cannot be written, or holds a run of another config."""
    path = workdir / "config.json"
    if has_begun(workdir):
        if path.exists():
            whole = config.schedule.name in ("automatic", "polynomial")  # whose rates depend on the length
            may_change = MAY_CHANGE - {"num_epochs"} if whole else MAY_CHANGE
            changed = changes(files.read_json(path), json.loads(config.to_json()), may_change)
            if changed:
                raise UserError(f"{workdir} holds a run of another config ({changed}); use another --workdir")
        corrected = corrections(read_record(workdir), config)
        if corrected:
            raise UserError(
                f"{workdir} holds a run of another version of this net or schedule ({corrected}); use another "
                "--workdir, or go on with the version that began it"
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror})") from error


def changes(there, here, may_change=()):
    """What differs between two trees of settings, in words; '' if nothing does."""
    old, new = dict(flatten(there)), dict(flatten(here))
    return ", ".join(
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in old | new
        if old.get(name) != new.get(name) and name not in may_change
    )


def record(config):
    """What a config means to this version of the program, as JSON has it: its net, and the notes its rates follow."""
    net = nets.from_config(config.model)
    layers = {layer.name: {"kind": type(layer).__name__} | dataclasses.asdict(layer) for layer in net.layers}
    del layers[net.layers[-1].name]["features"]  # the classes of the data
    found = dataclasses.asdict(net) | {"order": list(layers), "layers": layers}
    if config.schedule.name in ("hand", "automatic"):
        found["notes"] = lab_notes.of(config)._asdict()
    return json.loads(json.dumps(found))


def read_record(workdir):
    """The `record` of a run by the version that began it; {} if that made none. Raises UserError if it is damaged."""
    path = workdir / "net.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
        layers, its_notes = found["layers"], found.get("notes", {})
        if list(layers) == found["order"] and all(isinstance(part, dict) for part in (*layers.values(), its_notes)):
            return found
    except (AttributeError, OSError, LookupError, TypeError, ValueError):
        pass
    raise UserError(f"{path}: is not what training wrote; restore it")


def corrections(recorded, config, training=True):
    """How a config's net and schedule differ from those that a version recorded, in words; '' if they do not.

    A field that only one of the two versions has is not compared; without `training`, neither is what only training
    depends on. Of a run without a record it is known which nets and schedules were corrected.
    """
    if recorded:
        now = dict(_fields(record(config)))
        different = {
            name: value
            for name, value in _fields(recorded)
            if value != now.get(name, value) and (training or not name.endswith(ONLY_IN_TRAINING))
        }
        few = dict(list(different.items())[:3])
        return changes(few, {name: now[name] for name in few})
    name, net = config.schedule.name, config.model.net
    # Of the schedules by hand only net 145's was right, and for biases that fall with the weights not even that.
    by_hand = name in ("hand", "automatic") and lab_notes.of(config) is not lab_notes.NOTES["145"]
    if net in CORRECTED:
        corrected = f"net {net!r}"
    elif by_hand or name == "hand" and config.optimizer.bias_rate_falls:
        corrected = f"schedule {name!r} of net {net!r}"
    else:
        return ""
    return f"there is no net.json, and {corrected} was corrected after the last version without"


def _fields(recorded):
    """The fields of a record as ('a.b', value); a norm, which may be None, is one."""
    for name, value in recorded.items():
        yield from flatten({name: value}) if name in ("layers", "notes") else [(name, value)]


def keep(config, mean, start, workdir):
    """Writes `config.json`, `net.json`, and `mean.npy`, which is subtracted from whatever the net will ever see.

    Raises UserError if the run so far subtracted another mean, or the directory cannot be written.
    """
    path = workdir / "mean.npy"
    with processes.together():
        try:
            if start and path.exists() and not np.array_equal(np.load(path), mean):
                raise UserError(f"{workdir} was trained on images with another mean; use a new --workdir")
            if jax.process_index() == 0:
                fields = json.loads(config.to_json())
                fields["dataset"]["root"] = datasets.absolute_root(config.dataset.name, config.dataset.root)
                files.write_json(workdir / "config.json", fields)
                files.write_json(workdir / "net.json", record(config))
                with files.whole(path, "wb") as file:
                    np.save(file, mean)
        except (EOFError, ValueError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); remove it, and the same command writes it again"
            ) from error
        except OSError as error:
            raise UserError(f"--workdir={workdir}: cannot be written ({error.strerror or error})") from error
    with processes.together():
        if path.name not in os.listdir(workdir):
            raise UserError(f"--workdir={workdir}: must be one directory, which all processes share")


def flatten(tree, prefix=""):
    """The leaves of nested dicts as ('a.b', value)."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
