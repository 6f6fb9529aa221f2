"""`fused.relu_norm_pool` for TPUs, by Pallas.

Like the 2012 code, the kernels hold activations as [rows, columns, maps, images], the layout that XLA's convolutions
leave them in: images are the lanes of a register, and maps its rows. Pixels are addresses.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax.model import spec
from alexnet_jax.model.fused import like

LANES = 128  # of a register
INTERMEDIATES = 16  # arrays [maps, LANES], float32: more than the compilers for v2 to v6e were seen to need


def suits(x_BxHxWxC: jax.Array, count: int, norm: spec.Norm | None, towers: int) -> bool:
    """Whether the registers are full, and the gradient's blocks fit into the fast memory of the device."""
    B, side, _, C = x_BxHxWxC.shape
    if B % LANES or C // towers % 16:  # a register has 16 rows of numbers of 16 bits
        return False
    try:
        available = pltpu.get_tpu_info().vmem_capacity_bytes
    except ValueError:  # a TPU that this JAX does not know
        return False
    return _fast_memory(side, count, C // towers, x_BxHxWxC.dtype.itemsize) <= available


def _fast_memory(side, count, C, itemsize):
    # Bytes of the gradient's blocks, each twice because the next is loaded meanwhile, of what it keeps, and of
    # intermediates.
    blocks = 2 * 2 * side * itemsize + count * (itemsize + 2) + 2 * 4
    kept = -(-side // 2) * 8
    return (2 * blocks + kept + INTERMEDIATES * 4) * C * LANES


def forward(
    x_BxHxWxC: jax.Array, bias_C: jax.Array, count: int, norm: spec.Norm | None, towers: int
) -> tuple[list[jax.Array], jax.Array]:
    """Each tower's maxima, and for each window [count, count, C, B] a bit for each pixel that is a maximum, int16."""
    B, side, _, C = x_BxHxWxC.shape
    maps, pairs = C // towers, -(-side // 2)
    rows = pl.BlockSpec((2, side, maps, LANES), lambda t, b, r: (jnp.minimum(r, pairs - 1), 0, t, b))
    windows = pl.BlockSpec((1, count, maps, LANES), lambda t, b, r: (jnp.maximum(r - 1, 0), 0, t, b))
    shape = (count, count, C, B)
    y_HxWxCxB, maxima = pl.pallas_call(
        functools.partial(_forward_kernel, norm, side, count),
        grid=(towers, B // LANES, count + 1),
        in_specs=[rows, _bias_spec(maps)],
        out_specs=(windows, windows),
        out_shape=(like(x_BxHxWxC, shape, x_BxHxWxC.dtype), like(x_BxHxWxC, shape, jnp.int16)),
        scratch_shapes=_scratch(count, maps),
        compiler_params=_parameters(x_BxHxWxC, count, towers),
        name="relu_norm_pool",
    )(x_BxHxWxC.transpose(1, 2, 3, 0), bias_C[:, None].astype(jnp.float32))
    return jnp.split(y_HxWxCxB.transpose(3, 0, 1, 2), towers, axis=-1), maxima


def backward(
    x_BxHxWxC: jax.Array, bias_C: jax.Array, maxima: jax.Array, grads: list[jax.Array], norm: spec.Norm | None
) -> tuple[jax.Array, jax.Array]:
    """The gradients for x and the biases from those of the maxima."""
    B, side, _, C = x_BxHxWxC.shape
    towers = len(grads)
    count, maps, pairs = len(maxima), C // towers, -(-side // 2)
    rows = pl.BlockSpec((2, side, maps, LANES), lambda t, b, r: (r, 0, t, b))
    windows = pl.BlockSpec((1, count, maps, LANES), lambda t, b, r: (jnp.minimum(r, count - 1), 0, t, b))
    dx_HxWxCxB, dbias_CxB = pl.pallas_call(
        functools.partial(_backward_kernel, norm, side, count),
        grid=(towers, B // LANES, pairs),
        in_specs=[rows, _bias_spec(maps), windows, windows],
        out_specs=(rows, pl.BlockSpec((maps, LANES), lambda t, b, r: (t, b))),
        out_shape=(like(x_BxHxWxC, (side, side, C, B), x_BxHxWxC.dtype), like(x_BxHxWxC, (C, B), jnp.float32)),
        scratch_shapes=_scratch(pairs, maps),
        compiler_params=_parameters(x_BxHxWxC, count, towers),
        name="relu_norm_pool_gradient",
    )(
        x_BxHxWxC.transpose(1, 2, 3, 0),
        bias_C[:, None].astype(jnp.float32),
        maxima,
        jnp.concatenate(grads, axis=-1).transpose(1, 2, 3, 0),
    )
    return dx_HxWxCxB.transpose(3, 0, 1, 2), dbias_CxB.sum(1).astype(bias_C.dtype)


def _bias_spec(maps):
    return pl.BlockSpec((maps, 1), lambda t, b, r: (t, 0))


def _scratch(columns, maps):
    # The memory keeps its contents until the next pair of rows.
    return [pltpu.VMEM((columns, maps, LANES), dtype) for dtype in (jnp.float32, jnp.int32)]


def _parameters(x, count, towers):
    _, side, _, C = x.shape
    needed = _fast_memory(side, count, C // towers, x.dtype.itemsize)
    return pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=max(needed, 16 * 2**20)
    )


def _forward_kernel(norm, side, count, x_ref, bias_ref, y_ref, maxima_ref, y_scratch, maxima_scratch):
    # Step r has the pixels of rows 2r and 2r + 1. The windows of row r begin there, those of row r - 1 end there; until
    # then the scratch memory has their maximum and where it is.
    r = pl.program_id(2)

    def pixel(i, column):
        x_CxL = x_ref[i, jnp.minimum(column, side - 1)].astype(jnp.float32) + bias_ref[...]
        value = _normalised(x_CxL, norm)[0]
        inside = (2 * r + i < side) & (column < side)
        return jnp.where(inside, value.astype(y_ref.dtype).astype(jnp.float32), -jnp.inf)

    def extend(maximum, maxima, first_bit, pixels):
        for bit, value in enumerate(pixels, first_bit):
            maxima = jnp.where(value > maximum, 0, maxima) | jnp.where(value >= maximum, 1 << bit, 0)
            maximum = jnp.maximum(maximum, value)
        return maximum, maxima

    def column_of_windows(q, firsts):
        first, second = ((firsts[i], pixel(i, 2 * q + 1), pixel(i, 2 * q + 2)) for i in (0, 1))
        maximum, maxima = extend(y_scratch[q], maxima_scratch[q], 6, first)
        y_ref[0, q], maxima_ref[0, q] = maximum.astype(y_ref.dtype), maxima.astype(jnp.int16)
        maximum, maxima = extend(jnp.full_like(maximum, -jnp.inf), jnp.zeros_like(maxima), 0, first)
        y_scratch[q], maxima_scratch[q] = extend(maximum, maxima, 3, second)
        return first[2], second[2]

    lax.fori_loop(0, count, column_of_windows, (pixel(0, 0), pixel(1, 0)))


def _backward_kernel(
    norm, side, count, x_ref, bias_ref, maxima_ref, grad_ref, dx_ref, dbias_ref, grad_scratch, maxima_scratch
):
    # Step r has the pixels of rows 2r and 2r + 1, which the windows of rows r and r - 1 contain. The scratch memory
    # keeps the windows of row r - 1.
    r = pl.program_id(2)

    @pl.when(r == 0)
    def _():
        grad_scratch[...] = jnp.zeros_like(grad_scratch)
        maxima_scratch[...] = jnp.zeros_like(maxima_scratch)
        dbias_ref[...] = jnp.zeros_like(dbias_ref)

    def windows(q):
        # Gradient, shared by the maxima, and maxima, of the windows of rows r and r - 1 in column q.
        place = jnp.minimum(q, count - 1)
        maxima = jnp.where((q < count) & (r < count), maxima_ref[0, place].astype(jnp.int32), 0)
        shares = lax.population_count(maxima).astype(jnp.float32)
        grad = grad_ref[0, place].astype(jnp.float32) / jnp.maximum(shares, 1)
        above = grad_scratch[q], maxima_scratch[q]
        grad_scratch[q], maxima_scratch[q] = grad, maxima
        return (grad, maxima), above

    def column_of_pixels(q, left):
        here = windows(q)
        for i in (0, 1):
            for j in (0, 1):
                total = jnp.zeros_like(here[0][0])
                for down in range(2 - i):
                    for right in range(2 - j):
                        grad, maxima = (left if right else here)[down]
                        bit = 1 << (3 * (i + 2 * down) + j + 2 * right)
                        total += jnp.where(maxima & bit != 0, grad, 0)

                @pl.when((2 * q + j < side) & (2 * r + i < side))
                def _(total=total, i=i, j=j):
                    x_CxL = x_ref[i, 2 * q + j].astype(jnp.float32) + bias_ref[...]
                    dx_CxL = _gradient(x_CxL, norm, total)
                    dx_ref[i, 2 * q + j] = dx_CxL.astype(dx_ref.dtype)
                    dbias_ref[...] += dx_CxL

        return here

    nothing = jnp.zeros(grad_scratch.shape[1:], jnp.float32), jnp.zeros(grad_scratch.shape[1:], jnp.int32)
    lax.fori_loop(0, -(-side // 2), column_of_pixels, (nothing, nothing))


def _normalised(x_CxL, norm):
    # The norm of the ReLU, and 1 / scale and the 0.75th power of it.
    a = jnp.maximum(x_CxL, 0)
    if not norm:
        return a, 1.0, 1.0
    root = lax.rsqrt(norm.k + norm.alpha * _sums_over_maps(a * a, norm.size))
    factor = root * jnp.sqrt(root)
    return a * factor, root * root, factor


def _gradient(x_CxL, norm, grad):
    _, inverse, factor = _normalised(x_CxL, norm)
    if norm:
        grad *= factor
        grad -= 1.5 * norm.alpha * x_CxL * _sums_over_maps(grad * jnp.maximum(x_CxL, 0) * inverse, norm.size)
    return jnp.where(x_CxL > 0, grad, 0)


def _sums_over_maps(x_CxL, size):
    C = len(x_CxL)
    maps = lax.broadcasted_iota(jnp.int32, x_CxL.shape, 0)
    total = x_CxL
    for i in range(1, size // 2 + 1):
        total += jnp.where(maps >= i, pltpu.roll(x_CxL, i, 0), 0)
        total += jnp.where(maps < C - i, pltpu.roll(x_CxL, C - i, 0), 0)
    return total
