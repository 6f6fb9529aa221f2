"""Dicts of arrays in .npy files, which are pickles, read without running anything that these ask for."""

import pickle

import numpy as np


def read_dict(path):
    """The dict in a file that `np.save` made of one, with a `Pickled` in place of every array.

    Raises:
      pickle.UnpicklingError, or what NumPy and the unpickler raise for other files.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape or not dtype.hasobject:
            raise ValueError(f"an array of {dtype} and not a dict from layers to weights and biases")
        (contents,) = _ArraysOnly(file, encoding="latin1").load().state[4]
        return contents


class Pickled:
    """What a pickled array or dtype was to be made from."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state

    def array(self):
        """A NumPy array of floating-point numbers. Raises ValueError if it was none."""
        _, shape, dtype, is_fortran, data = self.state
        if dtype.args[0] not in ("f2", "f4", "f8"):
            raise ValueError(f"an array of {dtype.args[0]}, not of floating-point numbers")
        data = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(data, np.dtype(dtype.args[0]).newbyteorder(dtype.state[1]))
        return flat.reshape(shape, order="F" if is_fortran else "C")


class _ArraysOnly(pickle.Unpickler):
    """Reads plain Python values, and arrays as `Pickled`. Whatever else a pickle asks for is refused.

    NumPy's own constructors are too: they would take addresses from the file.
    """

    def find_class(self, module, name):
        match module.replace("._core", ".core"), name:
            case ("numpy.core.multiarray", "_reconstruct") | ("numpy", "dtype"):
                return Pickled
            case "numpy", "ndarray":
                return None
            case "_codecs", "encode":  # bytes, in the protocols of Python 2
                return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
