"""Converts between weights and the directories of runs."""

import json
import os
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import UserError, settings
from alexnet_jax.analysis import ensemble
from alexnet_jax.runtime import files, interruption, sharding
from alexnet_jax.training import checkpoint, fidelity, optimizer, run_directory, run_state, schedules
from alexnet_jax.weights.weights import Weights


def from_workdir(workdir: str | os.PathLike) -> Weights:
    """The weights of the newest checkpoint of a run, whatever mesh it was trained on. Raises as `ensemble.read`."""
    member = ensemble.read(files.absolute(workdir))
    one_device = sharding.create_mesh(data=1, model=1, towers=1)
    params = jax.tree.map(np.asarray, ensemble.restore(member, one_device))
    return Weights(member.model, params, member.mean, member.class_names, member.step)


def to_workdir(weights: Weights, workdir: str | os.PathLike) -> None:
    """Writes the directory of a run. Raises UserError if it is not empty, is a link, or cannot be written."""
    workdir = files.absolute(workdir)
    files.check_no_link(workdir)
    try:
        in_use = any(workdir.iterdir())
    except FileNotFoundError:
        in_use = False
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be used ({error.strerror}); use another") from error
    if in_use:
        raise UserError(f"--workdir={workdir}: exists already; use another")
    config = settings.defaults()
    config.model.update(weights.model)
    config.mesh.model = weights.net.towers
    config.dataset.name = config.dataset.root = ""
    config.dataset.orientation = "upright"
    config = fidelity.resolve(config)
    params = jax.tree.map(jnp.asarray, weights.params)
    opt_state = optimizer.from_config(config.optimizer, weights.net).init(params)
    state = run_state.RunState(params, opt_state, schedules.from_config(config).init, step=weights.step)
    try:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with (
            interruption.held(),
            tempfile.TemporaryDirectory(prefix=".", dir=workdir.parent, ignore_cleanup_errors=True) as temporary,
        ):
            unfinished = pathlib.Path(temporary) / workdir.name
            unfinished.mkdir()
            files.write_json(unfinished / "config.json", json.loads(config.to_json()))
            files.write_json(unfinished / "net.json", run_directory.record(config))
            files.write_array(unfinished / "mean.npy", weights.mean)
            with checkpoint.Checkpoints(unfinished / "checkpoints") as checkpoints:
                state.save(checkpoints, {"class_names": list(weights.class_names), "train_images": 0})
            interruption.check()
            os.replace(unfinished, workdir)
    except (OSError, UserError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"--workdir={workdir}: cannot be written ({cause})") from error
