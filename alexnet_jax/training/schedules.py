"""Learning-rate schedules, and the learning rate of every parameter.

A new schedule is a function from a config to a `Schedule`, and an entry of SCHEDULES; docs/extending.md adds one.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.model import spec
from alexnet_jax.training import lab_notes

State = Mapping[str, Any]  # serialisable as JSON


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    Attributes:
      factors: from (state, epoch, name of a layer) to the factors of the initial rates of the layer's weights and
        biases. Epochs are fractional.
      init: the schedule's state before the first step; checkpoints store the state.
      observe: from (state, validation error as a fraction) to the state after one more evaluation.
      decides_biases: whether the factor of the biases applies regardless of `config.optimizer.bias_rate_falls`.
      depends_on_length: whether a larger `config.num_epochs` changes the rates of earlier epochs.
      notes: the notes of 2012 that the schedule follows.
    """

    factors: Callable[[State, float, str], tuple[float, float]]
    init: State = dataclasses.field(default_factory=dict)
    observe: Callable[[State, float], State] = lambda state, error: state
    decides_biases: bool = False
    depends_on_length: bool = False
    notes: lab_notes.Notes | None = None


def plateau(config: ConfigDict) -> Schedule:
    """Section 5: "divide the learning rate by 10 when the validation error rate stopped improving", three times.

    The error has stopped improving after `config.schedule.patience` evaluations in a row without a new minimum.
    """
    patience = config.schedule.patience

    def observe(state, error):
        stale = 0 if error < state["best_error"] else state["stale"] + 1
        drops = state["drops"]
        if stale >= patience and drops < 3:
            stale, drops = 0, drops + 1
        return {"best_error": min(error, state["best_error"]), "stale": stale, "drops": drops}

    return Schedule(
        lambda state, epoch, layer: (10.0 ** -state["drops"], 1.0),
        {"best_error": 1.0, "stale": 0, "drops": 0},
        observe,
    )


def steps(config: ConfigDict) -> Schedule:
    """Divides the rate by 10 at each of `config.schedule.epochs`."""
    drops = tuple(config.schedule.epochs)
    return Schedule(lambda state, epoch, layer: (10.0 ** -sum(epoch >= drop for drop in drops), 1.0))


def hand(config: ConfigDict) -> Schedule:
    """Lowers the rates at the epochs in the notes of a net of 2012, where it was done by hand."""
    notes = lab_notes.of(config)
    return Schedule(lambda state, epoch, layer: notes.factors(layer, epoch), notes=notes)


def automatic(config: ConfigDict) -> Schedule:
    """Net 170's schedule: ÷250 in three equal ratios after 25, 50 and 75 % of the epochs, biases ÷10 in the middle.

    At exactly these points the old rate still applies. By the notes, conv1 is frozen from epoch 74 on.
    """
    notes, num_epochs = lab_notes.of(config), config.num_epochs

    def factors(state, epoch, layer):
        progress = epoch / num_epochs
        weights, biases = notes.factors(layer, epoch)
        return 250.0 ** -(equal_steps(4, progress) / 3) * weights, 10.0 ** -equal_steps(2, progress) * biases

    return Schedule(factors, decides_biases=True, depends_on_length=True, notes=notes)


def polynomial(config: ConfigDict) -> Schedule:
    """Multiplies the rate by the square of the remaining fraction of the epochs."""
    num_epochs = config.num_epochs
    return Schedule(lambda state, epoch, layer: ((1 - epoch / num_epochs) ** 2, 1.0), depends_on_length=True)


SCHEDULES = {
    "plateau": plateau,
    "steps": steps,
    "hand": hand,
    "automatic": automatic,
    "polynomial": polynomial,
}


def from_config(config: ConfigDict) -> Schedule:
    """The schedule that `config.schedule` names.

    Raises:
      UserError: the schedule or its notes do not exist.
    """
    name = config.schedule.name
    if name not in SCHEDULES:
        raise UserError(f"config.schedule.name: no schedule {name!r}; there are {', '.join(SCHEDULES)}")
    lab_notes.of(config)
    return SCHEDULES[name](config)


class LearningRates:
    """A function from (state of the schedule, epoch) to ε of every parameter, as Python floats.

    In the first `config.schedule.warmup` epochs all rates are multiplied by a factor that rises from 0 to 1. Biases
    have `config.optimizer.bias_rate` times the rate of weights. If `config.optimizer.bias_rate_falls`, their rate falls
    with that of weights; otherwise only the schedule changes it.
    """

    def __init__(self, config: ConfigDict, net: spec.Net):
        """Raises UserError if `config.optimizer.layer_rates` is wrong, or as `from_config`."""
        self.schedule = from_config(config)
        self._base, self._warmup = config.schedule.learning_rate, config.schedule.warmup
        self._bias_rate = config.optimizer.bias_rate
        self._biases_follow = config.optimizer.bias_rate_falls and not self.schedule.decides_biases
        self._layer_factors = layer_factors(config.optimizer.layer_rates, net)

    def __call__(self, state: State, epoch: float) -> dict[str, dict[str, float]]:
        base = (min(1.0, epoch / self._warmup) if self._warmup else 1.0) * self._base
        rates = {}
        for layer, layer_factor in self._layer_factors.items():
            rate = base * layer_factor
            weights, biases = self.schedule.factors(state, epoch, layer)
            rates[layer] = {
                "bias": rate * self._bias_rate * (weights if self._biases_follow else biases),
                "kernel": rate * weights,
            }
        return rates


def equal_steps(count: int, progress: float) -> int:
    """How many of `count` equal parts of a training have ended when the fraction `progress` of it is done.

    A part that ends exactly there has not ended yet; the last one never ends.
    """
    return min(count - 1, max(0, math.ceil(count * progress - 1e-9) - 1))  # 1e-9 absorbs rounding errors


def layer_factors(text: str, net: spec.Net) -> dict[str, float]:
    """The factors of the layers' rates from a text like 'conv1=0.1 fc8=10': {name: factor}, 1 for layers not named.

    Raises:
      UserError: the text has another form, or names a layer that the net does not have.
    """
    factors = {layer.name: 1.0 for layer in net.layers}
    named = set()
    for part in text.split():
        name, _, factor = part.partition("=")
        if name in named:
            raise UserError(f"config.optimizer.layer_rates: names {name} twice")
        named.add(name)
        try:
            if name not in factors or not 0 <= float(factor) < math.inf:
                raise ValueError
            factors[name] = float(factor)
        except ValueError:
            raise UserError(
                f"config.optimizer.layer_rates: {part!r} is not LAYER=FACTOR, as in 'conv1=0 fc8=10'; there are "
                f"{', '.join(factors)}"
            ) from None
    return factors
