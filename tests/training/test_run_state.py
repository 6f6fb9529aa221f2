"""What a run remembers, in checkpoints of this version and of earlier ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import UserError
from alexnet_jax.runtime import sharding
from alexnet_jax.training import checkpoint, run_state
from tests.support import mesh

DATA = {"class_names": ["a", "b", "c", "d", "e"], "train_images": 26}
TRANSFORMATIONS = {
    "Adam": optax.adam(0.1),
    "Adam in bfloat16": optax.adam(0.1, mu_dtype=jnp.bfloat16),
    "a chain": optax.chain(optax.clip_by_global_norm(1.0), optax.trace(0.9), optax.add_decayed_weights(1e-4)),
    "a mask": optax.masked(optax.trace(0.9), lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_whatever_optax_keeps_is_saved_and_restored_on_any_mesh(name, small_net, tmp_path):
    optimizer = TRANSFORMATIONS[name]
    first = run_state.init(small_net, mesh(1, 2), optimizer, 0, {})
    gradients = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape), first.params)
    _, first.opt_state = optimizer.update(gradients, first.opt_state, first.params)
    first.step = 3
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        first.save(checkpoints, DATA)
    one_device = run_state.init(small_net, mesh(1, 1), optimizer, 1, {})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = one_device.restored(checkpoints, DATA)
    assert restored.step == 3
    assert jax.tree.structure(restored.trees) == jax.tree.structure(first.trees)
    for ours, theirs in zip(jax.tree.leaves(restored.trees), jax.tree.leaves(first.trees), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    divided = [leaf for leaf in jax.tree.leaves(first.opt_state) if leaf.ndim > 1]
    assert all("model" in leaf.sharding.spec for leaf in divided if leaf.shape[-1] != small_net.num_classes)


def words(tree):
    """As earlier versions had checksums: a tree like that of the arrays."""
    return jax.tree.map(lambda x: int(np.asarray(x).view(np.uint32).sum(dtype=np.uint32)), tree)


def test_a_checkpoint_of_an_earlier_version_is_restored(small_net, tmp_path):
    optimizer = optax.GradientTransformation(optax.tree.zeros_like, None)
    state = run_state.init(small_net, mesh(1, 2), optimizer, 0, {})
    velocity = jax.tree.map(lambda x: x + 1, state.params)
    schedule = {"best_error": 0.5, "stale": 1, "drops": 2, "evaluated": 7}
    trees = {"params": state.params, "velocity": velocity}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        saved = checkpoints._checkpointer
        metadata = {"schedule": schedule, "window": {"steps": 2}, "data": DATA, "checksums": words(trees)}
        saved.save(9, trees, custom_metadata=metadata)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        restored = state.restored(checkpoints, DATA)
        params = checkpoints.restore_params(
            9, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state.params)
        )
    assert (restored.step, restored.evaluated, restored.window) == (9, 7, {"steps": 2})
    assert restored.schedule == {"best_error": 0.5, "stale": 1, "drops": 2}
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state, velocity)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_the_state_of_another_optimizer_is_named(small_net, tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        state = run_state.init(small_net, mesh(1, 1), optax.trace(0.9), 0, {})
        state.step = 1
        state.save(checkpoints, DATA)
    other = run_state.init(small_net, mesh(1, 1), optax.adam(0.1), 0, {})
    with checkpoint.Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="1: is of another optimizer"):
        other.restored(checkpoints, DATA)


def test_what_belongs_to_no_parameter_is_replicated(small_net):
    params = run_state.init(small_net, mesh(1, 2), optax.identity(), 0, {}).params
    state = {"conv2": {"kernel": jnp.zeros(3), "bias": params["conv2"]["bias"]}, "count": jnp.zeros((), int)}
    specs = jax.tree.map(lambda s: s.spec, sharding.state_shardings(mesh(1, 2), small_net, params, state))
    assert specs == {"conv2": {"kernel": jax.P(), "bias": jax.P("model")}, "count": jax.P()}
