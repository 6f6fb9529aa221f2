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

from alexnet_jax.model import fused, gpu_kernels, nets, norms, pools, spec, tpu_kernels
from alexnet_jax.runtime import sharding
from tests.references import numpy_net, witnesses

NET = nets.NETS["two_gpu"]
NORM = spec.Norm(size=5, alpha=0.1, k=2)


@pytest.fixture
def interpreted(monkeypatch):
    call = pl.pallas_call

    def interpret(*args, compiler_params, **kwargs):
        return call(*args, interpret=True, **kwargs)

    monkeypatch.setattr(pl, "pallas_call", interpret)


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


@pytest.mark.parametrize("kernels", [gpu_kernels, tpu_kernels])
@pytest.mark.parametrize(
    ("side", "ceil_mode", "norm", "towers"),
    [(9, True, NORM, 2)]
    + [
        pytest.param(*each, marks=pytest.mark.slow)
        for each in [(13, True, None, 1), (14, True, NORM, 1), (14, False, NORM, 2), (15, False, None, 2)]
    ],
)
def test_the_kernels_equal_numpy(kernels, side, ceil_mode, norm, towers, interpreted):
    count = spec.window_count(dataclasses.replace(NET, ceil_mode=ceil_mode), side, 3, 2)
    rng = np.random.default_rng(0)
    x, bias, grad = (
        jnp.array(rng.standard_normal(shape), jnp.float32)
        for shape in ((128, side, side, 16 * towers), (16 * towers,), (128, count, count, 16 * towers))
    )
    ours = computed(kernels, x, bias, grad, norm, count, towers)
    for name, one, other in zip(
        ("y", "dx", "dbias"), ours, expected(x, bias, grad, norm, ceil_mode, towers), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * np.max(abs(other)), err_msg=name)


@pytest.mark.parametrize("kernels", [gpu_kernels, tpu_kernels])
def test_equal_maxima_share_the_gradient_in_the_kernels(kernels, interpreted):
    rng = np.random.default_rng(0)  # integers: in nearly every window some are equal, and all numbers are exact
    x, grad = jnp.array(rng.integers(-2, 3, (128, 9, 9, 16)), jnp.bfloat16), jnp.ones((128, 4, 4, 16), jnp.bfloat16)
    bias = jnp.zeros(16, jnp.bfloat16)
    y, dx, _ = computed(kernels, x, bias, grad, None, 4, 1)
    y_numpy, dx_numpy, _ = expected(x, bias, grad, None, True, 1)
    np.testing.assert_array_equal(np.asarray(y, np.float64), y_numpy)
    np.testing.assert_allclose(np.asarray(dx, np.float64), dx_numpy, rtol=2**-8)
    assert len(np.unique(dx_numpy)) > 10  # thirds, quarters and their sums


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
    found = fused.find(NET, operations, x, towers)
    assert (found and found.args[0]) is kernels
    assert fused.find(dataclasses.replace(NET, pool=(2, 2)), operations, x, towers) is None


@pytest.mark.parametrize(("capability", "used"), [("7.5", False), ("8.0", True), ("10.0", True)])
def test_old_gpus_do_without_the_kernels(capability, used, monkeypatch):
    gpu = types.SimpleNamespace(platform="gpu", compute_capability=capability)
    monkeypatch.setattr(gpu_kernels.jax, "devices", lambda: [gpu])
    assert gpu_kernels.suits(image(1, 55, 96), 27, NORM, 2) == used


def test_gpus_do_without_the_kernels_where_jax_has_no_triton(monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "gpu")
    assert fused.find(NET, RELU_NORM_POOL, image(1, 55, 96), 2)
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    assert fused.find(NET, RELU_NORM_POOL, image(1, 55, 96), 2) is None


def test_the_platform_is_that_of_the_mesh():
    seen = []
    mesh = jax.make_mesh((1, 1), **sharding.AXES, devices=jax.devices()[:1])
    jax.shard_map(lambda x: seen.append(sharding.platform()) or x, mesh=mesh, in_specs=jax.P(), out_specs=jax.P())(
        jnp.zeros(1)
    )
    assert seen == ["cpu"] and sharding.platform() == "cpu"
