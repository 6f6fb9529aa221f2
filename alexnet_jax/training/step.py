"""One training step: augmentation, forward and backward pass, optimiser, in one compiled program."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from alexnet_jax.data import cache
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.model import alexnet, spec
from alexnet_jax.runtime import sharding
from alexnet_jax.training import metrics


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
) -> jax.stages.Wrapped:
    """`train_step` for these arguments, jitted; it reuses the memory of the parameters and the optimiser's state."""
    step = functools.partial(train_step, net, mesh, augmentation, optimizer, seed)
    return jax.jit(step, donate_argnums=(0, 1), compiler_options=sharding.compiler_options(mesh))
