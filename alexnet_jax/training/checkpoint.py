"""Checkpoints of a run: trees of arrays as of a step, with metadata as JSON (orbax)."""

import contextlib
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from orbax.checkpoint import v1 as ocp

from alexnet_jax import UserError
from alexnet_jax.data.base import normalized
from alexnet_jax.runtime import files, processes

log = logging.getLogger("alexnet_jax")

SAVE_TIMEOUT = 300  # seconds for all processes to write a checkpoint

_ADVICE = "; restore or remove it"

Trees = dict[str, Any]  # {'params', 'opt_state'}
Metadata = dict[str, Any]

# The shape of the metadata of a run; see `files.check_shape`.
METADATA = {
    "data": {"class_names": [str], "train_images": int},
    "schedule": dict,
    "window": {str: float},
    "evaluated?": int,
    "checksums?": {str: dict},
}


class UnreadableError(UserError):
    """A checkpoint is damaged."""


class Checkpoints:
    """The checkpoints in a directory, the newest two kept.

    Saving is asynchronous and atomic: whenever the process is killed, a checkpoint is complete or absent. As a context
    manager, it waits for the last save when it is left.
    """

    def __init__(self, directory: os.PathLike, write: bool = True):
        """Without `write`, temporary files are kept: another process may be writing them."""
        self._write, self._saving = write, None
        self._open(directory)

    def _open(self, directory):
        context = ocp.Context()
        context.asynchronous.timeout_secs = SAVE_TIMEOUT
        try:
            str(directory).encode()
        except UnicodeEncodeError as error:
            raise UserError(f"{directory}: its name is not UTF-8, which checkpoints need; use another") from error
        try:
            self._checkpointer = ocp.training.Checkpointer(
                directory,
                preservation_policy=ocp.training.preservation_policies.LatestN(2),
                cleanup_tmp_directories=self._write,
                context=context,
            )
        except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
            for path in sorted(pathlib.Path(directory).glob("*/_CHECKPOINT_METADATA")):  # orbax reads them all
                files.read_json(path, remedy="remove the directory of this checkpoint")
            raise UserError(f"{directory}: cannot hold checkpoints ({_cause(error)})") from error

    def __enter__(self):
        return self

    def __exit__(self, _, exception, __):
        if processes.collective_failed(exception):
            return  # a save would wait for a process that has died
        try:
            with self._writing():
                self._checkpointer.close()
        except UserError:
            if not isinstance(exception, UserError):  # the first error explains more
                raise

    @property
    def latest_step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        latest = self._checkpointer.latest
        return latest.step if latest else 0

    def save(self, step: int, trees: Trees, metadata: Metadata) -> None:
        """Starts to save trees of arrays and metadata as of `step`; nothing if that step is saved already.

        Raises:
          UserError: this save or the one before cannot be written.
        """
        if step != self.latest_step:
            with processes.together(), self._writing():
                self.check_space(trees)
                self._check_directory(step)
                metadata = metadata | {"checksums": {key: _checksums(tree) for key, tree in trees.items()}}
                previous = self._saving
                self._saving = self._checkpointer.save_async(step, trees, force=True, custom_metadata=metadata)
                if previous:
                    previous.result()  # otherwise its thread would stay

    def check_space(self, trees: Trees) -> None:
        """Raises UserError if the disk has no space to save `trees`.

        A process that fails while it writes makes the others wait until they time out: better not to begin.
        """
        directory = self._checkpointer.directory
        needed = sum(array.nbytes for array in jax.tree.leaves(trees))
        with files.explaining(directory, "written", "start again with a new --workdir"):
            free = shutil.disk_usage(directory).free
        if free < needed:
            raise UserError(
                f"{directory}: no checkpoint can be written (it takes up to {needed / 1e6:.1f} MB, and "
                f"{free / 1e6:.1f} MB are free); free some space"
            )

    def _check_directory(self, step):
        """Raises OSError if a checkpoint's directory cannot be made: orbax would wait for it in a thread."""
        if jax.process_index() == 0:
            temporary = pathlib.Path(self._checkpointer.directory) / f"{step}.orbax-checkpoint-tmp"  # as orbax calls it
            temporary.mkdir()
            with contextlib.suppress(FileNotFoundError):  # orbax, which has just started, may have cleaned it up
                temporary.rmdir()

    def metadata(self, step: int) -> Metadata:
        """The metadata that the checkpoint of `step` was saved with. Raises UserError if it cannot be read."""
        with self._reading(step):
            metadata = self._checkpointer.metadata(step).custom_metadata
            files.check_shape(metadata, METADATA, "its metadata")
            window = metadata["window"]
            if window and (not all(map(math.isfinite, window.values())) or window.get("steps", 0) < 1):
                raise ValueError(f"its sums of metrics are {window}")
            return metadata

    def restore(self, like: Trees, class_names: Sequence[str] = ()) -> tuple[int, Metadata, Trees]:
        """The newest checkpoint that can be read, as step, metadata and trees; 0, {} and `like` if there is none.

        Corrupt checkpoints that are newer are moved aside, to damaged_STEP; if none can be read, all stay where they
        are. Every process reads the whole trees, at most twice its share of them, so any mesh can restore what another
        one saved.

        Args:
          like: trees with the shapes and shardings to restore to, on any mesh.
          class_names: those that the data must have had, if they are given.

        Raises:
          UserError: no checkpoint can be read, it is of other classes or another net, or the processes see different
            ones.
        """
        directory, damaged = self._checkpointer.directory, {}
        step, metadata, trees = 0, {}, like
        with processes.together():
            steps = sorted((checkpoint.step for checkpoint in self._checkpointer.checkpoints), reverse=True)
            for candidate in steps:
                try:
                    metadata, trees = self._read(candidate, like, class_names)
                    step = candidate
                    break
                except UnreadableError as error:
                    damaged[candidate] = error
            if steps and not step:
                errors = "; ".join(str(error).partition(_ADVICE)[0] for error in damaged.values())
                raise UserError(f"no checkpoint is left: {errors}; restore one, or use a new --workdir")
        processes.check_same(step, f"{directory}: the processes see different checkpoints; it must be shared")
        with processes.together():
            if jax.process_index() == 0:
                self._set_aside(damaged)
        if damaged:
            self._checkpointer.close()
            self._open(directory)  # otherwise it would still list them
        return step, metadata, _donatable(jax.tree.map(_divided, trees, like)) if step else like

    def _read(self, step, like, class_names):
        metadata = self.metadata(step)
        checksums = metadata.pop("checksums", {})
        if class_names and list(map(normalized, metadata["data"]["class_names"])) != list(map(normalized, class_names)):
            raise UserError(f"{self._checkpointer.directory.parent} was trained on other classes; use a new --workdir")
        trees = self._load(step, jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like), checksums)
        return metadata, trees

    def _set_aside(self, damaged):
        directory = self._checkpointer.directory
        for step, error in damaged.items():
            aside = directory / f"damaged_{step}"
            log.warning("%s; moved to %s, using the previous checkpoint", str(error).partition(_ADVICE)[0], aside.name)
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(directory / str(step), aside)

    def restore_params(self, step: int, like: Any) -> Any:
        """The parameters alone of the checkpoint of `step`.

        Args:
          like: a tree of jax.ShapeDtypeStruct with their shapes and shardings.

        Raises:
          UserError: they cannot be read, or are of another net.
        """
        return _donatable(self._load(step, {"params": like}, self.metadata(step).get("checksums", {}))["params"])

    def _load(self, step, like, checksums):
        """The trees of a checkpoint that `like` has."""
        with self._reading(step):
            saved = self._checkpointer.metadata(step).metadata
            if not saved:
                raise ValueError("no metadata")
            # Earlier versions called the optimiser's state after what it is for SGD.
            keys = {name: "velocity" if name == "opt_state" and "velocity" in saved else name for name in like}
            for name, key in sorted(keys.items(), reverse=True):  # the net's parameters first
                self._check_shapes(step, "net" if name == "params" else "optimizer", saved[key], like[name])
            trees = jax.tree.map(lambda _: ocp.PLACEHOLDER, saved) | {key: like[name] for name, key in keys.items()}
            loaded = self._checkpointer.load(step, trees)
            # The first checkpoints had no checksums.
            if checksums and any(_checksums(loaded[key]) != _named(checksums[key]) for key in keys.values()):
                raise ValueError("checksum mismatch: its numbers differ from those that were saved")
            return {name: loaded[key] for name, key in keys.items()}

    def _check_shapes(self, step, kind, saved, like):
        theirs, ours = _shapes(saved), _shapes(like)
        for name in ours | theirs:
            if ours.get(name) != theirs.get(name):
                raise UserError(
                    f"{self._checkpointer.directory / str(step)}: is of another {kind} ({name} has the shape "
                    f"{theirs.get(name)} there and {ours.get(name)} here); if an earlier version of this program "
                    "trained it, use that version"
                )

    @contextlib.contextmanager
    def _reading(self, step):
        try:
            yield
        except (OSError, LookupError, RecursionError, TypeError, ValueError) as error:
            older = max((other.step for other in self._checkpointer.checkpoints if other.step < step), default=0)
            then = f" (then the checkpoint of step {older} is used)" if older else ""
            raise UnreadableError(
                f"{self._checkpointer.directory / str(step)}: cannot be read ({_cause(error)}){_ADVICE}{then}"
            ) from error

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            raise UserError(
                f"{self._checkpointer.directory}: no checkpoint can be written ({_cause(error)}); mend that and start "
                "again"
            ) from error


def _cause(error):
    """The first cause of an exception, in a few words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    if "DEADLINE_EXCEEDED" in str(error):
        return f"another process did not write its part within {SAVE_TIMEOUT} s; see its message"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error).partition("\n")[0][:200]


def _named(tree):
    """The leaves of a tree by their names, as conv1.kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _shapes(tree):
    return {name: tuple(leaf.shape) for name, leaf in _named(tree).items()}


def _checksums(tree):
    """The sum of every array's words, modulo 2³², by its name: the same on any mesh, and different if a bit is."""
    return {name: int(total) for name, total in _named(_sums(tree)).items()}


@jax.jit
def _sums(tree):
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    return jax.tree.map(
        lambda x: jnp.sum(lax.bitcast_convert_type(x, unsigned[x.dtype.itemsize]), dtype=jnp.uint32), tree
    )


def _donatable(tree):
    # JAX may be unable to donate buffers that were read from disk. It can donate the outputs of a compiled program.
    return jax.jit(lambda tree: tree)(tree)


def _divided(array, like):
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: array[index])
