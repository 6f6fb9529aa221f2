"""Local response normalisation, with gradients that are fast on CPU and on accelerators."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.model.spec import Norm
from alexnet_jax.runtime import sharding


def local_response_norm(x_BxHxWxC: jax.Array, norm: Norm) -> jax.Array:
    """b = a / (k + α · Σ a²)^0.75 over neighbouring maps of a tower (section 3.3 of the paper)."""
    return (norm_for_cpu if sharding.platform() == "cpu" else norm_for_accelerators)(x_BxHxWxC, norm)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def norm_for_cpu(x_BxHxWxC: jax.Array, norm: Norm) -> jax.Array:
    """`local_response_norm` in few operations: the gradient uses the sums of the forward pass."""
    return _forward_on_cpu(x_BxHxWxC, norm)[0]


def _forward_on_cpu(x, norm):
    # The power through square roots: much faster on CPU than a general one. The division comes last because XLA would
    # repeat a product for every window of the pool that follows.
    scale = norm.k + norm.alpha * _sums_over_maps(_bordered(x * x, norm.size), norm.size)
    root = jnp.sqrt(scale)
    return (x / (root * jnp.sqrt(root))).astype(x.dtype), (x, scale)


def _backward_on_cpu(norm, saved, grad):
    x, scale = saved
    root = jnp.sqrt(scale)
    grad = grad / (root * jnp.sqrt(root))
    sums = _sums_over_maps(_bordered((grad * x / scale).astype(x.dtype), norm.size), norm.size)
    return ((grad - 1.5 * norm.alpha * x * sums).astype(x.dtype),)


def _bordered(x_BxHxWxC, size):
    # Behind the barrier the windows are plain memory. Without it XLA tests for every number whether it is padding.
    return lax.optimization_barrier(_padded(x_BxHxWxC, size))


norm_for_cpu.defvjp(_forward_on_cpu, _backward_on_cpu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def norm_for_accelerators(x_BxHxWxC: jax.Array, norm: Norm) -> jax.Array:
    """`local_response_norm` in few bytes: XLA makes one kernel of it, and two of its gradient."""
    root = lax.rsqrt(_scale(x_BxHxWxC, norm, norm.alpha))
    return (x_BxHxWxC * root * jnp.sqrt(root)).astype(x_BxHxWxC.dtype)


def _forward(x, norm):
    return norm_for_accelerators(x, norm), x


def _backward(norm, x, grad):
    scale = _scale(x, norm, norm.alpha)
    root = lax.rsqrt(scale)
    # The first kernel ends here. Behind the barrier XLA cannot see that this is the same alpha. Otherwise it would
    # store the scale, as float32, instead of computing it again.
    part, alpha = lax.optimization_barrier(((grad * root * jnp.sqrt(root) / scale).astype(x.dtype), norm.alpha))
    sums = _sums_over_maps(_padded(part.astype(jnp.float32) * x, norm.size), norm.size)
    return ((part * _scale(x, norm, alpha) - 1.5 * norm.alpha * x * sums).astype(x.dtype),)


def _scale(x, norm, alpha):
    x = _padded(x.astype(jnp.float32), norm.size)
    return norm.k + _sums_over_maps(alpha * x * x, norm.size)


norm_for_accelerators.defvjp(_forward, _backward)


def _padded(x_BxHxWxC, size):
    return jnp.pad(x_BxHxWxC, ((0, 0), (0, 0), (0, 0), (size // 2, size // 2)))


def _sums_over_maps(padded_BxHxWxC, size):
    # Of `size` neighbours, in float32.
    C = padded_BxHxWxC.shape[-1] - size // 2 * 2
    return sum(padded_BxHxWxC[..., i : i + C].astype(jnp.float32) for i in range(size))


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
