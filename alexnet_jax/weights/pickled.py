"""Reads pickled dicts of arrays from .npy files without running code from the pickle."""

import pathlib
import pickle
from typing import Any

import numpy as np


def read_dict(path: pathlib.Path) -> dict[str, list["Pickled"]]:
    """The dict that `np.save` wrote to a file, with a `Pickled` in place of every array.

    Raises:
      pickle.UnpicklingError, or another exception of NumPy or the unpickler: the file holds something else.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape or not dtype.hasobject:
            raise ValueError(f"an array of {dtype} instead of a dict from layers to weights and biases")
        (contents,) = _ArraysOnly(file, encoding="latin1").load().state[4]
        return contents


class Pickled:
    """The arguments and the state from which the pickle would construct an array or a dtype."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The NumPy array. Raises ValueError if its numbers are not floating-point."""
        _, shape, dtype, is_fortran, data = self.state
        if dtype.args[0] not in ("f2", "f4", "f8"):
            raise ValueError(f"an array of {dtype.args[0]}, not of floating-point numbers")
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
