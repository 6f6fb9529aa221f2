"""`fused.relu_norm_pool` for GPUs, by Pallas and Triton.

An instance of a kernel works on one row of windows, or two rows of pixels, of an image: a block of columns × maps, as
large as the next powers of two. A sum over neighbouring maps is a product with a matrix of zeros and ones.
"""

import functools
import re

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from alexnet_jax.model import spec
from alexnet_jax.model.fused import like


def suits(x_BxHxWxC: jax.Array, count: int, norm: spec.Norm | None, towers: int) -> bool:
    """Whether a block is large enough for Triton's products and small enough for the registers, and the GPU new enough.

    Triton multiplies bfloat16 on NVIDIA's GPUs of compute capability 8.0 (Ampere, 2020) and later.
    """
    _, side, _, C = x_BxHxWxC.shape
    columns, pairs, maps = map(pl.next_power_of_2, (count, -(-side // 2), C // towers))
    return (
        x_BxHxWxC.dtype == jnp.bfloat16
        and all(re.match(r"[89]|\d\d", d.compute_capability) for d in jax.devices() if d.platform == "gpu")
        and (norm is None or columns >= 16)
        and pairs <= 32
        and 16 <= maps <= 128
    )


def forward(
    x_BxHxWxC: jax.Array, bias_C: jax.Array, count: int, norm: spec.Norm | None, towers: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Each tower's maxima, and for each window [B, count, count, C] a bit for each pixel that is a maximum, int16."""
    B, side, _, C = x_BxHxWxC.shape
    shape = (B, count, count, C // towers)
    y = [like(x_BxHxWxC, shape, x_BxHxWxC.dtype)] * towers
    maxima = [like(x_BxHxWxC, shape, jnp.int16)] * towers
    return pl.pallas_call(
        functools.partial(_forward_kernel, norm, side, count),
        grid=(B, count),
        out_shape=(y, maxima),
        compiler_params=plgpu.CompilerParams(num_warps=8),
        name="relu_norm_pool",
    )(x_BxHxWxC, bias_C)


def backward(
    x_BxHxWxC: jax.Array, bias_C: jax.Array, maxima: list[jax.Array], grads: list[jax.Array], norm: spec.Norm | None
) -> tuple[jax.Array, jax.Array]:
    """The gradients for x and the biases from those of the maxima."""
    B, side, _, C = x_BxHxWxC.shape
    pairs = -(-side // 2)
    dx_BxHxWxC, dbias_BxHxC = pl.pallas_call(
        functools.partial(_backward_kernel, norm, side, maxima[0].shape[1]),
        grid=(B, pairs),
        out_shape=(like(x_BxHxWxC, x_BxHxWxC.shape, x_BxHxWxC.dtype), like(x_BxHxWxC, (B, pairs, C), jnp.float32)),
        compiler_params=plgpu.CompilerParams(num_warps=8),
        name="relu_norm_pool_gradient",
    )(x_BxHxWxC, bias_C, maxima, grads)
    return dx_BxHxWxC, dbias_BxHxC.sum((0, 1)).astype(bias_C.dtype)


def _forward_kernel(norm, side, count, x_ref, bias_ref, y_refs, maxima_refs):
    b, p = pl.program_id(0), pl.program_id(1)
    C = y_refs[0].shape[3]
    q = jnp.arange(pl.next_power_of_2(count))[:, None]
    c = jnp.arange(pl.next_power_of_2(C))[None]
    for tower, (y_ref, maxima_ref) in enumerate(zip(y_refs, maxima_refs, strict=True)):
        maps = tower * C + c
        bias = plgpu.load(bias_ref.at[maps], mask=c < C, other=0)
        maximum = jnp.full((q.size, c.size), -jnp.inf, jnp.float32)
        maxima = jnp.zeros((q.size, c.size), jnp.int32)
        for i in range(3):
            for j in range(3):
                row, column = 2 * p + i, 2 * q + j
                inside = (row < side) & (column < side) & (c < C)
                x = plgpu.load(x_ref.at[b, row, column, maps], mask=inside, other=0)
                value = _normalised(x + bias, norm)[0].astype(x.dtype).astype(jnp.float32)
                value = jnp.where(inside, value, -jnp.inf)
                bit = 1 << (3 * i + j)
                maxima = jnp.where(value > maximum, 0, maxima) | jnp.where(value >= maximum, bit, 0)
                maximum = jnp.maximum(maximum, value)
        mask = (q < count) & (c < C)
        plgpu.store(y_ref.at[b, p, q, c], maximum.astype(y_ref.dtype), mask=mask)
        plgpu.store(maxima_ref.at[b, p, q, c], maxima.astype(jnp.int16), mask=mask)


def _backward_kernel(norm, side, count, x_ref, bias_ref, maxima_refs, grad_refs, dx_ref, dbias_ref):
    b, r = pl.program_id(0), pl.program_id(1)
    C = grad_refs[0].shape[3]
    q = jnp.arange(pl.next_power_of_2(-(-side // 2)))[:, None]
    c = jnp.arange(pl.next_power_of_2(C))[None]

    def windows(maxima_ref, grad_ref, down, right):
        # Of the windows `down` rows and `right` columns before those that begin at the pixels.
        row, column = r - down, q - right
        mask = (row >= 0) & (row < count) & (column >= 0) & (column < count) & (c < C)
        maxima = plgpu.load(maxima_ref.at[b, row, column, c], mask=mask, other=0).astype(jnp.int32)
        grad = plgpu.load(grad_ref.at[b, row, column, c], mask=mask, other=0).astype(jnp.float32)
        return grad / jnp.maximum(lax.population_count(maxima), 1).astype(jnp.float32), maxima

    for tower, refs in enumerate(zip(maxima_refs, grad_refs, strict=True)):
        maps = tower * C + c
        bias = plgpu.load(bias_ref.at[maps], mask=c < C, other=0)
        around = {(down, right): windows(*refs, down, right) for down in (0, 1) for right in (0, 1)}
        dbias = jnp.zeros((c.size,), jnp.float32)
        for i in (0, 1):
            for j in (0, 1):
                total = jnp.zeros((q.size, c.size), jnp.float32)
                for down in range(2 - i):
                    for right in range(2 - j):
                        grad, maxima = around[down, right]
                        bit = 1 << (3 * (i + 2 * down) + j + 2 * right)
                        total += jnp.where(maxima & bit != 0, grad, 0)
                row, column = 2 * r + i, 2 * q + j
                inside = (row < side) & (column < side) & (c < C)
                x = plgpu.load(x_ref.at[b, row, column, maps], mask=inside, other=0)
                dx = _gradient(x + bias, norm, total)
                plgpu.store(dx_ref.at[b, row, column, maps], dx.astype(x.dtype), mask=inside)
                dbias += dx.sum(0)
        plgpu.store(dbias_ref.at[b, r, tower * C + jnp.arange(c.size)], dbias, mask=jnp.arange(c.size) < C)


def _normalised(x, norm):
    a = jnp.maximum(x, 0)
    if not norm:
        return a.astype(jnp.float32), 1.0, 1.0
    root = lax.rsqrt(norm.k + norm.alpha * _sums_over_maps(a * a, norm.size))
    factor = root * jnp.sqrt(root)
    return a.astype(jnp.float32) * factor, root * root, factor


def _gradient(x, norm, grad):
    _, inverse, factor = _normalised(x, norm)
    if norm:
        grad *= factor
        sums = _sums_over_maps((grad * jnp.maximum(x, 0).astype(jnp.float32) * inverse).astype(x.dtype), norm.size)
        grad -= 1.5 * norm.alpha * x.astype(jnp.float32) * sums
    return jnp.where(x > 0, grad, 0)


def _sums_over_maps(x, size):
    # A map that is not finite makes the sums of all maps NaN.
    c = jnp.arange(x.shape[1])
    near = (abs(c[:, None] - c) <= size // 2).astype(x.dtype)
    return jnp.dot(x, near, preferred_element_type=jnp.float32)
