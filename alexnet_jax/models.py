"""The networks, layer by layer, as one device runs them. Figure 2 of the paper, read from left to right.

An activation is NHWC with the channels of the towers side by side: tower 0 first. A device holds the channels of the
towers that it runs; `all_gather` over the mesh axis 'model' is the only way to see the others'.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from alexnet_jax import UserError, sharding


@dataclasses.dataclass(frozen=True)
class Net:
    """The sizes of a network.

    Attributes:
      towers: how many columns run side by side, each on its own device where there are enough.
      maps: feature maps of conv1 to conv5, in one tower.
      units: units of fc6 and of fc7, in one tower.
      num_classes: outputs of fc8.
      image_size: height and width of the input, in pixels.
      init_stddev: standard deviation of all initial weights.
    """

    towers: int
    maps: tuple[int, int, int, int, int]
    units: int
    num_classes: int = 1000
    image_size: int = 224
    init_stddev: float = 0.01


# Section 3.5 of the paper, and the one-GPU net of its section 3.2, whose last convolution and fully connected layers
# keep the size that they have in the two towers together.
NETS = {
    "two_gpu": Net(towers=2, maps=(48, 128, 192, 192, 128), units=2048),
    "one_gpu": Net(towers=1, maps=(48, 128, 192, 192, 256), units=4096),
}


def from_config(model, num_classes):
    """The `Net` that `config.model` describes: `net`, `width`, `image_size`.

    A net of width w has w times the maps and units. Its initial weights are 1/√w times larger, which gives every layer
    inputs of the same variance as at full width.

    Raises:
      UserError: the name, the width or the size is impossible.
    """
    if model.net not in NETS:
        raise UserError(f"config.model.net: no net {model.net!r}; there are {', '.join(NETS)}")
    if pool_size(pool_size(conv1_size(model.image_size))) < 3:
        raise UserError(f"config.model.image_size={model.image_size}: below 52 the last pool has less than one window")
    net = NETS[model.net]
    return dataclasses.replace(
        net,
        maps=tuple(max(1, round(model.width * n)) for n in net.maps),
        units=max(1, round(model.width * net.units)),
        num_classes=num_classes,
        image_size=model.image_size,
        init_stddev=net.init_stddev / math.sqrt(model.width),
    )


INTERMEDIATES = ("conv1", "norm1", "pool1", "conv2", "norm2", "pool2", "conv3", "conv4", "conv5", "pool5", "fc6", "fc7")


class AlexNet(nnx.Module):
    """What one of `devices` devices runs of a net: all of it for one device, one tower of two for two.

    Parameters have the names and layouts of the whole net's (conv kernels HWIO, dense kernels in × out); those of a
    tower layer hold this device's share of the last axis.
    """

    def __init__(self, net, *, devices=1, rngs):
        here, both = net.towers // devices, net.towers
        maps1, maps2, maps3, maps4, maps5 = net.maps
        weights = nnx.initializers.normal(net.init_stddev)
        ones = nnx.initializers.ones
        conv = functools.partial(nnx.Conv, kernel_init=weights, conv_general_dilated=_convolve, rngs=rngs)
        dense = functools.partial(nnx.Linear, kernel_init=weights, rngs=rngs)

        # conv2, conv4 and conv5 see the maps of their own tower only; conv3 and the dense layers see both towers'.
        side1 = conv1_size(net.image_size)
        overhang = 4 * (side1 - 1) + 11 - net.image_size
        self.conv1 = conv(3, here * maps1, (11, 11), strides=4, padding=((0, overhang), (0, overhang)))
        self.conv2 = conv(here * maps1, here * maps2, (5, 5), feature_group_count=here, bias_init=ones)
        self.conv3 = conv(both * maps2, here * maps3, (3, 3))
        self.conv4 = conv(here * maps3, here * maps4, (3, 3), feature_group_count=here, bias_init=ones)
        self.conv5 = conv(here * maps4, here * maps5, (3, 3), feature_group_count=here, bias_init=ones)
        side = pool_size(pool_size(pool_size(side1)))
        self.fc6 = dense(both * maps5 * side * side, here * net.units, bias_init=ones)
        self.fc7 = dense(both * net.units, here * net.units, bias_init=ones)
        self.fc8 = dense(both * net.units, net.num_classes)
        self.towers = here

    def __call__(self, x_BxHxWx3, tower_keys_BxT=None):
        """Logits and named intermediates.

        Args:
          x_BxHxWx3: float32 pixels less their mean, about −128 … 127 (section 2 of the paper: no other scaling).
          tower_keys_BxT: for training, a PRNG key for each example and each tower of this device. None: as in testing.

        Returns:
          logits, float32 [B, num_classes], the same on the devices of all towers, and a dict from a layer's name to its
          output on this device.
        """
        towers, keys = self.towers, tower_keys_BxT
        out = {}
        out["conv1"] = nnx.relu(self.conv1(x_BxHxWx3))
        out["norm1"] = local_response_norm(out["conv1"], towers)
        out["pool1"] = max_pool(out["norm1"])

        out["conv2"] = nnx.relu(self.conv2(out["pool1"]))
        out["norm2"] = local_response_norm(out["conv2"], towers)
        out["pool2"] = max_pool(out["norm2"])

        out["conv3"] = nnx.relu(self.conv3(all_gather(out["pool2"])))
        out["conv4"] = nnx.relu(self.conv4(out["conv3"]))
        out["conv5"] = nnx.relu(self.conv5(out["conv4"]))
        out["pool5"] = max_pool(out["conv5"])

        both_towers = all_gather(out["pool5"])
        out["fc6"] = dropout(nnx.relu(self.fc6(both_towers.reshape(len(both_towers), -1))), keys, layer=6)
        out["fc7"] = dropout(nnx.relu(self.fc7(all_gather(out["fc6"]))), keys, layer=7)
        # fc8 is one layer: its kernel is the same on every device, and so are its input and its output.
        logits = self.fc8(all_gather(out["fc7"], to="invarying"))
        return logits, out


def init(net, key):
    """Initial parameters of the whole net: a dict from a layer's name to its `kernel` and `bias`, float32.

    Section 5 of the paper: weights are N(0, 0.01), biases 1 in conv2, conv4, conv5, fc6 and fc7 and 0 in the others.
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
    out_specs = (sharding.BATCH, {name: units if name in ("fc6", "fc7") else maps for name in INTERMEDIATES})
    return jax.shard_map(apply_share, mesh=mesh, in_specs=specs, out_specs=out_specs)(params, x_BxHxWx3)


def all_gather(x, to="varying"):
    """The channels of both towers, tower 0's first: a line between the GPUs in Figure 2."""
    return lax.all_gather(x, "model", axis=x.ndim - 1, tiled=True, to=to)


def local_response_norm(x_BxHxWxC, towers):
    """b = a / (2 + 10⁻⁴ · Σ a²)^0.75 over 5 neighbouring maps of the same tower (section 3.3 of the paper)."""
    *BxHxW, C = x_BxHxWxC.shape
    x = x_BxHxWxC.reshape(*BxHxW, towers, C // towers)
    band = (abs(jnp.arange(C // towers)[:, None] - jnp.arange(C // towers)) <= 2).astype(x.dtype)
    # Sums over windows as a product with a band matrix, and the power through square roots: forward and backward twice
    # as fast on CPU as shifted sums and a general power. Elsewhere products may round to fewer bits unless told not to.
    root = lax.rsqrt(2 + 1e-4 * jnp.matmul(x * x, band, precision=lax.Precision.HIGHEST))
    return (x * root * jnp.sqrt(root)).reshape(x_BxHxWxC.shape)


def max_pool(x_BxHxWxC):
    """Overlapping pooling: the maximum of 3×3 windows two apart, the last one clipped at the edge (section 3.4)."""
    size = pool_size(x_BxHxWxC.shape[1])
    overhang = 2 * (size - 1) + 3 - x_BxHxWxC.shape[1]
    x = jnp.pad(x_BxHxWxC, ((0, 0), (0, overhang), (0, overhang), (0, 0)), constant_values=-jnp.inf)
    # Nine strided slices; equal maxima share the gradient. A window reduction's gradient is six times slower on CPU.
    span = 2 * size - 1
    return functools.reduce(jnp.maximum, [x[:, i : i + span : 2, j : j + span : 2] for i in range(3) for j in range(3)])


def dropout(x_BxF, tower_keys_BxT, layer):
    """Half of the units at random in training, half of every output in testing (section 4.2: nothing is rescaled)."""
    if tower_keys_BxT is None:
        return 0.5 * x_BxF
    B, T = tower_keys_BxT.shape

    def kept(key):
        return jax.random.bernoulli(jax.random.fold_in(key, layer), 0.5, (x_BxF.shape[1] // T,))

    return jnp.where(jax.vmap(jax.vmap(kept))(tower_keys_BxT).reshape(x_BxF.shape), x_BxF, 0)


def conv1_size(image_size):
    """Height and width of conv1's output: the 2012 code lets the last window hang over the edge, so 224 gives 55."""
    return 1 + math.ceil((image_size - 11) / 4)


def pool_size(size):
    """Height and width of a 3/2 pool's output; the 2012 code clips the last window, so an even size loses nothing."""
    return 1 + math.ceil((size - 3) / 2)


def _convolve(x, kernel, *args, feature_group_count=1, **kwargs):
    # As many ordinary convolutions as there are groups: XLA's grouped convolution trains four times slower on CPU.
    kernels = jnp.split(kernel, feature_group_count, axis=-1)
    inputs = jnp.split(x, feature_group_count, axis=-1)
    outputs = [lax.conv_general_dilated(i, k, *args, **kwargs) for i, k in zip(inputs, kernels, strict=True)]
    return jnp.concatenate(outputs, axis=-1)


def layer_table(net):
    """A row per layer with parameters: (name, output shape, parameters, multiply-accumulates per image)."""
    params = jax.eval_shape(functools.partial(init, net), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    mesh = jax.sharding.AbstractMesh((1, 1), ("data", "model"))
    logits, outputs = jax.eval_shape(functools.partial(forward, net, mesh), params, image)
    rows = []
    for name, layer in params.items():
        shape = (outputs | {"fc8": logits})[name].shape[1:]
        count = sum(math.prod(p.shape) for p in layer.values())
        rows.append((name, shape, count, math.prod(layer["kernel"].shape) * math.prod(shape[:-1])))
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
