"""ReLU, norm and overlapping pool after a convolution as one kernel, forward and backward.

Between the convolutions of the net, an accelerator waits for its memory. XLA makes several kernels of these operations,
each of which reads and writes the memory. The kernel here reads the output of the convolution and writes that of the
pool, and where each window has its maxima; the gradient reads these. Both are written in Pallas, for GPUs
(gpu_kernels.py) and for TPUs (tpu_kernels.py). `find` is the one place that chooses them; elsewhere, the operations are
those of norms.py and pools.py.
"""

import functools
import importlib.util
import types
from collections.abc import Callable, Sequence

import jax
from jax import lax

from alexnet_jax.model import spec
from alexnet_jax.runtime import sharding


def find(
    net: spec.Net, operations: Sequence[str], x_BxHxWxC: jax.Array, bias: jax.Array, towers: int
) -> Callable[[jax.Array, jax.Array], list[jax.Array]] | None:
    """`relu_norm_pool`, if it applies `operations` to the product of a layer and its biases, for `towers` side by side.

    None: there is no kernel for these operations, this shape, or the devices that run it.
    """
    kernels = _kernels(sharding.platform())
    if not kernels or net.pool != (3, 2) or bias.ndim != 1:  # a locally connected layer has more biases
        return None
    if tuple(operations) == ("relu", "norm", "pool"):
        norm = net.norm
    elif tuple(operations) == ("relu", "pool"):
        norm = None
    else:
        return None
    count = spec.window_count(net, x_BxHxWxC.shape[1], *net.pool)
    if (norm and norm.size % 2 == 0) or not kernels.suits(x_BxHxWxC, count, norm, towers):
        return None
    return functools.partial(relu_norm_pool, kernels, count, norm, towers)


def _kernels(platform):
    # The module with the kernels for a platform, if its devices can run them.
    if platform == "tpu":
        from alexnet_jax.model import tpu_kernels  # here, because Pallas takes a second

        return tpu_kernels
    # JAX has announced that it will drop Triton.
    if platform == "gpu" and importlib.util.find_spec("jax.experimental.pallas.triton"):
        from alexnet_jax.model import gpu_kernels

        return gpu_kernels
    return None


def relu_norm_pool(
    kernels: types.ModuleType,
    count: int,
    norm: spec.Norm | None,
    towers: int,
    x_BxHxWxC: jax.Array,
    bias_C: jax.Array,
) -> list[jax.Array]:
    """For each tower, the maxima of windows of 3 × 3 pixels, 2 apart, of the norm of the ReLU of x + bias.

    Args:
      kernels: a module with `forward` and `backward`. The bit 3 i + j of what `forward` returns beside the maxima is 1
        if the pixel in row i and column j of a window is a maximum.
      count: how many windows there are along a side; the last may be clipped.
      norm: None leaves it out.
      towers: how many have their maps side by side; norms do not mix them.
    """
    # The biases of all rows of a mesh may be the same; JAX sums their gradients where it is told that they differ.
    axes = jax.typeof(x_BxHxWxC).manual_axis_type.varying - jax.typeof(bias_C).manual_axis_type.varying
    bias_C = lax.pcast(bias_C, tuple(axes), to="varying") if axes else bias_C
    return _relu_norm_pool(kernels, count, norm, towers, x_BxHxWxC, bias_C)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _relu_norm_pool(kernels, count, norm, towers, x, bias):
    return _forward(kernels, count, norm, towers, x, bias)[0]


def _forward(kernels, count, norm, towers, x, bias):
    y, maxima = kernels.forward(x, bias, count, norm, towers)
    return y, (x, bias, maxima)


def _backward(kernels, count, norm, towers, saved, grads):
    return kernels.backward(*saved, grads, norm)


_relu_norm_pool.defvjp(_forward, _backward)


def like(x: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    """The type of a kernel's result that differs between the devices of a mesh as `x` does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
