"""The loss and the gradients of a training step: random as the config says, and the same on every mesh."""

import collections
import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data import augment, pipeline
from alexnet_jax.data.base import IMAGENET
from alexnet_jax.model import alexnet, nets
from alexnet_jax.runtime import sharding
from alexnet_jax.training import optimizer, step
from tests.references import witnesses
from tests.support import compiled_step, first_state, jitted_step, loss_of, mesh


@pytest.fixture
def batch(small_net):
    rng = np.random.default_rng(0)
    size = small_net.image_size * 8 // 7
    images = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    return {"image": images, "label": rng.integers(0, 5, 8).astype(np.int32)}


def test_in_bfloat16_activations_travel_and_multiply_and_gradients_are_summed_in_float32(config, batch):
    config.model.dtype = "bfloat16"
    net, on_mesh = nets.from_config(config.model).with_classes(5), mesh(2, 2)
    state = first_state(config, net, on_mesh)
    rates = jax.tree.map(lambda _: 0.01, state["params"])
    step = jitted_step(config, net, on_mesh)
    args = state["params"], state["opt_state"], sharding.put_batch(on_mesh, batch), 0, rates, True
    program = step.lower(*args).as_text()

    def types(operation):
        # A reduction's type is behind its body.
        lines = re.findall(rf'"?stablehlo\.{operation}"?\(.*?-> \(?tensor<(?:\d+x)*(\w+)>', program, re.DOTALL)
        return collections.Counter(lines)

    assert types("convolution").keys() == types("all_gather").keys() == types("reduce_scatter").keys() == {"bf16"}
    assert types("all_reduce") == {"f32": 2 * len(net.layers) + 3}  # kernels, biases, and the metrics
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(step(*args))} == {"float32"}


@pytest.mark.parametrize("shape", [(1, 2), pytest.param((2, 1), marks=pytest.mark.slow)])
def test_several_steps_in_one_call_are_single_steps(shape, config, small_net, batch):
    on_mesh, most = mesh(*shape), 4
    state = first_state(config, small_net, on_mesh)
    whole = jax.device_put(
        {sharding.WHOLE + name: array for name, array in batch.items()}, jax.NamedSharding(on_mesh, jax.P())
    )
    indices_Nx8 = np.random.default_rng(1).integers(0, 8, (3, 8)).astype(np.int32)
    rates = [jax.tree.map(lambda _, rate=rate: rate, state["params"]) for rate in (0.01, 0.003, 0.02)]
    noise = [True, False, True]
    augmentation = augment.from_config(config.augment, small_net.image_size, IMAGENET)
    take_step, take_steps = (
        step.compile_steps(
            small_net, on_mesh, augmentation, optimizer.from_config(config.optimizer, small_net), config.seed, n
        )
        for n in (1, most)
    )

    def train(take, *calls):
        params, opt_state = jax.tree.map(jnp.copy, (state["params"], state["opt_state"]))
        losses = []
        for call in calls:
            indices = indices_Nx8[call.start : call.stop]
            if take is take_steps:
                [indices] = pipeline.joined(iter([{"index": row} for row in indices]), [len(indices)], most)
            else:
                indices = {"index": indices[0]}
            params, opt_state, values = take(
                params,
                opt_state,
                sharding.put_batch(on_mesh, indices) | whole,
                5 + call.start,
                rates[call.start : call.stop],
                noise[call.start : call.stop],
            )
            losses += np.atleast_1d(values["loss"])[: len(call)].tolist()
        return losses, jax.tree.map(np.asarray, (params, opt_state))

    losses, found = train(take_steps, range(3))
    jax.tree.map(np.testing.assert_array_equal, train(take_steps, range(1), range(1, 3)), (losses, found))
    expected_losses, expected = train(take_step, range(1), range(1, 2), range(2, 3))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max())


def test_several_steps_are_taken_in_one_call_where_the_images_lie_on_an_accelerator():
    def most(platform, cached, batch_size, rows=1):
        device = types.SimpleNamespace(platform=platform)
        on_mesh = types.SimpleNamespace(devices=np.array([[device]]), shape={"data": rows, "model": 1})
        return step.steps_at_once(on_mesh, cached, batch_size)

    assert most("cpu", True, 128) == most("gpu", False, 128) == most("tpu", True, 8192) == 1
    assert most("gpu", True, 128) == most("tpu", True, 1024, rows=8) == 32


def training_loss(config, net, data, model):
    """Initial parameters, and the function of these, a batch, a step and whether colours vary, that training has."""
    on_mesh = mesh(data, model)
    params = first_state(config, net, on_mesh)["params"]
    loss = loss_of(config, net, model)
    specs = (sharding.param_specs(net, params), sharding.BATCH, jax.P(), jax.P())
    return params, jax.shard_map(loss, mesh=on_mesh, in_specs=specs, out_specs=jax.P())


def loss_alone(config, net, batch, *steps):
    """The losses of some steps, on one device."""
    params, loss = training_loss(config, net, 1, 1)
    loss, batch = jax.jit(loss), sharding.put_batch(mesh(1, 1), batch)
    return [float(loss(params, batch, step, True)[0]) for step in steps or (3,)]


def loss_and_grads(config, net, batch, data, model):
    params, loss = training_loss(config, net, data, model)
    batch = sharding.put_batch(mesh(data, model), batch)
    (value, _), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch, 3, True)
    return float(value), jax.tree.map(np.asarray, grads)


@pytest.mark.parametrize("meshes", [[(2, 2)], pytest.param([(1, 2), (2, 1), (4, 1)], marks=pytest.mark.slow)])
def test_loss_and_gradients_are_the_same_on_every_mesh(meshes, config, small_net, batch):
    config.augment.crop_group = 3  # of which some span two devices
    expected_loss, expected = loss_and_grads(config, small_net, batch, 1, 1)
    assert 0.5 < expected_loss < 5  # or the comparison would say little
    for data, model in meshes:
        loss, grads = loss_and_grads(config, small_net, batch, data, model)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        for (path, a), b in zip(jax.tree.leaves_with_path(grads), jax.tree.leaves(expected), strict=True):
            assert abs(b).max() > 0
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max(), err_msg=jax.tree_util.keystr(path))


def test_lars_moves_a_divided_kernel_by_its_share_of_the_whole_kernels_norm(config, small_net, batch):
    config.optimizer.name, on_mesh = "lars", mesh(2, 2)
    state = first_state(config, small_net, on_mesh)
    before = jax.tree.map(np.asarray, state["params"])
    step = compiled_step(config, small_net, on_mesh)
    state, _ = step(state, sharding.put_batch(on_mesh, batch), 0, jax.tree.map(lambda _: 10.0, before), True)
    for name, layer in before.items():
        moved = np.linalg.norm(state["params"][name]["kernel"] - layer["kernel"])
        assert moved == pytest.approx(10 * 0.001 * np.linalg.norm(layer["kernel"]), rel=1e-3)


def test_the_compared_loss_is_random_from_step_to_step(config, small_net, batch):
    losses = loss_alone(config, small_net, batch, 3, 4)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_as_many_examples_as_the_config_says_share_crop_and_flip(config, small_net, batch):
    losses = {}
    for config.augment.crop_group in (1, 4, 8, 16):
        (losses[config.augment.crop_group],) = loss_alone(config, small_net, batch)
    assert losses[8] == losses[16]  # all eight examples share
    assert len(set(losses.values())) == 3


def test_colours_are_scaled_as_the_config_says(config, small_net, batch):
    losses = set()
    for config.augment.colour_scale in augment.COLOUR_SCALES:
        losses.update(loss_alone(config, small_net, batch))
    assert len(losses) == 2


def test_views_are_divided_as_the_config_says(config, small_net, batch):
    undivided = loss_alone(config, small_net, batch)
    config.augment.divisor = 1.1
    smaller = batch | {"image": (batch["image"].astype(np.float32) - IMAGENET.mean) / 1.1 + IMAGENET.mean}
    config.augment.colour_noise = 0.0
    divided = loss_alone(config, small_net, batch)
    config.augment.divisor = 1.0
    expected = loss_alone(config, small_net, smaller)
    assert divided == pytest.approx(expected, rel=1e-5) != undivided


def shares(net, params):
    """Each of two devices' share of NumPy parameters, along a new first axis."""

    def split(leaf, spec):
        return np.stack(np.split(leaf, 2, -1) if "model" in spec else [leaf, leaf])

    return jax.tree.map(split, params, sharding.param_specs(net, params))


def test_pmap_runs_the_same_function_with_the_same_numbers(config, small_net, batch):
    expected_loss = loss_alone(config, small_net, batch)
    params = jax.tree.map(np.asarray, first_state(config, small_net, mesh(1, 1))["params"])
    one_row = jax.vmap(  # pmap has one axis: 'data', of size 1, is a vmap's
        loss_of(config, small_net, 2),
        in_axes=(None, 0, None, None),
        out_axes=None,
        axis_name="data",
    )
    two_devices = jax.pmap(one_row, "model", in_axes=(0, None, None, None), devices=jax.devices()[:2])
    losses, _ = two_devices(shares(small_net, params), jax.tree.map(lambda x: x[None], batch), 3, True)
    np.testing.assert_allclose(losses, expected_loss * 2, rtol=1e-5)


def test_pmap_differentiates_the_same_function_to_the_same_numbers(small_net):
    # The differentiated value, a sum over a device's half of fc7, is private to the device. The training loss is
    # replicated: see the next test.
    params, (x, _) = witnesses.random_params(small_net), witnesses.random_batch(small_net, 4)

    def squares(apply, params):
        return (apply(params, x)[1]["fc7"] ** 2).sum()

    whole = functools.partial(squares, functools.partial(alexnet.forward, small_net, mesh(1, 1)))
    expected = shares(small_net, jax.tree.map(np.asarray, jax.jit(jax.grad(whole))(params)))
    share = functools.partial(squares, functools.partial(alexnet.apply, small_net, 2))
    found = jax.pmap(jax.grad(share), "model", devices=jax.devices()[:2])(shares(small_net, params))
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert "fc8" in jax.tree_util.keystr(path) or abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max(), err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_pmap_counts_a_replicated_loss_once_or_once_for_each_device(config, small_net, batch):
    # The right gradient is that of one loss: training differentiates outside shard_map, and test_alexnet compares it
    # with NumPy. pmap runs shard_map with check_vma=False. There, JAX from 0.12 on takes `all_gather(to="invarying")`,
    # before fc8, for a plain all_gather, whose transpose adds what both devices send back. The gradients of all layers
    # below fc8 are then those of the sum of both devices' losses, twice as large.
    _, expected = loss_and_grads(config, small_net, batch, 1, 1)
    params = jax.tree.map(np.asarray, first_state(config, small_net, mesh(1, 1))["params"])
    one_row = jax.vmap(
        loss_of(config, small_net, 2),
        in_axes=(None, 0, None, None),
        out_axes=None,
        axis_name="data",
    )
    gradient = jax.pmap(
        jax.grad(one_row, has_aux=True), "model", in_axes=(0, None, None, None), devices=jax.devices()[:2]
    )
    found, _ = gradient(shares(small_net, params), jax.tree.map(lambda x: x[None], batch), 3, True)
    last, expected = found.pop("fc8"), shares(small_net, expected)
    for a, b in zip(jax.tree.leaves(last), jax.tree.leaves(expected.pop("fc8")), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * abs(b).max())
    factor = round(float(np.linalg.norm(found["conv1"]["kernel"]) / np.linalg.norm(expected["conv1"]["kernel"])))
    assert factor in (1, 2)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=0, atol=1e-5 * factor * abs(b).max())
