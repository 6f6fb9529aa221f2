"""Pools, whose last windows are clipped at the edge, with a gradient that is fast on CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model import spec


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x_BxHxWxC: jax.Array, net: spec.Net) -> jax.Array:
    """The maximum of each window, the last one clipped at the edge (section 3.4). Equal maxima share the gradient."""
    (size, stride), side = net.pool, x_BxHxWxC.shape[1]
    overhang = spec.overhang(side, size, stride, spec.window_count(net, side, size, stride))
    x = x_BxHxWxC
    for axis in (1, 2):
        window, strides, padding = [1] * 4, [1] * 4, [(0, 0)] * 4
        window[axis], strides[axis], padding[axis] = size, stride, (0, overhang)
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return x


def _forward(x, net):
    y = max_pool(x, net)
    return y, (x, y)


def _backward(net, saved, grad):
    # The gradient of `lax.reduce_window` is many times slower on CPU: this one is a pass over the input.
    x, y = saved
    size, stride = net.pool
    side, count = x.shape[1], y.shape[1]
    grad = grad / sum((window == y).astype(x.dtype) for window in _windows(x, net, -jnp.inf))
    last = -(-side // stride)  # windows, one for every stride; those after `count` do not exist

    def to_pixels(windows, down, right):
        # For every pixel, the value of the window that lies `down` rows and `right` columns of windows before the last
        # window that contains the pixel.
        pads = [(before, max(0, last - count - before)) for before in (down, right)]
        shifted = jnp.pad(windows, ((0, 0), *pads, (0, 0)))[:, :last, :last, None]
        B, H, W, _, C = shifted.shape
        spread = jnp.broadcast_to(shifted[:, :, None], (B, H, stride, W, stride, C))
        return spread.reshape(B, H * stride, W * stride, C)[:, :side, :side]

    inside = [jnp.arange(side) % stride + before * stride < size for before in range(-(-size // stride))]
    total: jax.Array | int = 0
    for down, rows in enumerate(inside):
        for right, columns in enumerate(inside):
            chosen = (rows[:, None] & columns)[:, :, None] & (x == to_pixels(y, down, right))
            total += jnp.where(chosen, to_pixels(grad, down, right), 0)
    return (total,)


max_pool.defvjp(_forward, _backward)


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
