"""What crosses between devices, by the compiled program, and what a mesh may be."""

import functools
import logging
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import UserError
from alexnet_jax.model import alexnet, nets
from alexnet_jax.runtime import sharding
from experiments.benchmarks import communication
from tests.support import mesh


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


# A value of each of `sharding.NUMERICS` that is not ours.
OTHER_NUMERICS = {
    "jax_default_prng_impl": "rbg",
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_random_seed_offset": 5,
    "jax_threefry_partitionable": False,
}


@pytest.mark.parametrize("name", sharding.NUMERICS)
def test_settings_of_jax_that_change_numbers_are_refused(name):
    try:
        jax.config.update(name, OTHER_NUMERICS[name])
        with pytest.raises(UserError, match=f"{name} is .*; call jax.config.update"):
            sharding.create_mesh(1, 1, towers=2)
    finally:
        jax.config.update(name, sharding.NUMERICS[name])


def test_the_environment_does_not_change_the_random_numbers_of_a_command():
    code = (
        "from alexnet_jax.runtime import command_line; command_line.set_up_jax()\n"
        "import jax; x = jax.random.normal(jax.random.key(1), (3,)); print(x.dtype, x.tolist())"
    )
    numbers = jax.random.normal(jax.random.key(1), (3,))
    environment = os.environ | {name.upper(): str(value) for name, value in OTHER_NUMERICS.items()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == f"float32 {numbers.tolist()}\n", done.stderr


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
