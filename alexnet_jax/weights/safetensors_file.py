"""Reads and writes safetensors files of this program."""

import pathlib

import safetensors.numpy

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.weights import weights
from alexnet_jax.weights.weights import KEY, Weights


def read(path: pathlib.Path) -> Weights:
    """The weights in a .safetensors file. Raises UserError if another program wrote it; see also `formats.read`."""
    with safetensors.safe_open(path, "numpy") as file:
        description = (file.metadata() or {}).get(KEY)
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, not a dict
    if description is None:
        raise UserError("not written by this program; it reads other programs' weights from .pth, .onnx and .npy")
    mean = arrays.pop("mean", ())
    return weights.from_description(description, mean, arrays, weights.dotted, weights.unchanged)


def write(path: pathlib.Path, net_weights: Weights) -> None:
    """Writes the parameters under names like conv1.kernel, and `mean`. Raises OSError."""
    arrays = net_weights.arrays(weights.unchanged, weights.dotted) | {"mean": net_weights.mean}
    with files.whole(path, "wb") as file:
        file.write(safetensors.numpy.save(arrays, {KEY: net_weights.description}))
