"""Reads and writes state dicts of PyTorch: our own, and torchvision's."""

import collections
import importlib.util
import io
from typing import IO

import numpy as np

from alexnet_jax import UserError
from alexnet_jax.runtime import untrusted
from alexnet_jax.weights import others, weights
from alexnet_jax.weights.weights import KEY, Weights


def read(file: IO[bytes]) -> Weights:
    """The weights in a .pth file. Raises UserError or ValueError if it holds something else; see `formats.read`."""
    if file.read(262).endswith(b"ustar"):
        raise UserError("a tar archive; unpack it, or, if PyTorch before 0.2 wrote it, save it by a newer version")
    if not importlib.util.find_spec("torch"):
        raise UserError(weights.NEEDS.format("torch"))
    state, texts = untrusted.read(file, "pth")
    if KEY in texts:
        mean = state.pop(f"{KEY}.mean", np.zeros(0))
        names = others.torchvision_names if "features.0.weight" in state else weights.weight_names
        return weights.from_description(texts[KEY], mean, state, names, weights.from_channels_first)
    arrays = {key.replace("module.", ""): x for key, x in state.items()}  # DataParallel prefixes keys with "module."
    if len(arrays) < len(state):
        raise UserError("has keys that differ only in DataParallel's prefix; save one of the state dicts")
    return others.read_torchvision(arrays)


def write(file: IO[bytes], net_weights: Weights) -> None:
    """Writes a state dict, with torchvision's names for its net. Raises UserError without PyTorch."""
    torch = weights.import_module("torch")
    names = others.torchvision_names if net_weights.model["net"] == "one_weird_trick" else weights.weight_names
    arrays = net_weights.arrays(weights.to_channels_first, names)
    state = collections.OrderedDict((name, torch.tensor(x)) for name, x in arrays.items())
    # PyTorch stores the versions of modules in this attribute, and ignores other keys.
    vars(state)["_metadata"] = {KEY: net_weights.description, f"{KEY}.mean": torch.tensor(net_weights.mean)}
    buffer = io.BytesIO()  # to a file, torch.save would raise RuntimeError on a full disk and store the file's name
    torch.save(state, buffer)
    file.write(buffer.getbuffer())
