"""Section 5 of the paper, SGD with momentum and weight decay, and LARS for large batches: optax transformations.

`update` of each takes the keyword `learning_rates`, a tree of numbers like the parameters (`schedules.LearningRates`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.model import spec

Numbers = Mapping[str, Mapping[str, float]]  # {layer: {'kernel', 'bias'}}


def sgd(decays: Numbers) -> optax.GradientTransformationExtraArgs:
    """v ← 0.9·v − ε·(decay·w + ∇) and w ← w + v; the state is the velocity v.

    Each gradient enters the velocity with the learning rate of its own step: unlike in `optax.sgd`, a lower rate scales
    only later gradients. If ε = 0, weights and velocity do not change.
    """

    def update(gradients, velocity, params, *, learning_rates):
        moved = jax.tree.map(
            lambda v, g, w, decay, rate: jnp.where(rate > 0, 0.9 * v - rate * (g + decay * w), v),
            velocity,
            gradients,
            params,
            decays,
            learning_rates,
        )
        return jax.tree.map(lambda v, rate: jnp.where(rate > 0, v, 0), moved, learning_rates), moved

    return optax.GradientTransformationExtraArgs(optax.tree.zeros_like, update)


def lars(decays: Numbers) -> optax.GradientTransformationExtraArgs:
    """`sgd` with the decayed gradient of every kernel scaled to 0.001 of the kernel's norm.

    You, Gitman, Ginsburg: Large Batch Training of Convolutional Networks, 2017. Biases are updated as in `sgd`, because
    many of them start at 0.
    """
    kernels = {layer: {name: name == "kernel" for name in leaves} for layer, leaves in decays.items()}
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), kernels)
    momentum = sgd(jax.tree.map(lambda _: 0.0, decays))

    def update(gradients, velocity, params, *, learning_rates):
        decayed = jax.tree.map(lambda g, w, decay: g + decay * w, gradients, params, decays)
        scaled, _ = trust.update(decayed, trust.init(params), params)
        return momentum.update(scaled, velocity, params, learning_rates=learning_rates)

    return optax.GradientTransformationExtraArgs(momentum.init, update)


def scale_by_learning_rates() -> optax.GradientTransformationExtraArgs:
    """Multiplies the update by −ε, as the last link of an `optax.chain`. If ε = 0, weights do not change."""

    def update(updates, state, params=None, *, learning_rates):
        return jax.tree.map(lambda u, rate: jnp.where(rate > 0, -rate * u, 0), updates, learning_rates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


# From the weight decay of every parameter to the transformation.
OPTIMIZERS = {"sgd": sgd, "lars": lars}


def from_config(config: ConfigDict, net: spec.Net) -> optax.GradientTransformationExtraArgs:
    """The optimiser that `config.optimizer` names, for a net. Raises UserError if there is no such optimiser."""
    if config.name not in OPTIMIZERS:
        raise UserError(f"config.optimizer.name: no optimizer {config.name!r}; there are {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[config.name](weight_decays(config, net))


def weight_decays(config: ConfigDict, net: spec.Net) -> Numbers:
    """The weight decay of every parameter, 0.0005 in section 5; biases have it if `config.optimizer.bias_decay`."""
    return {
        layer.name: {"bias": layer.decay if config.bias_decay else 0.0, "kernel": layer.decay} for layer in net.layers
    }
