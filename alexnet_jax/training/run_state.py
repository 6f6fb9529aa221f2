"""The state of a run between two steps, and how checkpoints store it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

from alexnet_jax import UserError
from alexnet_jax.model import alexnet, spec
from alexnet_jax.runtime import files, sharding
from alexnet_jax.training import checkpoint


@dataclasses.dataclass
class RunState:
    """Everything the next step depends on besides the data and the settings.

    Attributes:
      params, opt_state: trees of arrays on a mesh: the parameters, and the optimiser's state.
      schedule: the state of the schedule.
      step: how many steps were taken.
      evaluated: the step of the last evaluation.
      window: sums of the training metrics since they were last logged.
    """

    params: alexnet.Params
    opt_state: optax.OptState
    schedule: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int = 0
    evaluated: int = 0
    window: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def trees(self) -> checkpoint.Trees:
        return {"params": self.params, "opt_state": self.opt_state}

    def save(self, checkpoints: checkpoint.Checkpoints, data: dict[str, Any]) -> None:
        """Starts to save it. `data` describes the images; see `restored`. Raises as `Checkpoints.save`."""
        metadata = {"schedule": self.schedule, "evaluated": self.evaluated, "window": self.window, "data": data}
        checkpoints.save(self.step, self.trees, metadata)

    def restored(self, checkpoints: checkpoint.Checkpoints, data: dict[str, Any]) -> "RunState":
        """The state of the newest checkpoint, or this one if there is none. Raises as `Checkpoints.restore`."""
        step, metadata, trees = checkpoints.restore(self.trees, data["class_names"])
        if not step:
            return self
        schedule = metadata["schedule"]
        evaluated = schedule.pop("evaluated", 0)  # where earlier versions kept it
        try:
            files.check_shape(schedule, {name: type(value) for name, value in self.schedule.items()}, "schedule")
            files.check_shape(evaluated, int, "evaluated")
        except ValueError as error:
            raise UserError(f"step {step}: its metadata are not what training wrote ({error}); restore it") from error
        return RunState(
            **trees,
            schedule=schedule,
            step=step,
            evaluated=metadata.get("evaluated", evaluated),
            window=metadata["window"],
        )


def init(
    net: spec.Net,
    mesh: jax.sharding.Mesh,
    optimizer: optax.GradientTransformationExtraArgs,
    seed: int,
    schedule: Mapping[str, Any],
) -> RunState:
    """The state before the first step, on a mesh."""
    key = jax.random.key(seed)
    shardings = sharding.param_shardings(mesh, net, alexnet.shapes(net))
    params = jax.jit(functools.partial(alexnet.init, net), out_shardings=shardings)(key)
    shardings = sharding.state_shardings(mesh, net, params, jax.eval_shape(optimizer.init, params))
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return RunState(params, opt_state, dict(schedule))
