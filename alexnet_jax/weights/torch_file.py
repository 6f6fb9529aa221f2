"""Reads and writes state dicts of PyTorch: our own, and torchvision's."""

import collections
import io
import pathlib
import pickle
import warnings

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.weights import others, weights
from alexnet_jax.weights.weights import KEY, Weights

NO_STATE_DICT = "not a state dict, or damaged; no code in it was run; make one by torch.save(module.state_dict(), FILE)"


def read(path: pathlib.Path) -> Weights:
    """The weights in a .pth file. Raises UserError if it holds something else; see `formats.read` for other errors."""
    torch = weights.import_module("torch")
    try:
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # its message advises to run the file's code
        raise UserError(NO_STATE_DICT) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)  # as PyTorch's ImageNet example saves it
    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise UserError(NO_STATE_DICT)
    arrays = {
        # DataParallel prefixes keys with "module.".
        key.replace("module.", ""): (x.float() if x.is_floating_point() else x).detach().numpy()
        for key, x in state.items()
    }
    ours = getattr(state, "_metadata", None) or {}
    if KEY not in ours:
        return others.read_torchvision(arrays)
    names = others.torchvision_names if "features.0.weight" in arrays else weights.weight_names
    mean = ours[f"{KEY}.mean"].numpy()
    return weights.from_description(ours[KEY], mean, arrays, names, weights.from_channels_first)


def write(path: pathlib.Path, net_weights: Weights) -> None:
    """Writes a state dict, with torchvision's names for its net. Raises OSError, or UserError without PyTorch."""
    torch = weights.import_module("torch")
    names = others.torchvision_names if net_weights.model["net"] == "one_weird_trick" else weights.weight_names
    arrays = net_weights.arrays(weights.to_channels_first, names)
    state = collections.OrderedDict((name, torch.tensor(x)) for name, x in arrays.items())
    # PyTorch stores the versions of modules in this attribute, and ignores other keys.
    vars(state)["_metadata"] = {KEY: net_weights.description, f"{KEY}.mean": torch.tensor(net_weights.mean)}
    buffer = io.BytesIO()  # to a file, torch.save would raise RuntimeError on a full disk and store the file's name
    torch.save(state, buffer)
    with files.whole(path, "wb") as file:
        file.write(buffer.getbuffer())
