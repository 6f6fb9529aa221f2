"""The formats of files of weights, by suffix.

A new format is a module with functions like those of `safetensors_file`, and an entry of FORMATS; docs/extending.md
adds one.
"""

import os
import pathlib
import pickle
from collections.abc import Callable
from typing import NamedTuple

import safetensors
from google.protobuf.message import DecodeError

from alexnet_jax import UserError
from alexnet_jax.weights import npy_file, onnx_file, safetensors_file, torch_file
from alexnet_jax.weights.weights import Weights


class Format(NamedTuple):
    """How files of a format are read and, where they are, written."""

    read: Callable[[pathlib.Path], Weights]
    write: Callable[[pathlib.Path, Weights], None] | None = None


FORMATS = {
    ".pth": Format(torch_file.read, torch_file.write),
    ".onnx": Format(onnx_file.read, onnx_file.write),
    ".npy": Format(npy_file.read),
    ".safetensors": Format(safetensors_file.read, safetensors_file.write),
}

# What the libraries behind the readers raise for a broken file, each in its own way.
BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    DecodeError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def suffixes(written: bool = False) -> str:
    """The suffixes of the formats that are read, or of those that are written, for messages."""
    return ", ".join(suffix for suffix, each in FORMATS.items() if each.write or not written)


def read(path: str | os.PathLike) -> Weights:
    """The weights in a file, by its suffix. No code that the file may hold is ever run.

    Raises:
      UserError: the file cannot be read, or its arrays are not those of the net.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: no such format; there are {suffixes()}")
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return FORMATS[path.suffix].read(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except BROKEN as error:
        why = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{path}: no {path.suffix} file of weights, or a damaged one ({why}); nothing in it was run"
        ) from error


def write(path: str | os.PathLike, weights: Weights) -> None:
    """Writes weights to a file, by its suffix: the same bytes for the same weights.

    Raises:
      UserError: there is no such format, it cannot express the net, or the file cannot be written.
    """
    path = pathlib.Path(path).expanduser()
    to_file = FORMATS[path.suffix].write if path.suffix in FORMATS else None
    if not to_file:
        raise UserError(f"{path}: no such format to write; there are {suffixes(written=True)}")
    try:
        to_file(path, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
