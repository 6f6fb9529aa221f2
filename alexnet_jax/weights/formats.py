"""The file formats of weights, by suffix.

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
    """The functions that read and, if the program can, write files of a format."""

    read: Callable[[pathlib.Path], Weights]
    write: Callable[[pathlib.Path, Weights], None] | None = None


FORMATS = {
    ".pth": Format(torch_file.read, torch_file.write),
    ".onnx": Format(onnx_file.read, onnx_file.write),
    ".npy": Format(npy_file.read),
    ".safetensors": Format(safetensors_file.read, safetensors_file.write),
}

# The exceptions that the readers' libraries raise for a broken file.
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
    """The suffixes of all formats, or only of those that can be written, for messages."""
    return ", ".join(suffix for suffix, form in FORMATS.items() if form.write or not written)


def read(path: str | os.PathLike) -> Weights:
    """Reads weights from a file, by its suffix. Code in the file is never run.

    Raises:
      UserError: the file cannot be read, or its arrays are not those of the net.
    """
    path = pathlib.Path(path).expanduser()
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: no such format; use {suffixes()}")
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
        first_line = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{path}: not an intact {path.suffix} file of weights ({first_line}); no code in it was run"
        ) from error


def write(path: str | os.PathLike, weights: Weights) -> None:
    """Writes weights to a file, by its suffix. Equal weights give equal bytes.

    Raises:
      UserError: the format does not exist or cannot express the net, or the file cannot be written.
    """
    path = pathlib.Path(path).expanduser()
    to_file = FORMATS[path.suffix].write if path.suffix in FORMATS else None
    if not to_file:
        raise UserError(f"{path}: no such format to write; use {suffixes(written=True)}")
    try:
        to_file(path, weights)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
