"""A trained net in memory, and its parameters in the layouts of other programs."""

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import UserError, settings
from alexnet_jax.data.class_names import imagenet_names
from alexnet_jax.model import alexnet, nets, spec, structure
from alexnet_jax.runtime import files
from alexnet_jax.training import fidelity

KEY = "alexnet_jax"  # of `Weights.description` in the metadata of files
NEEDS = "needs {0}; pip install -e '.[{0}]'"  # a message about one of the package's extras

Convert = Callable[[spec.Net, str, str, Any], Any]  # from (net, layer, 'kernel' or 'bias', array) to another layout
Names = Callable[[str, str], str]  # from (layer, 'kernel' or 'bias') to a key


@dataclasses.dataclass(frozen=True)
class Weights:
    """A trained net in memory.

    Attributes:
      model: the fields of `config.model`, as a dict.
      params: float32 NumPy arrays in the structure of `alexnet.init`.
      mean: float32, subtracted from images: a mean image or channel means [3], RGB, 0–255.
      class_names: a name for each output.
      step: the step of the training; 1 if it is unknown.
    """

    model: dict[str, Any]
    params: dict[str, dict[str, np.ndarray]]
    mean: np.ndarray
    class_names: tuple[str, ...]
    step: int = 1

    @property
    def net(self) -> spec.Net:
        return build_net(self.model, len(self.class_names))

    @property
    def description(self) -> str:
        """All fields but the arrays, as JSON."""
        return json.dumps({"model": self.model, "class_names": self.class_names, "step": self.step}, sort_keys=True)

    def arrays(self, convert: Convert, names: Names) -> dict[str, np.ndarray]:
        """All parameters in another layout, by their keys."""
        return {
            names(layer, leaf): np.ascontiguousarray(convert(self.net, layer, leaf, x))
            for layer in (layer.name for layer in self.net.layers)
            for leaf in ("kernel", "bias")
            for x in [self.params[layer][leaf]]
        }


def to_channels_first(net: spec.Net, name: str, leaf: str, x: Any) -> Any:
    """An array of our layout in that of PyTorch and ONNX: OIHW and out × in, maps flattened channels first."""
    axes, in_channels, side = _layout(net, name, leaf)
    if in_channels is None:
        return x.transpose(axes)
    return x.reshape(side, side, in_channels, -1).transpose(axes).reshape(-1, in_channels * side * side)


def from_channels_first(net: spec.Net, name: str, leaf: str, x: Any) -> Any:
    """The inverse of `to_channels_first`."""
    axes, in_channels, side = _layout(net, name, leaf)
    back = [axes.index(axis) for axis in range(len(axes))]
    if in_channels is None:
        return x.transpose(back)
    return x.reshape(-1, in_channels, side, side).transpose(back).reshape(side * side * in_channels, -1)


def _layout(net, name, leaf):
    # The order of our axes; for kernels of dense layers also the number and the side of their input maps.
    layer, in_channels, side, _ = next(size for size in structure.sizes(net) if size[0].name == name)
    if isinstance(layer, spec.Local):
        return ((5, 4, 2, 3, 0, 1) if leaf == "kernel" else (2, 0, 1)), None, None
    if leaf == "bias":
        return (0,), None, None
    return (3, 2, 0, 1), *((in_channels, side) if isinstance(layer, spec.Dense) else (None, None))


def unchanged(net: spec.Net, name: str, leaf: str, x: Any) -> Any:
    """The identity: our own layout."""
    return x


def dotted(layer: str, leaf: str) -> str:
    """Our own keys, as conv1.kernel."""
    return f"{layer}.{leaf}"


def weight_names(layer: str, leaf: str) -> str:
    """Our keys in PyTorch and ONNX, which call kernels weights, as conv1.weight."""
    return f"{layer}.{'weight' if leaf == 'kernel' else leaf}"


def build_net(model: Mapping[str, Any], num_classes: int) -> spec.Net:
    """The net of a resolved `config.model`, with a number of classes."""
    return nets.from_config(ConfigDict(model)).with_classes(num_classes)


def build_model(net: str, **fields) -> dict[str, Any]:
    """The resolved `config.model` of a net with this name and other fields, as a dict."""
    config = settings.defaults()
    config.model.update({"net": net} | fields)
    return fidelity.resolve(config).model.to_dict()


def read_params(
    net: spec.Net, arrays: Mapping[str, Any], names: Names, convert: Convert
) -> dict[str, dict[str, np.ndarray]]:
    """Parameters from the arrays of a file. Raises UserError if the arrays are not exactly the net's.

    Args:
      names: the keys of the net's parameters in `arrays`.
      convert: from the layout of the file to ours.
    """
    back = to_channels_first if convert is from_channels_first else unchanged
    shapes = alexnet.shapes(net)
    keys = {names(layer, leaf): (layer, leaf) for layer in shapes for leaf in ("kernel", "bias")}
    if missing := keys.keys() - arrays.keys():
        raise UserError(f"has no {_listed(missing)}; is it from another net?")
    if extra := arrays.keys() - keys.keys():
        raise UserError(f"also holds {_listed(extra)}, which the net does not have; is it from another net?")
    for key, (layer, leaf) in keys.items():
        shape = jax.eval_shape(functools.partial(back, net, layer, leaf), shapes[layer][leaf]).shape
        if arrays[key].shape != shape:
            raise UserError(f"{key} has the shape {arrays[key].shape} instead of {shape}; is it from another net?")
    params: dict[str, dict[str, np.ndarray]] = {layer: {} for layer in shapes}
    for key, (layer, leaf) in keys.items():
        params[layer][leaf] = np.ascontiguousarray(convert(net, layer, leaf, _float32(key, arrays[key])))
    return params


def _float32(key, x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(f"{key} holds {x.dtype}, not floating-point numbers")
    with np.errstate(over="ignore"):  # of float64
        x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise UserError(f"{key} holds numbers that are not finite; the net is unusable")
    return x


def _listed(keys):
    listed = sorted(keys)
    return ", ".join(listed[:16]) + (f" and {len(listed) - 16} more" if len(listed) > 16 else "")


def class_names(number: int) -> tuple[str, ...]:
    """ImageNet's class names if the number is 1000: all formats have them in this order. Otherwise 'class 0', …"""
    names = tuple(imagenet_names())
    return names if number == len(names) else tuple(f"class {i}" for i in range(number))


def from_description(
    description: str, mean: np.ndarray, arrays: Mapping[str, Any], names: Names, convert: Convert
) -> Weights:
    """The weights in a file that this program wrote; arguments as for `read_params`.

    Raises:
      UserError, TypeError, ValueError: the description is damaged, or another version wrote it.
    """
    fields = files.parse_json(description, {"model": dict, "class_names": [str], "step": int})
    if unknown := fields["model"].keys() - settings.defaults().model.keys():
        raise UserError(f"was written by another version of this program: its net has {', '.join(sorted(unknown))}")
    model = build_model(**fields["model"] | {"input_std": tuple(fields["model"]["input_std"])})  # JSON has no tuples
    classes, step = tuple(fields["class_names"]), fields["step"]
    net = build_net(model, len(classes))
    if mean.shape not in ((3,), (net.stored_size, net.stored_size, 3)):
        raise ValueError(f"its mean, of shape {mean.shape}, is not that of the net's images")
    if not 1 <= step < 2**31:
        raise ValueError(f"its step is {step}")
    return Weights(model, read_params(net, arrays, names, convert), _float32("mean", mean), classes, step)


def import_module(name: str) -> Any:
    """Imports a module of one of the package's extras. Raises UserError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(NEEDS.format(name)) from error
