"""Reads and writes safetensors files of this program."""

from typing import IO

import numpy as np
import safetensors.numpy

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.weights import weights
from alexnet_jax.weights.weights import KEY, Weights


def parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata in a safetensors file. Raises SafetensorError or ValueError if it is damaged."""
    try:
        arrays = safetensors.numpy.load(data)  # it checks the header, too
    except KeyError as error:
        raise ValueError(f"it holds {error.args[0]}, which NumPy does not have") from error
    end = 8 + int.from_bytes(data[:8], "little")
    header = files.parse_json(data[8:end], {"__metadata__?": {str: str}})
    return arrays, header.get("__metadata__", {})


def read(file: IO[bytes]) -> Weights:
    """The weights in a .safetensors file. Raises UserError if another program wrote it; see also `formats.read`."""
    arrays, metadata = parse(file.read())
    if KEY not in metadata:
        raise UserError("not written by this program; it reads other programs' weights from .pth, .onnx and .npy")
    mean = arrays.pop("mean", np.zeros(0))
    return weights.from_description(metadata[KEY], mean, arrays, weights.dotted, weights.unchanged)


def write(file: IO[bytes], net_weights: Weights) -> None:
    """Writes the parameters under names like conv1.kernel, and `mean`."""
    arrays = net_weights.arrays(weights.unchanged, weights.dotted) | {"mean": net_weights.mean}
    file.write(safetensors.numpy.save(arrays, {KEY: net_weights.description}))
