"""Reads and writes safetensors files of this program."""

from typing import IO

import numpy as np
import safetensors.numpy

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.weights import weights
from alexnet_jax.weights.weights import KEY, Weights


def read(file: IO[bytes]) -> Weights:
    """The weights in a .safetensors file. Raises UserError if another program wrote it; see also `formats.read`."""
    arrays, metadata = files.parse_safetensors(file.read())
    if KEY not in metadata:
        raise UserError("not written by this program; it reads other programs' weights from .pth, .onnx and .npy")
    mean = arrays.pop("mean", np.zeros(0))
    return weights.from_description(metadata[KEY], mean, arrays, weights.dotted, weights.unchanged)


def write(file: IO[bytes], net_weights: Weights) -> None:
    """Writes the parameters under names like conv1.kernel, and `mean`."""
    arrays = net_weights.arrays(weights.unchanged, weights.dotted) | {"mean": net_weights.mean}
    file.write(safetensors.numpy.save(arrays, {KEY: net_weights.description}))
