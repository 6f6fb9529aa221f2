"""The paper's optimiser (section 5), SGD with momentum and weight decay, and two ways to lower the learning rate."""

import jax
import optax


def sgd(momentum=0.9, weight_decay=0.0005):
    """v ← 0.9·v − 0.0005·ε·w − ε·∇ and w ← w + v, as an optax transformation.

    `update` takes ε as the keyword `learning_rate`. Velocities keep the rates that they were made with: unlike in
    `optax.sgd`, a lower rate slows only what is added from now on.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), _scale_by_learning_rate(), optax.trace(momentum))


def _scale_by_learning_rate():
    def update(updates, state, params=None, *, learning_rate):
        return jax.tree.map(lambda g: -learning_rate * g, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def init_schedule():
    """What a schedule knows before the first step, as plain numbers that every checkpoint keeps.

    `best_error` is the lowest validation error so far, `stale` the evaluations since, `drops` the divisions by 10, and
    `evaluated` the step of the last evaluation.
    """
    return {"best_error": 1.0, "stale": 0, "drops": 0, "evaluated": 0}


def learning_rate(config, schedule, epoch):
    """ε after `epoch` epochs, a fraction. `config` is `config.schedule`:

    `steps` divides `learning_rate` by 10 at each of the `epochs`, `plateau` as often as `observe` has counted.
    """
    drops = sum(epoch >= e for e in config.epochs) if config.name == "steps" else schedule["drops"]
    return config.learning_rate / 10**drops


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
