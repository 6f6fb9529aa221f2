"""The networks as a device runs them, layer by layer; `nets` describes them, in the order of the paper's Figure 2.

A device holds an activation of each tower that it runs, NHWC; `all_gather` over the mesh axis 'model' is the only way
to see those of the others. What leaves this module has the channels of the towers side by side, tower 0's first.
"""

import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from alexnet_jax.model import spec
from alexnet_jax.runtime import sharding


class AlexNet(nnx.Module):
    """What one of `devices` devices runs of a net: all of it for one device, one tower of two for two.

    Parameters have the names and layouts of the whole net's (conv kernels HWIO, dense kernels in × out, those of
    locally connected layers with the output's height and width in front); those of a tower layer hold this device's
    share of the last axis.
    """

    def __init__(self, net, *, devices=1, rngs):
        self.net, self.towers = net, net.towers // devices
        for layer, seen, side, out_side in spec.sizes(net):
            out = layer.features if layer is net.layers[-1] else layer.features * self.towers
            if isinstance(layer, spec.Dense):
                product, kernel, bias = jnp.matmul, (seen * side * side, out), (out,)
            else:
                overhang = spec.overhang(side, layer.size, layer.stride, out_side, layer.pad)
                padding, window = ((layer.pad, overhang),) * 2, (layer.size, layer.size)
                if isinstance(layer, spec.Local):
                    product = functools.partial(locally_connected, padding)
                    kernel, bias = (out_side, out_side, *window, seen, out), (out_side, out_side, out)
                else:
                    product = functools.partial(convolve, layer.stride, padding, layer.groups)
                    kernel, bias = (*window, seen // layer.groups, out), (out,)
            setattr(self, layer.name, Weights(product, kernel, bias, layer, rngs))

    def __call__(self, x_BxHxWx3, tower_keys_BxT=None):
        """Logits and named intermediates.

        Args:
          x_BxHxWx3: float32 pixels less their mean, about −128 … 127.
          tower_keys_BxT: for training, a PRNG key for each example and each tower of this device. None: as in testing.

        Returns:
          logits, float32 [B, num_classes], the same on the devices of all towers, and a dict from a name to an output
          on this device, of the net's dtype: of a layer (conv1), its norm (norm1) or its pool (pool1), each with the
          ReLU and the dropout that follow it.
        """
        *hidden, last = self.net.layers
        towers = [(x_BxHxWx3 / jnp.array(self.net.input_std)).astype(self.net.dtype)]  # all towers see the image
        out = {}
        for layer in hidden:
            towers = [all_gather(towers)] if layer.both else towers
            towers = getattr(self, layer.name)(towers, self.towers)
            out[layer.name] = jnp.concatenate(towers, axis=-1)
            for op, name in spec.operations(self.net, layer):
                towers = [self.operate(op, x, tower_keys_BxT, layer, tower) for tower, x in enumerate(towers)]
                out[name] = jnp.concatenate(towers, axis=-1)
        # The last layer is one: its kernel is the same on every device, and so are its input and its output.
        (logits,) = getattr(self, last.name)([all_gather(towers, to="invarying").astype(jnp.float32)], 1)
        return logits, out

    def operate(self, op, x, keys_BxT, layer, tower):
        """What a word of `Layer.then` means for a tower of this device."""
        match op:
            case "relu":
                return nnx.relu(x)
            case "tanh":
                return jnp.tanh(x)
            case "norm":
                return local_response_norm(x, self.net.norm)
            case "same_map_norm":
                return same_map_norm(x, self.net.same_map_norm)
            case "pool":
                return max_pool(x, self.net)
            case "average_pool":
                return average_pool(x, self.net)
            case "dropout":
                return 0.5 * x if keys_BxT is None else dropout(x, keys_BxT[:, tower : tower + 1], layer)
            case "inverted_dropout":
                return x if keys_BxT is None else 2 * dropout(x, keys_BxT[:, tower : tower + 1], layer)


class Weights(nnx.Module):
    """The kernel and the biases of a layer, with what it does with them."""

    def __init__(self, product, kernel, bias, layer, rngs):
        self.product = product
        self.kernel = nnx.Param(nnx.initializers.normal(layer.stddev)(rngs.params(), kernel))
        self.bias = nnx.Param(nnx.initializers.constant(layer.bias)(rngs.params(), bias))

    def __call__(self, seen, towers):
        """A list of the outputs of so many towers.

        `seen` is a list too: of what each of them sees, or of one array that all of them see. Its dtype is that of the
        outputs.
        """
        weights = (p[...].astype(seen[0].dtype) for p in (self.kernel, self.bias))
        kernels, biases = (jnp.split(w, len(seen), axis=-1) for w in weights)
        outputs = []
        for x, kernel, bias in zip(seen, kernels, biases, strict=True):
            x = x.reshape(len(x), -1) if kernel.ndim == 2 else x
            outputs.append(add_bias(self.product(x, kernel), bias))
        return outputs if len(outputs) == towers else jnp.split(outputs[0], towers, axis=-1)


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
    outputs = {name: units if isinstance(layer, spec.Dense) else maps for name, layer in spec.outputs(net).items()}
    out_specs = (sharding.BATCH, outputs)
    return jax.shard_map(apply_share, mesh=mesh, in_specs=specs, out_specs=out_specs)(params, x_BxHxWx3)


def all_gather(towers, to="varying"):
    """The channels of all towers in one array, tower 0's first: a line between the GPUs in Figure 2."""
    devices = lax.all_gather(jnp.concatenate(towers, axis=-1), "model", to=to)
    return jnp.concatenate(jnp.unstack(devices), axis=-1)


def convolve(stride, padding, groups, x_BxHxWxC, kernel):
    """A convolution; `groups` are groups within a tower."""
    # As many ordinary convolutions as there are groups: XLA's grouped convolution trains four times slower on CPU.
    inputs, kernels = jnp.split(x_BxHxWxC, groups, axis=-1), jnp.split(kernel, groups, axis=-1)
    dims, strides = ("NHWC", "HWIO", "NHWC"), (stride, stride)
    outputs = [
        lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=dims)
        for x, k in zip(inputs, kernels, strict=True)
    ]
    return jnp.concatenate(outputs, axis=-1)


def locally_connected(padding, x_BxHxWxC, kernel):
    """A convolution of stride 1 with a kernel of its own at every place of its output: [H, W, size, size, in, out].

    The 2012 code has it in two nets for CIFAR-10.
    """
    H, W, size = kernel.shape[:3]
    x = jnp.pad(x_BxHxWxC, ((0, 0), *padding, (0, 0)))
    windows = [x[:, i : i + H, j : j + W] for i in range(size) for j in range(size)]
    kernel_HxWxKxCxO = kernel.reshape(H, W, size * size, *kernel.shape[4:])
    return jnp.einsum("bhwkc,hwkco->bhwo", jnp.stack(windows, 3), kernel_HxWxKxCxO)


def add_bias(x, bias):
    """Adds a bias to every map or unit; a locally connected layer has one at every place."""
    if x.ndim == 2 or bias.ndim > 1:
        return x + bias
    # To whole rows of maps: XLA is slow on CPU to sum the gradient over many short ones.
    B, H, W, C = x.shape
    return (x.reshape(B * H, W * C) + jnp.tile(bias, W)).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def local_response_norm(x_BxHxWxC, norm):
    """b = a / (k + α · Σ a²)^0.75 over neighbouring maps of a tower (section 3.3 of the paper)."""
    return _norm_forward(x_BxHxWxC, norm)[0]


def _norm_forward(x, norm):
    # The power through square roots: much faster on CPU than a general one. A division comes last because XLA does not
    # repeat it for every window of the pool that follows, as it does with a product.
    scale = norm.k + norm.alpha * _sums_over_maps(x * x, norm.size)
    root = jnp.sqrt(scale)
    return (x / (root * jnp.sqrt(root))).astype(x.dtype), (x, scale)


def _norm_backward(norm, saved, grad):
    x, scale = saved
    root = jnp.sqrt(scale)
    grad = grad / (root * jnp.sqrt(root))
    sums = _sums_over_maps((grad * x / scale).astype(x.dtype), norm.size)
    return ((grad - 1.5 * norm.alpha * x * sums).astype(x.dtype),)


def _sums_over_maps(x_BxHxWxC, size):
    # Behind the barrier the windows are plain memory. XLA would ask of every number whether it is in the border.
    C, border = x_BxHxWxC.shape[-1], size // 2
    padded = lax.optimization_barrier(jnp.pad(x_BxHxWxC, ((0, 0), (0, 0), (0, 0), (border, border))))
    return sum(padded[..., i : i + C].astype(jnp.float32) for i in range(size))


local_response_norm.defvjp(_norm_forward, _norm_backward)


def same_map_norm(x_BxHxWxC, norm):
    """b = a / (k + α · Σ a²)^0.75 over size × size places of the same map, clipped at the edge.

    Not in the paper: the 2012 code has it between the norm and the pool of its second layer.
    """
    rows, columns = (
        (abs(jnp.arange(side)[:, None] - jnp.arange(side)) <= norm.size // 2).astype(jnp.float32)
        for side in x_BxHxWxC.shape[1:3]
    )
    squares = x_BxHxWxC * x_BxHxWxC
    exact = {"precision": lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}  # GPU and TPU would round
    root = lax.rsqrt(norm.k + norm.alpha * jnp.einsum("bhwc,hi,wj->bijc", squares, rows, columns, **exact))
    return (x_BxHxWxC * root * jnp.sqrt(root)).astype(x_BxHxWxC.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x_BxHxWxC, net):
    """The maximum of each window, the last one clipped at the edge (section 3.4). Equal maxima share the gradient."""
    (size, stride), side = net.pool, x_BxHxWxC.shape[1]
    overhang = spec.overhang(side, size, stride, spec.window_count(net, side, size, stride))
    x = x_BxHxWxC
    for axis in (1, 2):
        window, strides, padding = np.ones(4, int), np.ones(4, int), np.zeros((4, 2), int)
        window[axis], strides[axis], padding[axis, 1] = size, stride, overhang
        x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return x


def _pool_forward(x, net):
    y = max_pool(x, net)
    return y, (x, y)


def _pool_backward(net, saved, grad):
    # The gradient of `lax.reduce_window` is many times slower on CPU: this one is a pass over the input.
    x, y = saved
    size, stride = net.pool
    side, count = x.shape[1], y.shape[1]
    grad = grad / sum((window == y).astype(x.dtype) for window in _windows(x, net, -jnp.inf))
    last = -(-side // stride)  # windows, one for every stride, of which those after `count` do not exist

    def to_pixels(windows, down, right):
        # For every pixel, the value of the window that begins so many strides before the last one that has it.
        pads = [(before, max(0, last - count - before)) for before in (down, right)]
        shifted = jnp.pad(windows, ((0, 0), *pads, (0, 0)))[:, :last, :last, None]
        B, H, W, _, C = shifted.shape
        spread = jnp.broadcast_to(shifted[:, :, None], (B, H, stride, W, stride, C))
        return spread.reshape(B, H * stride, W * stride, C)[:, :side, :side]

    inside = [jnp.arange(side) % stride + before * stride < size for before in range(-(-size // stride))]
    total = 0
    for down, rows in enumerate(inside):
        for right, columns in enumerate(inside):
            chosen = (rows[:, None] & columns)[:, :, None] & (x == to_pixels(y, down, right))
            total += jnp.where(chosen, to_pixels(grad, down, right), 0)
    return (total,)


max_pool.defvjp(_pool_forward, _pool_backward)


def average_pool(x_BxHxWxC, net):
    """The mean of each window's pixels, without those over the edge."""
    inside = jnp.ones((1, *x_BxHxWxC.shape[1:3], 1), x_BxHxWxC.dtype)
    return sum(_windows(x_BxHxWxC, net, 0)) / sum(_windows(inside, net, 0))


def _windows(x_BxHxWxC, net, fill):
    # As many arrays as a window has pixels: the first pixel of every window, the second, …
    (size, stride), side = net.pool, x_BxHxWxC.shape[1]
    count = spec.window_count(net, side, size, stride)
    overhang, span = spec.overhang(side, size, stride, count), stride * (count - 1) + 1
    x = jnp.pad(x_BxHxWxC, ((0, 0), (0, overhang), (0, overhang), (0, 0)), constant_values=fill)
    return [x[:, i : i + span : stride, j : j + span : stride] for i in range(size) for j in range(size)]


def dropout(x, tower_keys_BxT, layer):
    """Drops half of the units of every tower and example at random, by the layer's number and the example's keys."""
    B, T = tower_keys_BxT.shape

    def kept(key):
        return jax.random.bernoulli(jax.random.fold_in(key, int(layer.number)), 0.5, (*x.shape[1:-1], x.shape[-1] // T))

    kept_BxTxU = jax.vmap(jax.vmap(kept))(tower_keys_BxT)
    return jnp.where(jnp.moveaxis(kept_BxTxU, 1, -2).reshape(x.shape), x, 0)


class Row(typing.NamedTuple):
    """A layer with weights: the shape of its output for an image, the numbers in it, and what it takes.

    `macs` are multiply-accumulates per image.
    """

    name: str
    output: tuple[int, ...]
    neurons: int
    parameters: int
    macs: int


def layer_table(net):
    """A `Row` for every layer with weights."""
    params = jax.eval_shape(functools.partial(init, net), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    mesh = jax.sharding.AbstractMesh((1, 1), **sharding.AXES)
    logits, outputs = jax.eval_shape(functools.partial(forward, net, mesh), params, image)
    rows = []
    for layer in net.layers:
        kernel = params[layer.name]["kernel"].shape
        shape = (outputs | {net.layers[-1].name: logits})[layer.name].shape[1:]
        count = sum(math.prod(p.shape) for p in params[layer.name].values())
        places = 1 if isinstance(layer, spec.Local) else math.prod(shape[:-1])
        rows.append(Row(layer.name, shape, math.prod(shape), count, math.prod(kernel) * places))
    return rows


def total(rows):
    """The sum of some rows of `layer_table`, a `Row` without an output."""
    return Row("total", (), *map(sum, zip(*(row[2:] for row in rows), strict=True)))


def format_table(net):
    """`layer_table` as text, with totals."""
    rows = layer_table(net)
    lines = [("layer", "output", "neurons", "parameters", "MACs per image")]
    for row in [*rows, total(rows)]:
        lines.append((row.name, "×".join(map(str, row.output)), *(f"{number:,}" for number in row[2:])))
    return "\n".join(f"{a:6}  {b:10}  {c:>9}  {d:>12}  {e:>15}" for a, b, c, d, e in lines)
