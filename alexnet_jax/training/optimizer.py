"""Section 5 of the paper: SGD with momentum and weight decay, and how learning rates fall; LARS for large batches."""

import math

import jax
import jax.numpy as jnp
import optax

from alexnet_jax import UserError
from alexnet_jax.training import lab_notes

SCHEDULES = ("plateau", "steps", "hand", "automatic", "polynomial")


def sgd(decays, momentum=0.9):
    """v ← 0.9·v − ε·(decay·w + ∇) and w ← w + v, as an optax transformation.

    `update` takes ε as the keyword `learning_rates`. Velocities keep the rates that they were made with: unlike in
    `optax.sgd`, a lower rate slows only what is added from now on. Where ε = 0, weights and velocity stay as they are.

    Args:
      decays: a tree like the parameters, of numbers, as `learning_rates` is.
      momentum: 0.9 in the paper.
    """

    def update(gradients, velocity, params, *, learning_rates):
        moved = jax.tree.map(
            lambda v, g, w, decay, rate: jnp.where(rate > 0, momentum * v - rate * (g + decay * w), v),
            velocity,
            gradients,
            params,
            decays,
            learning_rates,
        )
        return jax.tree.map(lambda v, rate: jnp.where(rate > 0, v, 0), moved, learning_rates), moved

    return optax.GradientTransformationExtraArgs(optax.tree.zeros_like, update)


def lars(decays):
    """`sgd`, but what is added to the velocity of a kernel is first scaled to 0.001 of the kernel's norm.

    You, Gitman, Ginsburg: Large Batch Training of Convolutional Networks, 2017. Biases, of which many begin at 0, are
    as in `sgd`.
    """
    kernels = {layer: {name: name == "kernel" for name in leaves} for layer, leaves in decays.items()}
    trust = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=0.001), kernels)
    no_decay = jax.tree.map(lambda _: 0.0, decays)

    def update(gradients, velocity, params, *, learning_rates):
        decayed = jax.tree.map(lambda g, w, decay: g + decay * w, gradients, params, decays)
        scaled, _ = trust.update(decayed, trust.init(params), params)
        return sgd(no_decay).update(scaled, velocity, params, learning_rates=learning_rates)

    return optax.GradientTransformationExtraArgs(optax.tree.zeros_like, update)


OPTIMIZERS = {"sgd": sgd, "lars": lars}


def from_config(config, net):
    """The optimiser of `config.optimizer.name`."""
    return OPTIMIZERS[config.optimizer.name](weight_decays(config, net))


def weight_decays(config, net):
    """Weight decay of every parameter: 0.0005 in section 5, for biases as `config.optimizer` says."""
    return {
        layer.name: {"bias": layer.decay if config.optimizer.bias_decay else 0.0, "kernel": layer.decay}
        for layer in net.layers
    }


def learning_rates(config, net, schedule, epoch):
    """ε of every parameter after `epoch` epochs, a fraction, as plain numbers; by `config.schedule.name`:

    `plateau`: ÷10 as often as `observe` has counted.
    `steps`: ÷10 at each of `config.schedule.epochs`.
    `hand`: as the 2012 nets, by their `notes`.
    `automatic`: as net 170, ÷250 in three equal ratios after 25, 50 and 75 % of the epochs, biases ÷10 in the middle;
      at exactly these points the rate is still the old one. By its notes, conv1 is frozen from epoch 74 on.
    `polynomial`: with the square of what is left of the epochs.

    In the first `config.schedule.warmup` epochs all that is multiplied by a factor that rises from 0 to 1.
    Biases have `config.optimizer.bias_rate` times the rate of weights. It falls with that, or else stays, but for what
    the notes and net 170 do to it.
    """
    progress, weights, biases, by_hand = epoch / config.num_epochs, 1.0, 1.0, ((), ())
    match config.schedule.name:
        case "plateau":
            weights = 10.0 ** -schedule["drops"]
        case "steps":
            weights = 10.0 ** -sum(epoch >= e for e in config.schedule.epochs)
        case "hand":
            by_hand = lab_notes.of(config)[:2]
        case "automatic":
            weights, biases = 250.0 ** -(equal_steps(4, progress) / 3), 10.0 ** -equal_steps(2, progress)
            by_hand = lab_notes.of(config)[:2]
        case "polynomial":
            weights = (1 - progress) ** 2
    biases_fall = config.optimizer.bias_rate_falls and config.schedule.name != "automatic"
    warm = min(1.0, epoch / config.schedule.warmup) if config.schedule.warmup else 1.0
    base, factors = warm * config.schedule.learning_rate, layer_factors(config.optimizer.layer_rates, net)
    rates = {}
    for layer in net.layers:
        rate = base * factors[layer.name]
        kernel, bias = (lab_notes.factor(changes, layer.name, epoch) for changes in by_hand)
        kernel, bias = weights * kernel, biases * bias
        rates[layer.name] = {
            "bias": rate * config.optimizer.bias_rate * (kernel if biases_fall else bias),
            "kernel": rate * kernel,
        }
    return rates


def equal_steps(count, progress):
    """How many of the `count` equal parts of a training are over, when `progress` of it, a fraction, is done.

    A part that ends just now is not; of the last one never.
    """
    return min(count - 1, max(0, math.ceil(count * progress - 1e-9) - 1))  # less what rounding may have added


def layer_factors(text, net):
    """What the rates of layers are multiplied by, from 'conv1=0.1 fc8=10': {name: factor}, 1 for those not named.

    Raises:
      UserError: it looks otherwise, or names no layer of the net.
    """
    factors, named = {layer.name: 1.0 for layer in net.layers}, set()
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


def init_schedule():
    """What a schedule knows before the first step, as plain numbers that every checkpoint keeps.

    `best_error` is the lowest validation error so far, `stale` the evaluations since, `drops` the divisions by 10, and
    `evaluated` the step of the last evaluation.
    """
    return {"best_error": 1.0, "stale": 0, "drops": 0, "evaluated": 0}


def observe(config, schedule, error):
    """What a schedule knows after one more evaluation, which found this validation error (a fraction).

    Section 5: "divide the learning rate by 10 when the validation error rate stopped improving", three times. It has
    stopped improving when `patience` evaluations in a row brought no new minimum.
    """
    best_error, stale, drops = min(error, schedule["best_error"]), schedule["stale"] + 1, schedule["drops"]
    if error < schedule["best_error"]:
        stale = 0
    elif stale >= config.patience and drops < 3:
        stale, drops = 0, drops + 1
    return schedule | {"best_error": best_error, "stale": stale, "drops": drops}
