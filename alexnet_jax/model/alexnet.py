"""The nets as one device runs them, layer by layer, in the order of the paper's Figure 2; `nets` describes them.

A device holds an activation of each tower that it runs, NHWC. `all_gather` over the mesh axis 'model' is the only way
to see those of the other towers. Outside this module the channels of the towers lie side by side, tower 0's first.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from alexnet_jax.model import convolutions, fused, operations, spec, structure
from alexnet_jax.runtime import sharding

Params = dict[str, dict[str, jax.Array]]  # {layer: {'kernel', 'bias'}}


class AlexNet(nnx.Module):
    """The part of a net that one of `devices` devices runs: all of it for one device, one tower of two for two.

    Parameters have the names and layouts of the whole net's (conv kernels HWIO, dense kernels in × out, those of
    locally connected layers with the output's height and width in front); those of a tower layer hold this device's
    share of the last axis.
    """

    def __init__(self, net: spec.Net, *, devices: int = 1, rngs: nnx.Rngs):
        self.net, self.local_towers = net, net.towers // devices
        for layer, in_channels, side, out_side in structure.sizes(net):
            out = layer.features if layer is net.last else layer.features * self.local_towers
            product, kernel, bias = _product(layer, in_channels, side, out_side, out)
            if hasattr(self, layer.name):
                raise ValueError(f"a layer cannot be called {layer.name!r}, or two layers are")
            setattr(self, layer.name, Weights(product, kernel, bias, layer, rngs))

    def __call__(
        self, x_BxHxWx3: jax.Array, tower_keys_BxT: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Logits and named intermediates.

        Args:
          x_BxHxWx3: float32 pixels less their mean, about −128 … 127.
          tower_keys_BxT: for training, a PRNG key for each example and each tower of this device. None: as in testing.

        Returns:
          logits, float32 [B, num_classes], the same on the devices of all towers, and a dict from a name to an output
          on this device, of the net's dtype: of a layer (conv1), its norm (norm1) or its pool (pool1), each with the
          activation and the dropout that follow it.
        """
        *hidden, last = self.net.layers
        streams = [(x_BxHxWx3 / jnp.array(self.net.input_std)).astype(self.net.dtype)]  # all towers see the image
        out = {}
        for layer in hidden:
            with jax.named_scope(layer.name):
                streams = [all_gather(streams)] if layer.cross_tower else streams
                products, biases = getattr(self, layer.name)(streams)
                arrays = [convolutions.add_bias(x, bias) for x, bias in zip(products, biases, strict=True)]
                out[layer.name] = jnp.concatenate(arrays, axis=-1)
                following = structure.operations(self.net, layer)
                for operation, name in following:
                    if operations.OPERATIONS[operation].kind != "activation":
                        arrays = self.split(arrays)
                    arrays = [self.operate(operation, x, tower_keys_BxT, layer, i) for i, x in enumerate(arrays)]
                    out[name] = jnp.concatenate(arrays, axis=-1)
                streams, names = self.split(arrays), [operation for operation, _ in following]
                towers = self.local_towers // len(products)
                if compute := fused.find(self.net, names, products[0], biases[0], towers):
                    # What nobody uses of the outputs above costs nothing: compilers remove it.
                    streams = [x for parts in map(compute, products, biases) for x in parts]
                    out[name] = jnp.concatenate(streams, axis=-1)
        with jax.named_scope(last.name):
            # The last layer is one: its kernel is the same on every device, and so are its input and its output.
            (product,), (bias,) = getattr(self, last.name)([all_gather(streams, to="invarying").astype(jnp.float32)])
            logits = product + bias
        return logits, out

    def split(self, arrays: list[jax.Array]) -> list[jax.Array]:
        """The channels of each tower of this device; `arrays` has these, or one array with all of them."""
        return arrays if len(arrays) == self.local_towers else jnp.split(arrays[0], self.local_towers, axis=-1)

    def operate(self, operation: str, x: jax.Array, keys_BxT: jax.Array | None, layer: spec.Layer, i: int) -> jax.Array:
        """Applies an operation that follows a layer to the `i`-th tower of this device, or an activation to several."""
        drop = None
        if keys_BxT is not None:
            drop = functools.partial(operations.dropout, keys_BxT[:, i : i + 1], layer.seed)
        with jax.named_scope(operation):
            return operations.OPERATIONS[operation].compute(x, self.net, drop)


class Weights(nnx.Module):
    """The kernel and the biases of a layer, with the product that uses them."""

    def __init__(self, product: Callable, kernel: tuple, bias: tuple, layer: spec.Layer, rngs: nnx.Rngs):
        self.product = product
        self.kernel = nnx.Param(nnx.initializers.normal(layer.stddev)(rngs.params(), kernel))
        self.bias = nnx.Param(nnx.initializers.constant(layer.bias)(rngs.params(), bias))

    def __call__(self, inputs: Sequence[jax.Array]) -> tuple[list[jax.Array], list[jax.Array]]:
        """The product with each input, and the biases to add to it, of the inputs' dtype.

        `inputs` is the input of each tower, or one array that all of them see; then so is the product.
        """
        weights = (p[...].astype(inputs[0].dtype) for p in (self.kernel, self.bias))
        kernels, biases = (jnp.split(w, len(inputs), axis=-1) for w in weights)
        products = []
        for x, kernel in zip(inputs, kernels, strict=True):
            x = x.reshape(len(x), -1) if kernel.ndim == 2 else x
            products.append(self.product(x, kernel))
        return products, biases


def _product(layer, in_channels, side, out_side, out):
    """What multiplies a layer's input with its kernel, and the shapes of kernel and biases."""
    if isinstance(layer, spec.Dense):
        return jnp.matmul, (in_channels * side * side, out), (out,)
    overhang = spec.overhang(side, layer.size, layer.stride, out_side, layer.pad)
    padding, window = ((layer.pad, overhang),) * 2, (layer.size, layer.size)
    if isinstance(layer, spec.Local):
        product = functools.partial(convolutions.locally_connected, padding)
        return product, (out_side, out_side, *window, in_channels, out), (out_side, out_side, out)
    product = functools.partial(convolutions.convolve, layer.stride, padding, layer.groups)
    return product, (*window, in_channels // layer.groups, out), (out,)


def all_gather(streams: Sequence[jax.Array], to: str = "varying") -> jax.Array:
    """The channels of all towers in one array, tower 0's first: a line between the GPUs in Figure 2."""
    devices = lax.all_gather(jnp.concatenate(streams, axis=-1), "model", to=to)
    return jnp.concatenate(jnp.unstack(devices), axis=-1)


def init(net: spec.Net, key: jax.Array) -> Params:
    """Initial parameters of the whole net: a dict from a layer's name to its `kernel` and `bias`, float32.

    Weights are normally distributed, biases constant (section 5 of the paper).
    """
    return nnx.to_pure_dict(nnx.state(AlexNet(net, rngs=nnx.Rngs(key)), nnx.Param))


def shapes(net: spec.Net) -> dict:
    """`init` as jax.ShapeDtypeStruct, which computes nothing."""
    return jax.eval_shape(functools.partial(init, net), jax.random.key(0))


def apply(
    net: spec.Net,
    devices: int,
    params: Params,
    x_BxHxWx3: jax.Array,
    tower_keys_BxT: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`AlexNet.__call__` with one device's share of the parameters, a plain dict; needs a mesh axis named 'model'."""
    graph, state = nnx.split(nnx.eval_shape(lambda: AlexNet(net, devices=devices, rngs=nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(x_BxHxWx3, tower_keys_BxT)


def forward(
    net: spec.Net, mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh, params: Params, x_BxHxWx3: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Logits and intermediates of the whole net as in testing, with the shares of its devices put together."""
    apply_share = functools.partial(apply, net, mesh.shape["model"])
    maps, units = jax.P("data", None, None, "model"), jax.P("data", "model")
    outputs = {name: units if isinstance(layer, spec.Dense) else maps for name, layer in structure.outputs(net).items()}
    specs = (sharding.param_specs(net, params), sharding.BATCH)
    out_specs = (sharding.BATCH, outputs)
    return jax.shard_map(apply_share, mesh=mesh, in_specs=specs, out_specs=out_specs)(params, x_BxHxWx3)
