"""The networks as a device runs them, layer by layer; `nets` describes them, in the order of the paper's Figure 2.

An activation is NHWC with the channels of the towers side by side: tower 0 first. A device holds the channels of the
towers that it runs; `all_gather` over the mesh axis 'model' is the only way to see the others'.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from alexnet_jax import layers, sharding
from alexnet_jax.layers import Net
from alexnet_jax.nets import NETS, from_config

__all__ = ["NETS", "AlexNet", "Net", "apply", "format_table", "forward", "from_config", "init", "layer_table"]


class AlexNet(nnx.Module):
    """What one of `devices` devices runs of a net: all of it for one device, one tower of two for two.

    Parameters have the names and layouts of the whole net's (conv kernels HWIO, dense kernels in × out, those of
    locally connected layers with the output's height and width in front); those of a tower layer hold this device's
    share of the last axis.
    """

    def __init__(self, net, *, devices=1, rngs):
        self.net, self.towers = net, net.towers // devices
        for layer, seen, side, out_side in layers.sizes(net):
            # Every tower sees the image, and a layer of both towers the maps of both; the others those of their own.
            groups = 1 if layer.both or layer is net.layers[0] else self.towers
            out = layer.features if layer is net.layers[-1] else layer.features * self.towers
            init = {
                "kernel_init": nnx.initializers.normal(layer.stddev),
                "bias_init": nnx.initializers.constant(layer.bias),
                "rngs": rngs,
            }
            if isinstance(layer, layers.Dense):
                dot = functools.partial(_dot, groups)
                module = nnx.Linear(seen * side * side, out, dot_general=dot, **init)
            else:
                overhang = layers.overhang(side, layer.size, layer.stride, out_side, layer.pad)
                padding = ((layer.pad, overhang),) * 2
                if isinstance(layer, layers.Local):
                    module = LocallyConnected(seen, out, out_side, layer.size, padding, **init)
                else:
                    module = nnx.Conv(
                        seen * groups,
                        out,
                        (layer.size, layer.size),
                        strides=layer.stride,
                        padding=padding,
                        feature_group_count=groups * layer.groups,
                        conv_general_dilated=_convolve,
                        **init,
                    )
            setattr(self, layer.name, module)

    def __call__(self, x_BxHxWx3, tower_keys_BxT=None):
        """Logits and named intermediates.

        Args:
          x_BxHxWx3: float32 pixels less their mean, about −128 … 127.
          tower_keys_BxT: for training, a PRNG key for each example and each tower of this device. None: as in testing.

        Returns:
          logits, float32 [B, num_classes], the same on the devices of all towers, and a dict from a name to an output
          on this device: of a layer (conv1), its norm (norm1) or its pool (pool1), each with the ReLU and the dropout
          that follow it.
        """
        *hidden, last = self.net.layers
        out, x = {}, x_BxHxWx3 / jnp.array(self.net.input_std)
        for layer in hidden:
            x = all_gather(x) if layer.both else x
            if isinstance(layer, layers.Dense):
                x = flatten(x, 1 if layer.both else self.towers)
            x = out[layer.name] = getattr(self, layer.name)(x)
            for op, name in layers.operations(self.net, layer):
                x = out[name] = self.operate(op, x, tower_keys_BxT, layer)
        # The last layer is one: its kernel is the same on every device, and so are its input and its output.
        return getattr(self, last.name)(flatten(all_gather(x, to="invarying"), 1)), out

    def operate(self, op, x, keys, layer):
        """What a word of `Layer.then` means."""
        match op:
            case "relu":
                return nnx.relu(x)
            case "tanh":
                return jnp.tanh(x)
            case "norm":
                return local_response_norm(x, self.towers, self.net.norm)
            case "same_map_norm":
                return same_map_norm(x, self.net.same_map_norm)
            case "pool":
                return max_pool(x, self.net)
            case "average_pool":
                return average_pool(x, self.net)
            case "dropout":
                return 0.5 * x if keys is None else dropout(x, keys, layer)
            case "inverted_dropout":
                return x if keys is None else 2 * dropout(x, keys, layer)


class LocallyConnected(nnx.Module):
    """A convolution of stride 1 with a kernel and biases of its own at every place of its output, H × W.

    Its kernel is [H, W, size, size, in, out], its bias [H, W, out]. The 2012 code has it in two nets for CIFAR-10.
    """

    def __init__(self, channels, out, side, size, padding, *, kernel_init, bias_init, rngs):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (side, side, size, size, channels, out)))
        self.bias = nnx.Param(bias_init(rngs.params(), (side, side, out)))
        self.padding = padding

    def __call__(self, x_BxHxWxC):
        kernel = self.kernel[...]
        H, W, size = kernel.shape[:3]
        x = jnp.pad(x_BxHxWxC, ((0, 0), *self.padding, (0, 0)))
        windows = [x[:, i : i + H, j : j + W] for i in range(size) for j in range(size)]
        kernel_HxWxKxCxO = kernel.reshape(H, W, size * size, *kernel.shape[4:])
        return jnp.einsum("bhwkc,hwkco->bhwo", jnp.stack(windows, 3), kernel_HxWxKxCxO) + self.bias[...]


def init(net, key):
    """Initial parameters of the whole net: a dict from a layer's name to its `kernel` and `bias`, float32.

    Weights are normally distributed, biases constant, as section 5 of the paper says and the net's layers.
    """
    return nnx.to_pure_dict(nnx.state(AlexNet(net, rngs=nnx.Rngs(key)), nnx.Param))


def apply(net, devices, params, x_BxHxWx3, tower_keys_BxT=None):
    """`AlexNet.__call__` with one device's share of the parameters, a plain dict; needs a mesh axis named 'model'."""
    graph, state = nnx.split(nnx.eval_shape(lambda: AlexNet(net, devices=devices, rngs=nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(x_BxHxWx3, tower_keys_BxT)


def forward(net, mesh, params, x_BxHxWx3):
    """Logits and intermediates of the whole net as in testing, with its devices' shares put together."""
    apply_share = functools.partial(apply, net, mesh.shape["model"])
    specs = (sharding.param_specs(params), sharding.BATCH)
    maps, units = jax.P("data", None, None, "model"), jax.P("data", "model")
    outputs = {name: units if isinstance(layer, layers.Dense) else maps for name, layer in layers.outputs(net).items()}
    out_specs = (sharding.BATCH, outputs)
    return jax.shard_map(apply_share, mesh=mesh, in_specs=specs, out_specs=out_specs)(params, x_BxHxWx3)


def all_gather(x, to="varying"):
    """The channels of both towers, tower 0's first: a line between the GPUs in Figure 2."""
    return lax.all_gather(x, "model", axis=x.ndim - 1, tiled=True, to=to)


def flatten(x_BxHxWxC, towers):
    """The units of each tower, tower 0's first: float32 [B, H·W·C]. Units stay as they are."""
    if x_BxHxWxC.ndim == 2:
        return x_BxHxWxC
    B, H, W, C = x_BxHxWxC.shape
    return jnp.moveaxis(x_BxHxWxC.reshape(B, H, W, towers, C // towers), 3, 1).reshape(B, -1)


def local_response_norm(x_BxHxWxC, towers, norm):
    """b = a / (k + α · Σ a²)^0.75 over neighbouring maps of the same tower (section 3.3 of the paper)."""
    *BxHxW, C = x_BxHxWxC.shape
    x = x_BxHxWxC.reshape(*BxHxW, towers, C // towers)
    # Sums over windows as a product with a band matrix, and the power through square roots: forward and backward twice
    # as fast on CPU as shifted sums and a general power. Elsewhere products may round to fewer bits unless told not to.
    sums = jnp.matmul(x * x, _band(C // towers, norm.size), precision=lax.Precision.HIGHEST)
    root = lax.rsqrt(norm.k + norm.alpha * sums)
    return (x * root * jnp.sqrt(root)).reshape(x_BxHxWxC.shape)


def same_map_norm(x_BxHxWxC, norm):
    """b = a / (k + α · Σ a²)^0.75 over size × size places of the same map, clipped at the edge.

    Not in the paper: the 2012 code has it between the norm and the pool of its second layer.
    """
    rows, columns = (_band(side, norm.size) for side in x_BxHxWxC.shape[1:3])
    sums = jnp.einsum("bhwc,hi,wj->bijc", x_BxHxWxC * x_BxHxWxC, rows, columns, precision=lax.Precision.HIGHEST)
    root = lax.rsqrt(norm.k + norm.alpha * sums)
    return x_BxHxWxC * root * jnp.sqrt(root)


def _band(n, size):
    return (abs(jnp.arange(n)[:, None] - jnp.arange(n)) <= size // 2).astype(jnp.float32)


def max_pool(x_BxHxWxC, net):
    """The maximum of each window, the last one clipped at the edge (section 3.4)."""
    # Strided slices; equal maxima share the gradient. A window reduction's gradient is six times slower on CPU.
    return functools.reduce(jnp.maximum, _windows(x_BxHxWxC, net, -jnp.inf))


def average_pool(x_BxHxWxC, net):
    """The mean of each window's pixels, without those over the edge."""
    inside = jnp.ones((1, *x_BxHxWxC.shape[1:3], 1))
    return sum(_windows(x_BxHxWxC, net, 0)) / sum(_windows(inside, net, 0))


def _windows(x_BxHxWxC, net, fill):
    # As many arrays as a window has pixels: the first pixel of every window, the second, …
    (size, stride), side = net.pool, x_BxHxWxC.shape[1]
    count = layers.window_count(net, side, size, stride)
    overhang, span = layers.overhang(side, size, stride, count), stride * (count - 1) + 1
    x = jnp.pad(x_BxHxWxC, ((0, 0), (0, overhang), (0, overhang), (0, 0)), constant_values=fill)
    return [x[:, i : i + span : stride, j : j + span : stride] for i in range(size) for j in range(size)]


def dropout(x, tower_keys_BxT, layer):
    """Drops half of the units of every tower and example at random, by the layer's number and the example's keys."""
    B, T = tower_keys_BxT.shape

    def kept(key):
        return jax.random.bernoulli(jax.random.fold_in(key, int(layer.number)), 0.5, (*x.shape[1:-1], x.shape[-1] // T))

    kept_BxTxU = jax.vmap(jax.vmap(kept))(tower_keys_BxT)
    return jnp.where(jnp.moveaxis(kept_BxTxU, 1, -2).reshape(x.shape), x, 0)


def _convolve(x, kernel, *args, feature_group_count=1, **kwargs):
    # As many ordinary convolutions as there are groups: XLA's grouped convolution trains four times slower on CPU.
    kernels = jnp.split(kernel, feature_group_count, axis=-1)
    inputs = jnp.split(x, feature_group_count, axis=-1)
    outputs = [lax.conv_general_dilated(i, k, *args, **kwargs) for i, k in zip(inputs, kernels, strict=True)]
    return jnp.concatenate(outputs, axis=-1)


def _dot(groups, x, kernel, *args, **kwargs):
    # A product for each tower of this device that sees only itself.
    kernels, inputs = jnp.split(kernel, groups, axis=-1), jnp.split(x, groups, axis=-1)
    outputs = [lax.dot_general(i, k, *args, **kwargs) for i, k in zip(inputs, kernels, strict=True)]
    return jnp.concatenate(outputs, axis=-1)


def layer_table(net):
    """A row per layer with parameters: (name, output shape, parameters, multiply-accumulates per image)."""
    params = jax.eval_shape(functools.partial(init, net), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    mesh = jax.sharding.AbstractMesh((1, 1), ("data", "model"))
    logits, outputs = jax.eval_shape(functools.partial(forward, net, mesh), params, image)
    rows = []
    for layer in net.layers:
        kernel = params[layer.name]["kernel"].shape
        shape = (outputs | {net.layers[-1].name: logits})[layer.name].shape[1:]
        count = sum(math.prod(p.shape) for p in params[layer.name].values())
        places = 1 if isinstance(layer, layers.Local) else math.prod(shape[:-1])
        rows.append((layer.name, shape, count, math.prod(kernel) * places))
    return rows


def format_table(net):
    """`layer_table` as text, with totals."""
    rows = layer_table(net)
    total = ("total", (), sum(row[2] for row in rows), sum(row[3] for row in rows))
    lines = [("layer", "output", "parameters", "MACs per image")]
    lines += [
        (name, "×".join(map(str, shape)), f"{count:,}", f"{macs:,}") for name, shape, count, macs in [*rows, total]
    ]
    return "\n".join(f"{a:6}  {b:10}  {c:>12}  {d:>15}" for a, b, c, d in lines)
