"""Checkpoints of a run: parameters, velocities and what the schedule knows, as of a step (orbax)."""

import jax
from orbax.checkpoint import v1 as ocp


class Checkpoints:
    """The checkpoints in a directory, the newest two kept.

    Saving is asynchronous and atomic: whenever the process is killed, a checkpoint is there whole or not at all. As a
    context manager, leaving it waits for the last save.
    """

    def __init__(self, directory):
        newest_two = ocp.training.preservation_policies.LatestN(2)
        self._checkpointer = ocp.training.Checkpointer(
            directory, preservation_policy=newest_two, cleanup_tmp_directories=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._checkpointer.close()

    @property
    def latest_step(self):
        """The step of the newest checkpoint; 0 if there is none."""
        latest = self._checkpointer.latest
        return latest.step if latest else 0

    def save(self, step, state, schedule):
        """Starts to save a tree of arrays and a dict of numbers as of `step`, unless they are saved already."""
        if step != self.latest_step:
            self._checkpointer.save_async(step, state, force=True, custom_metadata=schedule)

    def restore(self, like):
        """The newest checkpoint's (state, schedule), the state with the shapes and shardings of the tree `like`.

        The mesh may be another than the one it was saved on.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        state = self._checkpointer.load(self.latest_step, abstract)
        schedule = self._checkpointer.metadata(self.latest_step).custom_metadata
        # Buffers fresh from disk may not be donatable; those that a compiled program returns are.
        return jax.jit(lambda tree: tree)(state), schedule
