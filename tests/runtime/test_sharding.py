"""What crosses between devices, and that no mesh changes the numbers."""

import collections
import functools
import logging
import math
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.data import augment
from alexnet_jax.data.base import IMAGENET
from alexnet_jax.model import alexnet, nets
from alexnet_jax.runtime import sharding
from experiments.benchmarks import communication
from tests.references import witnesses
from tests.support import compiled_step, first_state, jitted_step, loss_of, mesh


def abstract(net, on_mesh, batch):
    params = jax.eval_shape(functools.partial(alexnet.init, net), jax.random.key(0))
    shardings = sharding.param_shardings(on_mesh, net, params)
    params = jax.tree.map(lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s), params, shardings)
    images = jax.ShapeDtypeStruct(
        (batch, net.image_size, net.image_size, 3), jnp.float32, sharding=jax.NamedSharding(on_mesh, sharding.BATCH)
    )
    return params, images


def between_towers(function, net, on_mesh):
    """The operations over 'model' in what JAX hands to the compiler, a witness beside the compiled program's text."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            axes = equation.params.get("axes", equation.params.get("axis_name", ()))
            name = str(equation.primitive).removesuffix("_invariant")
            if "model" in (axes if isinstance(axes, tuple) else (axes,)) and name not in ("pvary", "axis_index"):
                yield name
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(inner, "eqns"):
                    yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*abstract(net, on_mesh, 2)).jaxpr))


# What a device has after each gather, per image: the inputs of conv3, fc6, fc7 and fc8.
GATHERED = [4 * 13 * 13 * 256, 4 * 6 * 6 * 256, 4 * 4096, 4 * 4096]


@pytest.mark.parametrize(("data", "towers"), [(1, [(0, 1)]), (2, [(0, 1), (2, 3)])])
def test_forward_program_has_the_papers_four_gathers_and_nothing_else(data, towers):
    net, on_mesh = nets.NETS["two_gpu"], mesh(data, 2)
    compiled = (
        jax.jit(functools.partial(alexnet.forward, net, on_mesh)).lower(*abstract(net, on_mesh, 2 * data)).compile()
    )
    found = communication.collectives(compiled)
    assert found == [("all-gather", 2 * size, towers) for size in GATHERED]
    assert between_towers(functools.partial(alexnet.forward, net, on_mesh), net, on_mesh) == ["all_gather"] * 4


def test_backward_program_returns_three_gradients_to_the_other_tower():
    # fc8 is computed on both devices, so the gradient of its input needs no exchange.
    net, on_mesh = nets.NETS["two_gpu"], mesh(1, 2)

    def loss(params, x):
        return alexnet.forward(net, on_mesh, params, x)[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(*abstract(net, on_mesh, 2)).compile()
    found = [(op, size) for op, size, groups in communication.collectives(compiled) if len(groups[0]) > 1]
    assert sorted(found) == sorted(
        [("all-gather", 2 * size) for size in GATHERED] + [("reduce-scatter", size) for size in GATHERED[:3]]
    )
    assert between_towers(jax.grad(loss), net, on_mesh) == ["all_gather"] * 4 + ["reduce_scatter"] * 3


def test_a_training_step_moves_the_bytes_of_the_papers_wiring_and_of_the_gradients_and_no_more(config):
    config.model.width = 1 / 8
    net = nets.from_config(config.model)
    found = communication.collectives(communication.step_program(config, mesh(2, 2)))
    rows, least = [(0, 2), (1, 3)], communication.least_between_towers(net)
    for op, size in least.items():  # of the four examples in a row
        assert sum(communication.received(o, n, 2) for o, n, groups in found if o == op) == 4 * size
        assert all(groups == [(0, 1), (2, 3)] for o, _, groups in found if o == op)
    params = jax.eval_shape(functools.partial(alexnet.init, net), jax.random.key(0))
    sizes = {name: sum(math.prod(p.shape) for p in layer.values()) for name, layer in params.items()}
    gradients = 4 * (sum(sizes.values()) + sizes["fc8"]) // 2  # fc8 is on both devices
    rest = [(op, size, groups) for op, size, groups in found if op not in least]
    assert {(op, tuple(groups)) for op, _, groups in rest} == {("all-reduce", tuple(rows))}
    assert sum(size for _, size, _ in rest) == gradients + communication.METRICS


def test_the_least_between_towers_of_the_papers_net():
    # By hand: half of the maps before conv3 and fc6, half of the units before fc7 and fc8.
    maps, pooled, units = 13 * 13 * 128, 6 * 6 * 128, 2048
    expected = {"all-gather": 4 * (maps + pooled + 2 * units), "reduce-scatter": 4 * (maps + pooled + units)}
    assert communication.least_between_towers(nets.NETS["two_gpu"]) == expected


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [(0, 1), (2, 3)]),
        ("{{0},{1}}", [(0,), (1,)]),
        ("[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("[2,2]<=[2,2]T(1,0)", [(0, 2), (1, 3)]),
        ("mesh['data'=2,'model'=2] {'model'}", [(0, 1), (2, 3)]),
        ("mesh['data'=2,'model'=2] {'data'}", [(0, 2), (1, 3)]),
        ("mesh['data'=1,'model'=2] {'data'}", [(0,), (1,)]),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [(0, 1, 4, 5), (2, 3, 6, 7)]),
    ],
)
def test_groups_of_devices_are_read(text, groups):
    assert communication.device_groups(text) == groups


def test_collectives_in_two_halves_are_read():
    text = """
  %g = (f32[1,8]{1,0}, f32[2,8]{1,0}) all-gather-start(%x), channel_id=1, replica_groups={{0,1}}, dimensions={0}
  %d = f32[2,8]{1,0} all-gather-done(%g)
  %s = bf16[4]{0} all-reduce-start(%y), channel_id=2, replica_groups=[1,2]<=[2], to_apply=%add
"""
    assert communication.read_collectives(text) == [("all-gather", 64, [(0, 1)]), ("all-reduce", 8, [(0, 1)])]
    with pytest.raises(ValueError, match="a collective of the compiled program"):
        communication.read_collectives("  %p = f32[4]{0} collective-permute(%x), source_target_pairs={{0,1}}")


@pytest.mark.parametrize("text", ["", "{}", "{0,1}", "mesh['a'=4] {'a':(1)2}", "mesh['a'=2], device_ids=([2]) {'a'}"])
def test_groups_of_devices_in_another_notation_are_an_error(text):
    with pytest.raises(ValueError, match="a notation that is not known here"):
        communication.device_groups(text)


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


def test_xla_computes_convolutions_on_cpu_itself():
    # By default a library does, which takes up to four times as long for the gradients of kernels.
    def gradient(x, kernel):
        def total(kernel):
            return jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ).sum()

        return jax.grad(total)(kernel)

    shapes = jax.ShapeDtypeStruct((64, 13, 13, 192), jnp.float32), jax.ShapeDtypeStruct((3, 3, 192, 128), jnp.float32)
    options = sharding.compiler_options(mesh(1, 1))
    assert "ynn" in jax.jit(gradient).lower(*shapes).compile().as_text()
    assert "ynn" not in jax.jit(gradient, compiler_options=options).lower(*shapes).compile().as_text()


@pytest.fixture
def batch(small_net):
    rng = np.random.default_rng(0)
    size = small_net.image_size * 8 // 7
    images = rng.integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    return {"image": images, "label": rng.integers(0, 5, 8).astype(np.int32)}


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


def test_mesh_takes_what_the_config_says():
    assert dict(sharding.create_mesh(-1, 2, towers=2).shape) == {"data": 2, "model": 2}
    assert dict(sharding.create_mesh(1, 2, towers=2).shape) == {"data": 1, "model": 2}
    assert dict(sharding.create_mesh(-1, 1, towers=1).shape) == {"data": 4, "model": 1}


@pytest.mark.parametrize(
    ("data", "model", "towers", "message"),
    [(4, 2, 2, "needs 8 devices and there are 4"), (0, 1, 2, "data=0"), (-1, 3, 2, "model=3"), (-1, 2, 1, "1 tower")],
)
def test_impossible_meshes_are_refused(data, model, towers, message):
    with pytest.raises(UserError, match=message):
        sharding.create_mesh(data, model, towers)


def test_both_towers_run_on_one_device_where_there_is_only_one(monkeypatch, caplog):
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with caplog.at_level(logging.INFO, "alexnet_jax"):
        assert dict(sharding.create_mesh(-1, 2, towers=2).shape) == {"data": 1, "model": 1}
    assert "all towers run on each device" in caplog.text


@pytest.mark.parametrize(
    ("environment", "count"),
    [({}, 2), ({"JAX_NUM_CPU_DEVICES": "1"}, 1), ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3)],
)
def test_cpu_machines_get_two_devices_unless_told_otherwise(environment, count):
    code = "import jax; from alexnet_jax.runtime import sharding\n"
    code += "sharding.provide_cpu_devices(2); print(len(jax.devices()))"
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    out = subprocess.run([sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True)
    assert out.stdout.strip() == str(count), out.stderr


def test_devices_that_jax_has_made_stay_and_a_warning_says_so():
    code = "import jax; from alexnet_jax.runtime import sharding; jax.devices(); sharding.provide_cpu_devices(2)"
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "JAX has already started with 1 CPU device(s); restart Python to get 2\n"


def test_rows_of_a_batch():
    assert sharding.owned_rows(mesh(2, 2), 8) == slice(0, 8)
    with pytest.raises(UserError, match="multiple of the mesh's 4 data rows"):
        sharding.owned_rows(mesh(4, 1), 6)
    placed = sharding.put_batch(mesh(2, 2), np.arange(8))
    assert [shard.data.tolist() for shard in placed.addressable_shards] == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2
