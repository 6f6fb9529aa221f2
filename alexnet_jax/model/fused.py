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

from alexnet_jax.model import spec
from alexnet_jax.runtime import sharding


def find(
    net: spec.Net, operations: Sequence[str], x_BxHxWxC: jax.Array, towers: int
) -> Callable[[jax.Array, jax.Array], list[jax.Array]] | None:
    """A function that applies `operations` to the sum of a convolution and its biases, both for `towers` side by side.

    It returns the result of each tower. None: there is no kernel for these operations, this shape, or the devices that
    run it.
    """
    norms = {("relu", "norm", "pool"): net.norm, ("relu", "pool"): None}
    kernels = _kernels(sharding.platform())
    if not kernels or tuple(operations) not in norms or net.pool != (3, 2):
        return None
    norm = norms[tuple(operations)]
    count = spec.window_count(net, x_BxHxWxC.shape[1], *net.pool)
    if not kernels.suits(x_BxHxWxC, count, norm, towers):
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
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
      kernels: a module with `forward` and `backward`.
      count: how many windows there are along a side; the last may be clipped.
      norm: None leaves it out.
      towers: how many have their maps side by side; norms do not mix them.
    """
    return _forward(kernels, count, norm, towers, x_BxHxWxC, bias_C)[0]


def _forward(kernels, count, norm, towers, x, bias):
    y, maxima = kernels.forward(x, bias, count, norm, towers)
    return y, (x, bias, maxima)


def _backward(kernels, count, norm, towers, saved, grads):
    return kernels.backward(*saved, grads, norm)


relu_norm_pool.defvjp(_forward, _backward)


def like(x: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    """The type of a kernel's result that differs between the devices of a mesh as `x` does."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
