"""Local response normalisation, with a gradient that is fast on CPU."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model.spec import Norm


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def local_response_norm(x_BxHxWxC: jax.Array, norm: Norm) -> jax.Array:
    """b = a / (k + α · Σ a²)^0.75 over neighbouring maps of a tower (section 3.3 of the paper)."""
    return _forward(x_BxHxWxC, norm)[0]


def _forward(x, norm):
    # The power through square roots: much faster on CPU than a general one. The division comes last because XLA would
    # repeat a product for every window of the pool that follows.
    scale = norm.k + norm.alpha * _sums_over_maps(x * x, norm.size)
    root = jnp.sqrt(scale)
    return (x / (root * jnp.sqrt(root))).astype(x.dtype), (x, scale)


def _backward(norm, saved, grad):
    x, scale = saved
    root = jnp.sqrt(scale)
    grad = grad / (root * jnp.sqrt(root))
    sums = _sums_over_maps((grad * x / scale).astype(x.dtype), norm.size)
    return ((grad - 1.5 * norm.alpha * x * sums).astype(x.dtype),)


def _sums_over_maps(x_BxHxWxC, size):
    # Behind the barrier the windows are plain memory. Without it XLA tests for every number whether it is padding.
    C, border = x_BxHxWxC.shape[-1], size // 2
    padded = lax.optimization_barrier(jnp.pad(x_BxHxWxC, ((0, 0), (0, 0), (0, 0), (border, border))))
    return sum(padded[..., i : i + C].astype(jnp.float32) for i in range(size))


local_response_norm.defvjp(_forward, _backward)


def same_map_norm(x_BxHxWxC: jax.Array, norm: Norm) -> jax.Array:
    """b = a / (k + α · Σ a²)^0.75 over size × size positions of the same map, clipped at the edge.

    Not in the paper: the 2012 code has it between the norm and the pool of its second layer.
    """
    rows, columns = (
        (abs(jnp.arange(side)[:, None] - jnp.arange(side)) <= norm.size // 2).astype(jnp.float32)
        for side in x_BxHxWxC.shape[1:3]
    )
    squares = x_BxHxWxC * x_BxHxWxC
    # HIGHEST, because GPUs and TPUs would round the squares.
    sums = jnp.einsum(
        "bhwc,hi,wj->bijc",
        squares,
        rows,
        columns,
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    root = lax.rsqrt(norm.k + norm.alpha * sums)
    return (x_BxHxWxC * root * jnp.sqrt(root)).astype(x_BxHxWxC.dtype)
