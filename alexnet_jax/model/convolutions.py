"""The convolutions of the layers, and the addition of biases."""

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.runtime import sharding

Padding = tuple[tuple[int, int], tuple[int, int]]  # before and after: rows, columns


def convolve(stride: int, padding: Padding, groups: int, x_BxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution; `groups` are groups within a tower."""
    # One ordinary convolution for each group: XLA's grouped convolution trains four times slower on CPU.
    inputs, kernels = jnp.split(x_BxHxWxC, groups, axis=-1), jnp.split(kernel, groups, axis=-1)
    dims, strides = ("NHWC", "HWIO", "NHWC"), (stride, stride)
    outputs = [
        lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=dims)
        for x, k in zip(inputs, kernels, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


def locally_connected(padding: Padding, x_BxHxWxC: jax.Array, kernel: jax.Array) -> jax.Array:
    """A convolution of stride 1 with a separate kernel at every position: kernel [H, W, size, size, in, out].

    The 2012 code has it in two nets for CIFAR-10.
    """
    H, W, size = kernel.shape[:3]
    x = jnp.pad(x_BxHxWxC, ((0, 0), *padding, (0, 0)))
    windows = [x[:, i : i + H, j : j + W] for i in range(size) for j in range(size)]
    kernel_HxWxKxCxO = kernel.reshape(H, W, size * size, *kernel.shape[4:])
    return jnp.einsum("bhwkc,hwkco->bhwo", jnp.stack(windows, 3), kernel_HxWxKxCxO)


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias to every map or unit, or in a locally connected layer to every position of every map."""
    if x.ndim == 2 or bias.ndim > 1 or sharding.platform() != "cpu":
        return x + bias
    # To whole rows of maps: on CPU, XLA is slow to sum the gradient over many short rows.
    B, H, W, C = x.shape
    return (x.reshape(B * H, W * C) + jnp.tile(bias, W)).reshape(x.shape)
