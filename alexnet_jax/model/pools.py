"""Pools, whose last windows are clipped at the edge, with gradients that are fast on CPU and on accelerators."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model import spec
from alexnet_jax.runtime import sharding

LARGEST_WINDOW = 4  # for accelerators: each pixel of a window has one of 16 bits


def max_pool(x_BxHxWxC: jax.Array, net: spec.Net) -> jax.Array:
    """The maximum of each window, the last one clipped at the edge (section 3.4). Equal maxima share the gradient."""
    if sharding.platform() == "cpu" or net.pool[0] > LARGEST_WINDOW:
        return pool_for_cpu(x_BxHxWxC, net)
    return pool_for_accelerators(x_BxHxWxC, net, x_BxHxWxC.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def pool_for_cpu(x_BxHxWxC: jax.Array, net: spec.Net) -> jax.Array:
    """`max_pool` in few operations."""
    (size, stride), side = net.pool, x_BxHxWxC.shape[1]
    overhang = spec.overhang(side, size, stride, spec.window_count(net, side, size, stride))
    x = x_BxHxWxC
    for axis in (1, 2):
        window, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
        window[axis], strides[axis], padding[axis] = size, stride, (0, overhang)
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return x


def _forward_on_cpu(x, net):
    y = pool_for_cpu(x, net)
    return y, (x, y)


def _backward_on_cpu(net, saved, grad):
    # The gradient of `lax.reduce_window` is many times slower on CPU: this one is a pass over the input.
    x, y = saved
    grad = grad / sum((window == y).astype(x.dtype) for window in _windows(x, net, -jnp.inf))
    total: jax.Array | int = 0
    for inside, _, to_pixels in _windows_around(net, x.shape[1], y.shape[1]):
        total += jnp.where(inside[:, :, None] & (x == to_pixels(y)), to_pixels(grad), 0)
    return (total,)


pool_for_cpu.defvjp(_forward_on_cpu, _backward_on_cpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def pool_for_accelerators(x_BxHxWxC: jax.Array, net: spec.Net, side: int) -> jax.Array:
    """`max_pool` of `side` × `side` pixels in few bytes: its gradient needs only where the maxima are."""
    return functools.reduce(jnp.maximum, _windows(x_BxHxWxC, net, -jnp.inf))


def _forward(x, net, side):
    windows = _windows(x, net, -jnp.inf)
    y = functools.reduce(jnp.maximum, windows)
    # A bit for each pixel of a window. The barrier has both computed by one kernel.
    maxima = sum((window == y).astype(jnp.uint16) << bit for bit, window in enumerate(windows))
    return lax.optimization_barrier((y, maxima))


def _backward(net, side, maxima, grad):
    grad = grad / lax.population_count(maxima).astype(grad.dtype)
    total: jax.Array | int = 0
    for inside, bit, to_pixels in _windows_around(net, side, grad.shape[1]):
        chosen = inside[:, :, None] & (to_pixels(maxima) >> bit[:, :, None] & 1 == 1)
        total += jnp.where(chosen, to_pixels(grad), 0)
    return (total,)


pool_for_accelerators.defvjp(_forward, _backward)


def _windows_around(net, side, count):
    # For the windows that can contain a pixel, from the last: which pixels [side, side] they contain; the number of
    # the pixel in its window; and a function from a value for every window to that of each pixel's window.
    size, stride = net.pool
    last = -(-side // stride)  # windows, one for every stride; those after `count` do not exist

    def to_pixels(down, right, windows):
        # The window that lies `down` rows and `right` columns of windows before the last one that contains the pixel.
        pads = [(before, max(0, last - count - before)) for before in (down, right)]
        shifted = jnp.pad(windows, ((0, 0), *pads, (0, 0)))[:, :last, :last, None]
        B, H, W, _, C = shifted.shape
        spread = jnp.broadcast_to(shifted[:, :, None], (B, H, stride, W, stride, C))
        return spread.reshape(B, H * stride, W * stride, C)[:, :side, :side]

    places = [jnp.arange(side) % stride + before * stride for before in range(-(-size // stride))]
    for down, rows in enumerate(places):
        for right, columns in enumerate(places):
            inside = (rows < size)[:, None] & (columns < size)
            yield inside, rows[:, None] * size + columns, functools.partial(to_pixels, down, right)


def average_pool(x_BxHxWxC: jax.Array, net: spec.Net) -> jax.Array:
    """The mean of each window's pixels, without those over the edge."""
    inside = jnp.ones((1, *x_BxHxWxC.shape[1:3], 1), x_BxHxWxC.dtype)
    return sum(_windows(x_BxHxWxC, net, 0)) / sum(_windows(inside, net, 0))


def _windows(x_BxHxWxC, net, fill):
    # One array for each pixel of a window: the first pixel of every window, the second, …
    (size, stride), side = net.pool, x_BxHxWxC.shape[1]
    count = spec.window_count(net, side, size, stride)
    overhang, span = spec.overhang(side, size, stride, count), stride * (count - 1) + 1
    x = jnp.pad(x_BxHxWxC, ((0, 0), (0, overhang), (0, overhang), (0, 0)), constant_values=fill)
    return [x[:, i : i + span : stride, j : j + span : stride] for i in range(size) for j in range(size)]
