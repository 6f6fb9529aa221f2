"""Checkpoints of a run: parameters and velocities as of a step, with what the loop has to remember (orbax)."""

import contextlib
import logging
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from orbax.checkpoint import v1 as ocp

from alexnet_jax import UserError
from alexnet_jax.runtime import processes

log = logging.getLogger("alexnet_jax")

SAVING = 300  # seconds for all processes to write a checkpoint, after which those that wait for another give up

_ADVICE = "; restore or remove it"


class UnreadableError(UserError):
    """A checkpoint is damaged."""


class Checkpoints:
    """The checkpoints in a directory, the newest two kept.

    Saving is asynchronous and atomic: whenever the process is killed, a checkpoint is there whole or not at all. As a
    context manager, leaving it waits for the last save.
    """

    def __init__(self, directory, write=True):
        """Without `write`, leaves alone what another process may be saving there just now."""
        self._write, self._saving = write, None
        self._open(directory)

    def _open(self, directory):
        context = ocp.Context()
        context.asynchronous.timeout_secs = SAVING
        try:
            self._checkpointer = ocp.training.Checkpointer(
                directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(2),
                cleanup_tmp_directories=self._write,
                context=context,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{directory}: cannot hold checkpoints ({error})") from error

    def __enter__(self):
        return self

    def __exit__(self, _, exception, __):
        if processes.collective_failed(exception):
            return  # a save would wait for a process that has died
        try:
            with self._writing():
                self._checkpointer.close()
        except UserError:
            if not isinstance(exception, UserError):  # which says more
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
            with processes.together(), self._writing():
                self._check_space(state)
                before, notes = self._saving, notes | {"checksums": _checksums(state)}
                self._saving = self._checkpointer.save_async(step, state, force=True, custom_metadata=notes)
                if before:
                    before.result()  # whose thread would else stay

    def _check_space(self, state):
        # One process that cannot write makes the others wait; where space is short all the time, nobody begins.
        needed = sum(array.nbytes for array in jax.tree.leaves(state))
        free = shutil.disk_usage(self._checkpointer.directory).free
        if free < needed:
            raise OSError(f"it takes up to {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free")

    def notes(self, step):
        """The dict that the checkpoint of `step` was saved with. Raises UserError if it cannot be read."""
        with self._reading(step):
            notes = self._checkpointer.metadata(step).custom_metadata
            if not notes:
                raise ValueError("no metadata")
            return notes

    def restore(self, like, data=None):
        """The newest checkpoint that can be read: step, notes and tree; or 0, None and `like` if there is none.

        Damaged ones after it are set aside, as damaged_STEP; if none can be read, all stay where they are. Every
        process reads the whole tree, at most twice its share of it: so the mesh that saved it does not matter.

        Args:
          like: a tree with the shapes and shardings to restore to, on any mesh.
          data: what `data` in the notes must be.

        Raises:
          UserError: none can be read, it is of other data or another net, or the processes do not see the same one.
        """
        directory, damaged, found = self._checkpointer.directory, {}, (0, None, like)
        with processes.together():
            steps = sorted((each.step for each in self._checkpointer.checkpoints), reverse=True)
            for step in steps:
                try:
                    found = (step, *self._read(step, like, data))
                    break
                except UnreadableError as error:
                    damaged[step] = error
            if steps and not found[0]:
                errors = "; ".join(map(str, damaged.values()))
                raise UserError(f"no checkpoint is left: {errors}, or use a new --workdir")
        processes.check_same(found[0], f"{directory}: not all processes see the same checkpoints; it must be shared")
        with processes.together():
            if jax.process_index() == 0:
                self._set_aside(damaged)
        if damaged:
            self._checkpointer.close()
            self._open(directory)  # which else would still count on them
        step, notes, state = found
        return step, notes, _donatable(jax.tree.map(_divided, state, like)) if step else like

    def _read(self, step, like, data):
        notes = self.notes(step)
        checksums = notes.pop("checksums", None)
        if data and notes.get("data") != data:
            raise UserError(
                f"{self._checkpointer.directory.parent} was trained on other classes or another number of images; "
                "use a new --workdir"
            )
        with self._reading(step):
            self._check_net(step, like)
            state = self._checkpointer.load(step, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like))
            _check(state, checksums)
            return notes, state

    def _set_aside(self, damaged):
        directory = self._checkpointer.directory
        for step, error in damaged.items():
            aside = directory / f"damaged_{step}"
            log.warning("%s; it is %s now, and the one before is used", str(error).partition(_ADVICE)[0], aside.name)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(directory / str(step), aside)

    def restore_params(self, step, like):
        """The parameters alone of the checkpoint of `step`, as a tree of jax.ShapeDtypeStruct says.

        Raises UserError if they cannot be read, or are of another net.
        """
        velocity = jax.tree.map(lambda _: ocp.PLACEHOLDER, like)
        checksums = self.notes(step).get("checksums")
        with self._reading(step):
            self._check_net(step, {"params": like})
            params = self._checkpointer.load(step, {"params": like, "velocity": velocity})["params"]
            _check({"params": params}, checksums)
            return _donatable(params)

    def _check_net(self, step, like):
        saved = self._checkpointer.metadata(step).metadata
        if not saved:
            raise ValueError("no metadata")
        for part, tree in like.items():
            theirs, ours = _shapes(saved[part]), _shapes(tree)
            for name in ours | theirs:
                if ours.get(name) != theirs.get(name):
                    raise UserError(
                        f"{self._checkpointer.directory / str(step)}: is of another net ({name} has the shape "
                        f"{theirs.get(name)} there and {ours.get(name)} here); if an earlier version of this program "
                        "trained it, use that version"
                    )

    @contextlib.contextmanager
    def _reading(self, step):
        try:
            yield
        except (OSError, LookupError, ValueError) as error:
            raise UnreadableError(
                f"{self._checkpointer.directory / str(step)}: cannot be read ({_cause(error)}){_ADVICE}"
            ) from error

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            raise UserError(
                f"{self._checkpointer.directory}: no checkpoint can be written ({_cause(error)})"
            ) from error


def _cause(error):
    """What was wrong in the first place, in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    if "DEADLINE_EXCEEDED" in str(error):
        return f"another process did not write its part within {SAVING} s; see its message"
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error).partition("\n")[0][:200]


def _shapes(tree):
    """The shape of every array by its name, as conv1.kernel."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _checksums(tree):
    """The sum of every array's 32-bit words, ints: the same on any mesh, another if a bit is."""
    return jax.tree.map(int, _sums(tree))


@jax.jit
def _sums(tree):
    return jax.tree.map(lambda x: jnp.sum(lax.bitcast_convert_type(x, jnp.uint32)), tree)


def _check(parts, checksums):
    # None is of a checkpoint from before there were any.
    if checksums and any(_checksums(part) != checksums[name] for name, part in parts.items()):
        raise ValueError("its numbers are not those that were saved")


def _donatable(tree):
    # Buffers fresh from disk may not be; those that a compiled program returns are.
    return jax.jit(lambda tree: tree)(tree)


def _divided(array, like):
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: array[index])
