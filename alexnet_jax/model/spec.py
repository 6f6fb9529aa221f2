"""The description of a net: dataclasses of its layers and their fields.

Layers have the names of the 2012 layer files. A layer's `then` lists the operations that follow its convolution or
matrix product, in order: words of `operations.OPERATIONS`, separated by spaces.
"""

import dataclasses
import math
import re
import zlib
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
      name: as in the 2012 layer files; a number at its end is also that of its norms and pools.
      features: maps or units in one tower; in the last layer, the classes.
      then: the operations that follow, see the module.
      cross_tower: whether the layer sees the outputs of both towers, or only those of its own tower. The last layer
        always sees both.
      stddev: standard deviation of the initial weights.
      bias: initial biases.
      decay: weight decay.
    """

    name: str
    features: int
    _: dataclasses.KW_ONLY
    then: str = ""
    cross_tower: bool = False
    stddev: float = 0.01
    bias: float = 0.0
    decay: float = 0.0005

    @property
    def number(self) -> str:
        """The digits at the end of the name: '3' for conv3; the whole name, after a '_', where it has none."""
        digits = re.search(r"\d+$", self.name)
        return digits[0] if digits else f"_{self.name}"

    @property
    def seed(self) -> int:
        """Tells the dropout masks of layers apart: the number, or a checksum of a name without one."""
        return int(self.number) if self.number.isdecimal() else zlib.crc32(self.name.encode())


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
    """A locally connected layer: a convolution with separate kernels and biases at every position."""


@dataclasses.dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer."""


@dataclasses.dataclass(frozen=True)
class Norm:
    """b = a / (k + alpha · Σ a²)^0.75, a sum over `size` neighbouring maps, or over size × size positions of a map."""

    size: int
    alpha: float
    k: float


@dataclasses.dataclass(frozen=True)
class Net:
    """A network.

    Attributes:
      towers: the number of parallel columns, each on its own device if there are enough.
      layers: from the image to the logits.
      norm, same_map_norm: constants of the operations with these names; norm=None leaves out both.
      pool: size and stride of the pools' windows, in pixels.
      ceil_mode: whether the last window of a convolution may reach over the edge, and that of a pool be clipped there,
        so that no pixel is lost: the rule of the 2012 code and of Caffe. Otherwise windows end before the edge.
      image_size: height and width of the input, in pixels.
      input_std: the divisors of the channels before the first layer; 1 in 2012.
      stored_size: height and width of the stored images that the input is cropped from.
      stretch: whether images are stretched to that size, not cropped (section 2).
      dtype: float32 or bfloat16, of activations and of the weights that multiply them. Parameters, the last layer and
        the loss are float32.
      two_fidelities: whether paper and 2012 code differ in what follows conv1, conv2 and conv5, and in weights.
    """

    towers: int
    layers: tuple[Layer, ...]
    norm: Norm | None = Norm(size=5, alpha=1e-4, k=2)
    same_map_norm: Norm = Norm(size=5, alpha=0.001 / 25, k=1)
    pool: tuple[int, int] = (3, 2)
    ceil_mode: bool = True
    image_size: int = 224
    input_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stored_size: int = 256
    stretch: bool = False
    dtype: str = "float32"
    two_fidelities: bool = False

    @property
    def last(self) -> Layer:
        """The layer that makes the logits. It belongs to no tower."""
        return self.layers[-1]

    @property
    def num_classes(self) -> int:
        return self.last.features

    def with_classes(self, number: int) -> "Net":
        """The same net with another number of classes."""
        return changed(self, {self.last.name: {"features": number}})


def changed(net: Net, changes: Mapping[str, Mapping], **fields) -> Net:
    """A net with other `fields`, and with other fields in some layers: {name: {field: value}}.

    Raises:
      ValueError: the net has no layer with such a name.
    """
    if unknown := changes.keys() - {layer.name for layer in net.layers}:
        raise ValueError(f"the net has no layer {', '.join(sorted(unknown))}")
    layers = tuple(dataclasses.replace(layer, **changes.get(layer.name, {})) for layer in net.layers)
    return dataclasses.replace(net, layers=layers, **fields)


def window_count(net: Net, side: int, size: int, stride: int, pad: int = 0) -> int:
    """How many windows fit along a side of `side` pixels; see `Net.ceil_mode`."""
    if side + 2 * pad < size:
        return 0
    steps = (side + 2 * pad - size) / stride
    return 1 + (math.ceil(steps) if net.ceil_mode else math.floor(steps))


def overhang(side: int, size: int, stride: int, count: int, pad: int = 0) -> int:
    """How many pixels the last of `count` windows reaches over the right and bottom edge."""
    return max(0, stride * (count - 1) + size - side - pad)
