"""Checkpoints of a run: parameters and velocities as of a step, with what the loop has to remember (orbax)."""

import contextlib
import os
import re

import jax
from orbax.checkpoint import v1 as ocp

from alexnet_jax import UserError


class Checkpoints:
    """The checkpoints in a directory, the newest two kept.

    Saving is asynchronous and atomic: whenever the process is killed, a checkpoint is there whole or not at all. As a
    context manager, leaving it waits for the last save.
    """

    def __init__(self, directory, write=True):
        """Without `write`, leaves alone what another process may be saving there just now."""
        newest_two = ocp.training.preservation_policies.LatestN(2)
        try:
            self._checkpointer = ocp.training.Checkpointer(
                directory, preservation_policy=newest_two, cleanup_tmp_directories=write
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{directory}: cannot hold checkpoints ({error})") from error

    def __enter__(self):
        return self

    def __exit__(self, exception, *_):
        try:
            with self._writing():
                self._checkpointer.close()
        except UserError:
            if exception is None:  # or it says more
                raise

    @property
    def latest_step(self):
        """The step of the newest checkpoint; 0 if there is none."""
        latest = self._checkpointer.latest
        return latest.step if latest else 0

    def save(self, step, state, notes):
        """Starts to save a tree of arrays, and a dict as JSON, as of `step`; nothing if that step is saved already.

        Raises UserError if this save or the one before cannot be written.
        """
        if step != self.latest_step:
            with self._writing():
                self._checkpointer.save_async(step, state, force=True, custom_metadata=notes)

    def notes(self):
        """The dict that the newest checkpoint was saved with. Raises UserError if it cannot be read."""
        with self._reading(self.latest_step):
            notes = self._checkpointer.metadata(self.latest_step).custom_metadata
            if not notes:
                raise ValueError("no metadata")
            return notes

    def restore(self, like):
        """The newest checkpoint's tree, with the shapes and shardings of the tree `like`: on any mesh.

        Raises UserError if it cannot be read.
        """
        with self._reading(self.latest_step):
            return _donatable(self._checkpointer.load(self.latest_step, _abstract(like)))

    def restore_params(self, step, like):
        """The parameters alone of the checkpoint of `step`, as a tree of jax.ShapeDtypeStruct says.

        Raises UserError if they cannot be read.
        """
        velocity = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        with self._reading(step):
            return _donatable(self._checkpointer.load(step, {"params": like, "velocity": velocity})["params"])

    @contextlib.contextmanager
    def _reading(self, step):
        try:
            yield
        except (OSError, LookupError, ValueError) as error:
            raise UserError(
                f"{self._checkpointer.directory / str(step)}: cannot be read ({_cause(error)}); restore or remove it"
            ) from error

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._checkpointer.directory}: no checkpoint can be written ({_cause(error)})"
            ) from error


def _cause(error):
    """What was wrong in the first place, in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error).partition("\n")[0][:200]


def _donatable(tree):
    # Buffers fresh from disk may not be; those that a compiled program returns are.
    return jax.jit(lambda tree: tree)(tree)


def _abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
