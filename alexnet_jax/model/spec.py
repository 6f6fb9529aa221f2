"""What networks are described by, and what follows from a description: names of outputs, sizes.

Layers have the names of the 2012 layer files. A layer's `then` is what follows its convolution or product, in order:
`relu`, `tanh`, `norm` (over neighbouring maps), `same_map_norm` (over neighbouring places), `pool`, `average_pool`,
`dropout` (outputs halved in testing, section 4.2), `inverted_dropout` (outputs doubled in training, as in Caffe and
torchvision).
"""

import dataclasses
import math
import string


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
      name: as in the 2012 layer files; its number is that of its norms and pools too.
      features: maps or units in one tower; of the last layer, the classes.
      then: what follows, see the module.
      both: whether it sees the outputs of both towers; otherwise those of its own.
      stddev: standard deviation of the initial weights.
      bias: initial biases.
      decay: weight decay.
    """

    name: str
    features: int
    _: dataclasses.KW_ONLY
    then: str = ""
    both: bool = False
    stddev: float = 0.01
    bias: float = 0.0
    decay: float = 0.0005

    @property
    def number(self):
        """As text: '3' for conv3."""
        return self.name.lstrip(string.ascii_lowercase)


@dataclasses.dataclass(frozen=True)
class Conv(Layer):
    """A convolution with kernels of size × size; `groups` divides the maps of a tower once more."""

    _: dataclasses.KW_ONLY
    size: int
    stride: int = 1
    pad: int = 0
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Local(Conv):
    """A convolution with kernels and biases of its own at every place: locally connected."""


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer."""


@dataclasses.dataclass(frozen=True)
class Norm:
    """b = a / (k + alpha · Σ a²)^0.75, a sum over `size` neighbouring maps, or over size × size places of a map."""

    size: int
    alpha: float
    k: float


@dataclasses.dataclass(frozen=True)
class Net:
    """A network.

    Attributes:
      towers: how many columns run side by side, each on its own device where there are enough.
      layers: from the image to the logits.
      norm, same_map_norm: constants of what `then` calls so; norm=None leaves out both.
      pool: size and stride of the pools' windows, in pixels.
      overhang: whether the last window of a convolution may hang over the edge, and that of a pool be clipped there,
        so that no pixel is lost: the 2012 code's rule, and Caffe's. Otherwise windows end before the edge.
      image_size: height and width of the input, in pixels.
      input_std: what the channels are divided by before the first layer; 1 in 2012.
      stored_size: height and width of the stored images that the input is cropped from.
      stretch: whether images are brought to that size by stretching them, not by cropping them (section 2).
      dtype: of activations and of what is multiplied with them, float32 or bfloat16. Parameters, the last layer and
        the loss are float32.
      two_fidelities: whether paper and 2012 code differ in what follows conv1, conv2 and conv5, and in weights.
    """

    towers: int
    layers: tuple[Layer, ...]
    norm: Norm | None = Norm(size=5, alpha=1e-4, k=2)
    same_map_norm: Norm = Norm(size=5, alpha=0.001 / 25, k=1)
    pool: tuple[int, int] = (3, 2)
    overhang: bool = True
    image_size: int = 224
    input_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stored_size: int = 256
    stretch: bool = False
    dtype: str = "float32"
    two_fidelities: bool = False

    @property
    def num_classes(self):
        return self.layers[-1].features

    def with_classes(self, number):
        """The same net with so many classes."""
        return changed(self, {self.layers[-1].name: {"features": number}})


def changed(net, changes, **fields):
    """A net with other `fields`, and with other fields in some layers: {name: {field: value}}."""
    layers = tuple(dataclasses.replace(layer, **changes.get(layer.name, {})) for layer in net.layers)
    return dataclasses.replace(net, layers=layers, **fields)


def operations(net, layer):
    """What follows a layer, in order: (operation, name of its output); without norms where the net has none.

    Norms and pools are called by their number, which is the layer's if they have none of their own; an activation or a
    dropout goes by the name of what it changes.
    """
    name, found = layer.name, []
    for word in layer.then.split():
        op = word.rstrip(string.digits)
        if "norm" in op and not net.norm:
            continue
        if "norm" in op or "pool" in op:
            number = word.removeprefix(op) or layer.number
            name = op.removeprefix("average_") + number
        found.append((op, name))
    return found


def outputs(net):
    """The names of all outputs but the logits, each with its layer, in order."""
    return {
        name: layer for layer in net.layers[:-1] for name in (layer.name, *(name for _, name in operations(net, layer)))
    }


def compute_alike(net, other):
    """Whether two nets give the same, but for rounding, from the same parameters and crops, whatever their classes."""

    def bare(net):
        layers = (dataclasses.replace(layer, stddev=0, bias=0, decay=0) for layer in net.with_classes(0).layers)
        return dataclasses.replace(net, layers=tuple(layers), stretch=False, dtype="")

    return bare(net) == bare(other)


def window_count(net, side, size, stride, pad=0):
    """How many windows fit along a side; see `Net.overhang`."""
    if side + 2 * pad < size:
        return 0
    steps = (side + 2 * pad - size) / stride
    return 1 + (math.ceil(steps) if net.overhang else math.floor(steps))


def overhang(side, size, stride, count, pad=0):
    """How many pixels the last of `count` windows reaches over the right and bottom edge."""
    return max(0, stride * (count - 1) + size - side - pad)


def sizes(net):
    """For every layer (layer, channels that it sees, side of its input, side of its output), in pixels."""
    channels, side = 3, net.image_size
    for layer in net.layers:
        seen = channels * (net.towers if layer.both else 1)
        out = window_count(net, side, layer.size, layer.stride, layer.pad) if isinstance(layer, Conv) else 1
        yield layer, seen, side, out
        channels, side = layer.features, out
        for op, _ in operations(net, layer):
            if "pool" in op:
                side = window_count(net, side, *net.pool)
