"""What accelerators compute otherwise than CPUs, beside NumPy. Pallas interprets its kernels here."""

import dataclasses
import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.model import alexnet, fused, gpu_kernels, nets, norms, operations, pools, spec, tpu_kernels
from alexnet_jax.runtime import sharding
from tests.references import numpy_net, witnesses
from tests.support import describe, mesh, on

NET = nets.NETS["two_gpu"]
NORM = spec.Norm(size=5, alpha=0.1, k=2)


@pytest.fixture(params=["gpu", "tpu"])
def kernels(request, monkeypatch):
    """The kernels for a platform, interpreted; for a TPU also what its memory holds before it is written."""
    call = pl.pallas_call
    interpret = True
    if request.param == "tpu":
        interpret = pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise")

    def pallas_call(*args, compiler_params, **kwargs):
        return call(*args, interpret=interpret, **kwargs)

    monkeypatch.setattr(pl, "pallas_call", pallas_call)
    return {"gpu": gpu_kernels, "tpu": tpu_kernels}[request.param]


def expected(x_BxHxWxC, bias_C, grad_BxHxWxC, norm, ceil_mode, towers):
    """The pool of the norm of the ReLU of x + bias, and the gradients of x and the biases, in float64."""
    window = {"window": 3, "stride": 2, "pad": 0, "average": False, "rounding": math.ceil if ceil_mode else math.floor}
    y, dx = [], []
    for x, bias, grad in zip(
        *(np.split(np.asarray(a, np.float64), towers, -1) for a in (x_BxHxWxC, bias_C, grad_BxHxWxC)), strict=True
    ):
        out, back_relu = numpy_net.relu(None, x + bias)
        back_norm = None
        if norm:
            out, back_norm = numpy_net.norm({"size": norm.size, "alpha": norm.alpha, "beta": 0.75, "k": norm.k}, out)
        out, back_pool = numpy_net.pool(window, out)
        y.append(out)
        grad = back_pool(grad)
        dx.append(back_relu(back_norm(grad) if back_norm else grad))
    dx_BxHxWxC = np.concatenate(dx, -1)
    return np.concatenate(y, -1), dx_BxHxWxC, dx_BxHxWxC.sum((0, 1, 2))


def computed(kernels, x, bias, grad, norm, count, towers):
    function = functools.partial(fused.relu_norm_pool, kernels, count, norm, towers)
    y, back = jax.vjp(function, x, bias)
    return np.concatenate(y, -1), *back(jnp.split(grad, towers, -1))


SIZES = {gpu_kernels: (2, 24), tpu_kernels: (256, 16)}  # images, maps: padded to 32 maps, two blocks of images


# The last window is clipped in both directions, or the last row and column of pixels are in none.
@pytest.mark.parametrize(
    ("side", "ceil_mode", "norm", "towers"),
    [(6, True, NORM, 2)]
    + [
        pytest.param(*each, marks=pytest.mark.slow)
        for each in [
            (7, True, None, 1),
            (6, False, NORM, 2),
            (5, True, dataclasses.replace(NORM, size=9), 1),
            (8, False, None, 2),
        ]
    ],
)
def test_the_kernels_equal_numpy(kernels, side, ceil_mode, norm, towers):
    B, C = SIZES[kernels]
    count = spec.window_count(dataclasses.replace(NET, ceil_mode=ceil_mode), side, 3, 2)
    rng = np.random.default_rng(0)
    x, bias, grad = (
        jnp.array(rng.standard_normal(shape), jnp.float32)
        for shape in ((B, side, side, C * towers), (C * towers,), (B, count, count, C * towers))
    )
    ours = computed(kernels, x, bias, grad, norm, count, towers)
    numbers = expected(x, bias, grad, norm, ceil_mode, towers)
    for name, one, other in zip(("y", "dx", "dbias"), ours, numbers, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * np.max(abs(other)), err_msg=name)


@pytest.mark.slow
def test_equal_maxima_share_the_gradient_in_the_kernels(kernels):
    B, C = SIZES[kernels]
    rng = np.random.default_rng(0)  # integers: in nearly every window some are equal, and all numbers are exact
    x, grad = jnp.array(rng.integers(-2, 3, (B, 7, 7, C)), jnp.bfloat16), jnp.ones((B, 3, 3, C), jnp.bfloat16)
    y, dx, _ = computed(kernels, x, jnp.zeros(C, jnp.bfloat16), grad, None, 3, 1)
    y_numpy, dx_numpy, _ = expected(x, np.zeros(C), grad, None, True, 1)
    np.testing.assert_array_equal(np.asarray(y, np.float64), y_numpy)
    np.testing.assert_allclose(np.asarray(dx, np.float64), dx_numpy, rtol=2**-8)
    assert len(np.unique(dx_numpy)) > 10  # thirds, quarters and their sums


def plain_forward(x, bias, count, norm, towers):
    def compute(a):
        a = operations.relu(a)
        return pools.pool_for_cpu(norms.norm_for_cpu(a, norm) if norm else a, NET)

    y, back = jax.vjp(lambda x, bias: [compute(a) for a in jnp.split(x + bias, towers, -1)], x, bias)
    return y, back


# Pallas cannot interpret a kernel under shard_map.
PLAIN = types.SimpleNamespace(
    suits=lambda *_: True, forward=plain_forward, backward=lambda x, bias, back, grads, norm: back(grads)
)


@pytest.mark.parametrize(("data", "model"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_the_net_around_the_kernels(data, model, monkeypatch):
    net = dataclasses.replace(describe("two_gpu", "paper", width=1 / 16, image_size=67), norm=NORM)
    params, (x, _) = witnesses.random_params(net), witnesses.random_batch(net, 4)
    params, x = on(mesh(data, model), net, params), sharding.put_batch(mesh(data, model), x)

    def results():
        def loss(params, x):
            logits, outputs = alexnet.forward(net, mesh(data, model), params, x)
            return (logits**2).sum(), outputs

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    plain, used = results(), []
    monkeypatch.setattr(fused, "_kernels", lambda platform: used.append(platform) or PLAIN)
    ours = results()
    assert len(used) == 7  # conv1 to fc7
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.max(abs(other))), ours, plain
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("two_gpu", "paper")]
    + [pytest.param(*each, marks=pytest.mark.slow) for each in [("two_gpu", "code"), ("no_overlap", "paper")]],
)
def test_every_layer_equals_numpy_as_accelerators_compute_it_without_kernels(name, kind, monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    monkeypatch.setattr(fused, "find", lambda *_: None)
    used = []
    for module, function in ((norms, "norm_for_accelerators"), (pools, "pool_for_accelerators")):
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *args, f=original: used.append(f) or f(*args))
    ahead, back = witnesses.beside_numpy(name, kind, nets.NETS[name].towers)
    assert len(set(used)) == 2
    for output, (ours, numbers) in (ahead | back).items():
        assert np.any(numbers), output
        np.testing.assert_allclose(ours, numbers, rtol=0, atol=3e-5 * np.max(abs(numbers)), err_msg=output)


def image(B, side, C, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct((B, side, side, C), dtype)


RELU_NORM_POOL = ["relu", "norm", "pool"]


@pytest.mark.parametrize(
    ("platform", "operations", "x", "towers", "kernels"),
    [
        ("gpu", RELU_NORM_POOL, image(1, 55, 96), 2, gpu_kernels),
        ("gpu", ["relu", "pool"], image(1, 13, 128), 1, gpu_kernels),
        ("gpu", RELU_NORM_POOL, image(1, 55, 96, jnp.float32), 2, None),
        ("gpu", RELU_NORM_POOL, image(1, 27, 256), 1, None),  # too many maps
        ("gpu", RELU_NORM_POOL, image(1, 13, 48), 1, None),  # too few columns
        ("tpu", RELU_NORM_POOL, image(128, 55, 96, jnp.float32), 2, tpu_kernels),
        ("tpu", RELU_NORM_POOL, image(64, 55, 96), 2, None),  # registers would be half empty
        ("tpu", RELU_NORM_POOL, image(128, 55, 24), 1, None),
        ("tpu", RELU_NORM_POOL, image(128, 227, 256), 1, None),  # the blocks do not fit
        ("tpu", ["tanh", "norm", "pool"], image(128, 55, 96), 2, None),
        ("tpu", ["relu", "pool", "norm"], image(128, 55, 96), 2, None),
        ("cpu", RELU_NORM_POOL, image(128, 55, 96), 2, None),
    ],
)
def test_which_kernels_are_used(platform, operations, x, towers, kernels, monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: platform)
    memory = types.SimpleNamespace(vmem_capacity_bytes=128 * 2**20)
    monkeypatch.setattr(tpu_kernels.pltpu, "get_tpu_info", lambda: memory)
    bias = jax.ShapeDtypeStruct(x.shape[3:], x.dtype)
    found = fused.find(NET, operations, x, bias, towers)
    assert (found and found.args[0]) is kernels
    assert fused.find(dataclasses.replace(NET, pool=(2, 2)), operations, x, bias, towers) is None
    assert fused.find(NET, operations, x, jax.ShapeDtypeStruct(x.shape[1:], x.dtype), towers) is None  # a Local layer
    even = dataclasses.replace(NET, norm=dataclasses.replace(NORM, size=4))
    assert "norm" not in operations or fused.find(even, operations, x, bias, towers) is None


@pytest.mark.parametrize(("capability", "used"), [("7.5", False), ("8.0", True), ("10.0", True), ("gfx90a", False)])
def test_old_gpus_do_without_the_kernels(capability, used, monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    monkeypatch.setattr(gpu_kernels.jax, "devices", lambda: [gpu])
    assert gpu_kernels.suits(image(1, 55, 96), 27, NORM, 2) == used


def test_gpus_do_without_the_kernels_where_jax_has_no_triton(monkeypatch):
    assert fused._kernels("gpu") is gpu_kernels
    monkeypatch.setattr(fused, "importlib", types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda _: None)))
    assert fused._kernels("gpu") is None


def test_unknown_tpus_do_without_the_kernels(monkeypatch):
    def get_tpu_info():
        raise ValueError("Unsupported TPU device kind")

    monkeypatch.setattr(tpu_kernels.pltpu, "get_tpu_info", get_tpu_info)
    assert not tpu_kernels.suits(image(128, 55, 96), 27, NORM, 2)


def test_the_platform_is_that_of_the_mesh():
    seen = []
    jax.shard_map(
        lambda x: seen.append(sharding.platform()) or x, mesh=mesh(1, 1), in_specs=jax.P(), out_specs=jax.P()
    )(jnp.zeros(1))
    assert seen == ["cpu"] and sharding.platform() == "cpu"
