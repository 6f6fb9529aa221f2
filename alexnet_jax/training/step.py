"""One training step, or several: augmentation, forward and backward pass, optimiser, in one compiled program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from alexnet_jax.data import cache
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.model import alexnet, spec
from alexnet_jax.runtime import sharding
from alexnet_jax.training import metrics

IMAGES_AT_ONCE = 4096  # of a row of the mesh in one call: a signal waits for the calls under way


def train_step(
    net: spec.Net,
    mesh: jax.sharding.Mesh,
    augmentation: Augmentation,
    optimizer: optax.GradientTransformationExtraArgs,
    seed: int,
    params: alexnet.Params,
    opt_state: optax.OptState,
    batch: dict[str, jax.Array],
    step: int,
    learning_rates: dict,
    noise: bool,
) -> tuple[alexnet.Params, optax.OptState, dict[str, jax.Array]]:
    """The parameters and the optimiser's state after a step, and the step's metrics.

    Args:
      batch: as `pipeline.train_batches` makes it, divided over 'data', with the arrays of `cache.resident`.
      learning_rates: as `schedules.LearningRates` makes them.
      noise: whether the colours vary in this step.

    Returns:
      parameters, optimiser state, and the metrics `loss`, `top1_error` and `top5_error`, means over the batch,
      float32 [].
    """
    specs = (sharding.param_specs(net, params), sharding.batch_specs(batch), jax.P(), jax.P())

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=jax.P())
    def loss(params, batch, step, noise):
        # Declares the parameters as different on every row of the mesh, so that JAX sums their gradients over 'data' in
        # float32.
        params = lax.pcast(params, "data", to="varying")
        return device_loss(net, mesh.shape["model"], augmentation, seed, params, batch, step, noise)

    # The gradient is taken outside shard_map, where JAX inserts each sum over 'data' and 'model' exactly once.
    (_, values), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch, step, noise)
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(gradients, opt_state, params, learning_rates=learning_rates)
        params = optax.apply_updates(params, updates)
    return params, opt_state, values


def device_loss(
    net: spec.Net,
    devices: int,
    augmentation: Augmentation,
    seed: int,
    params: alexnet.Params,
    batch: dict[str, jax.Array],
    step: jax.Array,
    noise: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean loss of a global batch and its metrics, from one device's share of the parameters and the examples.

    Runs under the axes 'data' and 'model', of which 'model' has `devices` devices. An example's randomness depends
    on the seed, the step, its index in the global batch and, for dropout, the tower; it does not depend on the mesh.
    """
    batch = cache.fetch(batch)
    B = len(batch["label"])
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    indices_B = lax.axis_index("data") * B + jnp.arange(B)
    example_keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(step_key, index)))
    view_keys_B, dropout_keys_B = jnp.unstack(example_keys(indices_B), axis=1)
    first_in_group_B = indices_B - indices_B % augmentation.crop_group
    towers_T = lax.axis_index("model") * (net.towers // devices) + jnp.arange(net.towers // devices)
    tower_keys_BxT = jax.vmap(lambda key: jax.vmap(functools.partial(jax.random.fold_in, key))(towers_T))(
        dropout_keys_B
    )
    with jax.named_scope("augmentation"):
        x = augmentation.random_views(batch["image"], example_keys(first_in_group_B)[:, 0], view_keys_B, noise)
    logits, _ = alexnet.apply(net, devices, params, x, tower_keys_BxT)
    values = {
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
        "top1_error": 1 - metrics.correct(logits, batch["label"], 1),
        "top5_error": 1 - metrics.correct(logits, batch["label"], 5),
    }
    means = {name: lax.pmean(value.mean(), "data") for name, value in values.items()}
    return means["loss"], means


def compile_step(
    net: spec.Net,
    mesh: jax.sharding.Mesh,
    augmentation: Augmentation,
    optimizer: optax.GradientTransformationExtraArgs,
    seed: int,
    several: bool = False,
) -> jax.stages.Wrapped:
    """`train_step` for these arguments, jitted; `train_steps` if `several`.

    It reuses the memory of the parameters and the optimiser's state.
    """
    step = functools.partial(train_step, net, mesh, augmentation, optimizer, seed)
    step = functools.partial(train_steps, step) if several else step
    return jax.jit(step, donate_argnums=(0, 1), compiler_options=sharding.compiler_options(mesh))


def steps_at_once(mesh: jax.sharding.Mesh, cached: bool, batch_size: int) -> int:
    """The most steps of one call of `compile_steps`'s function.

    They are several where Python takes about as long to start a step as the devices to run it: on accelerators that
    hold the images (`cached`).
    """
    if mesh.devices.flat[0].platform == "cpu" or not cached:
        return 1
    return max(1, IMAGES_AT_ONCE * mesh.shape["data"] // batch_size)


def compile_steps(
    net: spec.Net,
    mesh: jax.sharding.Mesh,
    augmentation: Augmentation,
    optimizer: optax.GradientTransformationExtraArgs,
    seed: int,
    most: int,
) -> Callable[..., tuple[alexnet.Params, optax.OptState, dict[str, jax.Array]]]:
    """A function that takes up to `most` steps in one call of a jitted program, as many as it gets rates for.

    Its arguments are those of `train_step` from `params` on, with lists of `learning_rates` and `noise`, one for each
    step. Of more than one step, the batch has the indices of `pipeline.joined`. The metrics are float32 [] if `most` is
    1, otherwise [most], of which those of the steps that were taken come first.

    How a training is divided into calls does not change its bits: the program is the same for all numbers of steps.
    """
    if most == 1:
        one_step = compile_step(net, mesh, augmentation, optimizer, seed)

        def take_one(params, opt_state, batch, step, learning_rates, noise):
            return one_step(params, opt_state, batch, step, learning_rates[0], noise[0])

        return take_one

    several = compile_step(net, mesh, augmentation, optimizer, seed, several=True)

    def take_several(params, opt_state, batch, step, learning_rates, noise):
        missing = most - len(noise)
        rates = jax.tree.map(lambda *numbers: np.pad(np.array(numbers, np.float32), (0, missing)), *learning_rates)
        return several(params, opt_state, batch, step, len(noise), rates, np.pad(np.array(noise), (0, missing)))

    return take_several


def train_steps(
    take_step: Callable[..., Any],
    params: alexnet.Params,
    opt_state: optax.OptState,
    batches: dict[str, jax.Array],
    first: jax.Array,
    count: jax.Array,
    learning_rates: dict,
    noise: jax.Array,
) -> tuple[alexnet.Params, optax.OptState, dict[str, jax.Array]]:
    """`count` steps from step `first` on, of at most N.

    Args:
      take_step: `train_step` with its first arguments.
      batches: indices, int32 [B, N], and the arrays of `cache.resident`.
      learning_rates: of every parameter, float32 [N].
      noise: bool [N].

    Returns:
      parameters, optimiser state, and the metrics of the steps, float32 [N], with zeros after the first `count`.
    """

    def turn(i, state):
        params, opt_state, values = state
        batch = batches | {"index": batches["index"][:, i]}
        rates = jax.tree.map(lambda rates_N: rates_N[i], learning_rates)
        params, opt_state, new = take_step(params, opt_state, batch, first + i, rates, noise[i])
        return params, opt_state, {name: values[name].at[i].set(value) for name, value in new.items()}

    values = dict.fromkeys(("loss", "top1_error", "top5_error"), jnp.zeros(len(noise)))
    return lax.fori_loop(0, count, turn, (params, opt_state, values))
