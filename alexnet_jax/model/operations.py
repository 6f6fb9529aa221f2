"""The table of operations that can follow a layer: how each computes, and how it is exported to ONNX.

A new operation is one entry of the table; docs/extending.md adds GELU.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.model import norms, pools, spec


class Operation(NamedTuple):
    """An operation that `Layer.then` can name.

    Attributes:
      kind: 'activation', 'norm', 'pool' or 'dropout'.
      compute: from (x, net, drop) to the operation's output, both [B, ...] of one tower. `drop` zeroes half of the
        units at random in training; in testing it is None.
      to_onnx: from (graph, name of x, net, side of x) to the name of the output in an `onnx_graph.Graph`. None: ONNX
        cannot express it, and a net that has it cannot be written as .onnx.
      output: what the output is called, before the number of the layer, as in pool1. None: the output takes the name
        of the input.
    """

    kind: str
    compute: Callable[..., jax.Array]
    to_onnx: Callable[..., str] | None
    output: str | None = None


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0). Its gradient needs only its output, so that nothing has to keep `x`."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


relu.defvjp(_relu_forward, lambda y, grad: (jnp.where(y != 0, grad, 0),))


def dropout(tower_keys_BxT: jax.Array, seed: int, x: jax.Array) -> jax.Array:
    """Zeroes half of the units of every tower and example at random, decided by a layer's seed and the keys."""
    B, T = tower_keys_BxT.shape

    def kept(key):
        return jax.random.bernoulli(jax.random.fold_in(key, seed), 0.5, (*x.shape[1:-1], x.shape[-1] // T))

    kept_BxTxU = jax.vmap(jax.vmap(kept))(tower_keys_BxT)
    return jnp.where(jnp.moveaxis(kept_BxTxU, 1, -2).reshape(x.shape), x, 0)


def _onnx_norm(graph, x, net, side):
    # LRN divides alpha by the number of values it sums.
    constants = {"alpha": net.norm.alpha * net.norm.size, "beta": 0.75, "bias": float(net.norm.k)}
    parts = graph.split(x, net.towers, axis=1)  # a norm never mixes towers
    return graph.concat([graph.add("LRN", [part], size=net.norm.size, **constants) for part in parts], axis=1)


def _onnx_same_map_norm(graph, x, net, side):
    norm, pad = net.same_map_norm, net.same_map_norm.size // 2
    squares = graph.add("Mul", [x, x])
    means = graph.add("AveragePool", [squares], kernel_shape=[norm.size] * 2, pads=[pad] * 4, count_include_pad=1)
    scaled = graph.add("Mul", [means, graph.number(norm.alpha * norm.size**2)])
    base = graph.add("Add", [scaled, graph.number(norm.k)])
    return graph.add("Div", [x, graph.add("Pow", [base, graph.number(0.75)])])


def _onnx_pool(operator):
    def add(graph, x, net, side):
        size, stride = net.pool
        end = spec.overhang(side, size, stride, spec.window_count(net, side, size, stride))
        return graph.add(operator, [x], kernel_shape=[size] * 2, strides=[stride] * 2, pads=[0, 0, end, end])

    return add


OPERATIONS = {
    "relu": Operation(
        "activation",
        lambda x, net, drop: relu(x),
        lambda graph, x, net, side: graph.add("Relu", [x]),
    ),
    "tanh": Operation(
        "activation",
        lambda x, net, drop: jnp.tanh(x),
        lambda graph, x, net, side: graph.add("Tanh", [x]),
    ),
    # Over neighbouring maps (section 3.3).
    "norm": Operation(
        "norm",
        lambda x, net, drop: norms.local_response_norm(x, net.norm),
        _onnx_norm,
        output="norm",
    ),
    # Over neighbouring positions.
    "same_map_norm": Operation(
        "norm",
        lambda x, net, drop: norms.same_map_norm(x, net.same_map_norm),
        _onnx_same_map_norm,
        output="same_map_norm",
    ),
    "pool": Operation("pool", lambda x, net, drop: pools.max_pool(x, net), _onnx_pool("MaxPool"), output="pool"),
    "average_pool": Operation(
        "pool", lambda x, net, drop: pools.average_pool(x, net), _onnx_pool("AveragePool"), output="pool"
    ),
    # Outputs are halved in testing (section 4.2).
    "dropout": Operation(
        "dropout",
        lambda x, net, drop: drop(x) if drop else 0.5 * x,
        lambda graph, x, net, side: graph.add("Mul", [x, graph.number(0.5)]),
    ),
    # Outputs are doubled in training, as in Caffe and torchvision.
    "inverted_dropout": Operation(
        "dropout",
        lambda x, net, drop: 2 * drop(x) if drop else x,
        lambda graph, x, net, side: x,
    ),
}
