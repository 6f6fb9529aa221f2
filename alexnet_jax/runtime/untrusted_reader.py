"""A program that reads another program's file from its standard input, and writes its arrays to its standard output.

  python untrusted_reader.py {npy | pth | cifar | mat} SECONDS BYTES < FILE

`untrusted` starts it: a pickle can make its reader crash, or use any amount of time and memory, and here it ends no
more than this process. The output is a safetensors file. It imports nothing of the package, so that it starts at once.
"""

import contextlib
import json
import os
import pickle
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import safetensors.numpy


def read_npy(file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays in a dict from layers to weights and biases, as `np.save` wrote it, under names like conv1.kernel."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if shape or not dtype.hasobject:
        raise ValueError(f"an array of {dtype} instead of a dict from layers to weights and biases")
    (contents,) = _ArraysOnly(file, encoding="latin1").load().state[4]
    arrays: dict[str, np.ndarray] = {}
    for layer, (kernel, biases) in contents.items():
        arrays |= {f"{layer}.kernel": kernel.array(), f"{layer}.bias": biases.array()}
    return arrays, {}


class Pickled:
    """The arguments and the state from which the pickle would construct an array or a dtype."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self, dtypes: Sequence[str] = ("f2", "f4", "f8")) -> np.ndarray:
        """The NumPy array. Raises ValueError if its dtype is not one of `dtypes`."""
        _, shape, dtype, is_fortran, data = self.state
        if dtype.args[0] not in dtypes:
            raise ValueError(f"an array of {dtype.args[0]}, not of {' or '.join(dtypes)}")
        data = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(data, np.dtype(dtype.args[0]).newbyteorder(dtype.state[1]))
        return flat.reshape(shape, order="F" if is_fortran else "C")


class _ArraysOnly(pickle.Unpickler):
    """Reads plain Python values, and arrays as `Pickled`. It refuses every other class or function.

    It does not call NumPy's constructors: they would take memory addresses from the file.
    """

    def find_class(self, module: str, name: str) -> Any:
        match module.replace("._core", ".core"), name:
            case ("numpy.core.multiarray", "_reconstruct") | ("numpy", "dtype"):
                return Pickled
            case "numpy", "ndarray":
                return None
            case "_codecs", "encode":  # bytes, in the protocols of Python 2
                return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_pth(file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a PyTorch state dict by their keys, with floating-point numbers as float32.

    What our own files have beside them, in the dict's attribute `_metadata`, is added: its arrays and its texts.
    """
    import torch

    no_state_dict = "not a state dict, or damaged; make one by torch.save(module.state_dict(), FILE)"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # its message advises to run the file's code
        raise ValueError(no_state_dict) from error
    if isinstance(state, dict):
        state = state.get("state_dict", state)  # as PyTorch's ImageNet example saves it
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(x, torch.Tensor) for key, x in state.items()
    ):
        raise ValueError(no_state_dict)
    metadata = {key: x for key, x in (getattr(state, "_metadata", None) or {}).items() if isinstance(key, str)}
    tensors = {**state, **{key: x for key, x in metadata.items() if isinstance(x, torch.Tensor)}}
    # A tensor can be a view that repeats the numbers of a small file endlessly.
    if sum(x.numel() for x in tensors.values()) > os.fstat(file.fileno()).st_size:
        raise ValueError("its arrays have more numbers than the file has bytes")
    arrays = {key: (x.float() if x.is_floating_point() else x).detach().numpy() for key, x in tensors.items()}
    return arrays, {key: text for key, text in metadata.items() if isinstance(text, str)}


def read_cifar(file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What a pickle of CIFAR holds: the pixels, labels and file names of some images, or the names of the classes.

    Returns:
      arrays: `data`, uint8 [N, 3072], or [3072, N] as the 2012 code has it; and the labels, int64 [N].
      texts: lists of names, as JSON.
    """
    arrays, texts = {}, {}
    contents = _ArraysOnly(file, encoding="latin1").load()
    for key, value in contents.items():
        key = _text(key)
        value = [_text(x) for x in value] if isinstance(value, list) else value
        if isinstance(value, Pickled) and key == "data":
            arrays[key] = value.array(("u1", "b", "B"))
        elif isinstance(value, list) and all(isinstance(x, int) for x in value):
            arrays[key] = np.array(value, np.int64)
        elif isinstance(value, list) and all(isinstance(x, str) for x in value):
            texts[key] = json.dumps(value)
    return arrays, texts


def _text(value: Any) -> Any:
    """Bytes as a text, as Python 2 had them; other values are unchanged."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def read_mat(file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The classes in `meta.mat` of a development kit of ILSVRC: `ids`, int64 [N], and their WordNet ids as JSON."""
    import scipy.io

    synsets = np.ravel(scipy.io.loadmat(file, squeeze_me=True, variable_names=["synsets"])["synsets"])
    (ids,) = (name for name in synsets.dtype.names if name.startswith("ILSVRC"))
    return {"ids": synsets[ids].astype(np.int64)}, {"WNID": json.dumps([str(x) for x in synsets["WNID"]])}


READERS: dict[str, Callable[[IO[bytes]], tuple[dict[str, np.ndarray], dict[str, str]]]] = {
    "npy": read_npy,
    "pth": read_pth,
    "cifar": read_cifar,
    "mat": read_mat,
}


def serialize(arrays: Mapping[str, np.ndarray], texts: dict[str, str]) -> bytes:
    """A safetensors file. Its format has one order of bytes and of axes."""
    plain = {key: np.asarray(x, x.dtype.newbyteorder("="), "C") for key, x in arrays.items()}
    return safetensors.numpy.save(plain, texts or None)  # some versions write no header of nothing but no texts


def limit(seconds: int, memory: int) -> None:
    """Ends the process after so many seconds of computing. Allocating more than so many bytes fails."""
    for name, most in (("RLIMIT_CORE", 0), ("RLIMIT_CPU", seconds), ("RLIMIT_DATA", memory)):
        # A system may lack a limit, or have a stricter one already.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            number = getattr(resource, name)
            resource.setrlimit(number, (most, resource.getrlimit(number)[1]))


def main():
    kind, seconds, memory = sys.argv[1:]
    with open(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # what a library prints
        limit(int(seconds), int(memory))
        sys.stdin.seek(0)  # it shares its place in the file with the process that opened it
        try:
            output.write(serialize(*READERS[kind](sys.stdin.buffer)))
        except Exception as error:
            first_line = str(error).partition("\n")[0] or type(error).__name__
            sys.exit(first_line.encode("ascii", "backslashreplace")[:200].decode())


if __name__ == "__main__":
    main()
