"""The file formats of weights: by what a file begins with to read it, by its suffix to write it.

A new format is a module with functions like those of `safetensors_file`, and an entry of FORMATS; docs/extending.md
adds one.
"""

import os
import re
from collections.abc import Callable
from typing import IO, NamedTuple

import safetensors
from google.protobuf.message import DecodeError

from alexnet_jax import UserError
from alexnet_jax.runtime import files
from alexnet_jax.runtime.text import printable
from alexnet_jax.weights import npy_file, onnx_file, safetensors_file, torch_file
from alexnet_jax.weights.weights import Weights


class Format(NamedTuple):
    """A file format.

    Attributes:
      begins: a regular expression for the first bytes of a file.
      read: reads weights from an open file.
      write: writes weights to an open file, if the program can.
    """

    begins: bytes
    read: Callable[[IO[bytes]], Weights]
    write: Callable[[IO[bytes], Weights], None] | None = None


# By the suffix to write. Files to read may have any name: the first format that matches reads them.
FORMATS = {
    # The length of a header in JSON. It can look like the beginning of a pickle or of an ONNX file.
    ".safetensors": Format(rb".{4}\0{4}\{", safetensors_file.read, safetensors_file.write),
    ".onnx": Format(rb"\x08", onnx_file.read, onnx_file.write),  # the first field, the version of ONNX
    # A zip file; a pickle, as PyTorch wrote before 1.6; a tar file, before 0.2.
    ".pth": Format(rb"PK\x03\x04|\x80[\x02-\x05]|.{257}ustar", torch_file.read, torch_file.write),
    ".npy": Format(rb"\x93NUMPY", npy_file.read),
}

# The exceptions that the readers' libraries raise for a broken file.
BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    DecodeError,
    safetensors.SafetensorError,
)


def suffixes(written: bool = False) -> str:
    """The suffixes of all formats, or only of those that can be written, for messages."""
    return ", ".join(suffix for suffix, form in FORMATS.items() if form.write or not written)


def read(path: str | os.PathLike) -> Weights:
    """Reads weights from a file, in the format of its first bytes, whatever its name. Code in it is never run.

    Raises:
      UserError: the file cannot be read, or its arrays are not those of the net.
    """
    path = files.absolute(path)
    with files.reading(path) as file:
        head = file.read(512)
        file.seek(0)
        for suffix, form in FORMATS.items():
            if not re.match(form.begins, head, re.DOTALL):
                continue
            try:
                return form.read(file)
            except UserError as error:
                raise UserError(f"{path}: {printable(error)[:500]}") from error
            except BROKEN as error:
                cause = printable(str(error).partition("\n")[0])[:200] or type(error).__name__
                message = f"not an intact {suffix} file of weights ({cause}); no code in it was run"
                raise UserError(f"{path}: {message}") from error
    raise UserError(f"{path}: its content is in none of the formats of weights that can be read: {suffixes()}")


def write(path: str | os.PathLike, weights: Weights) -> None:
    """Writes weights to a file, by its suffix. Equal weights give equal bytes.

    Raises:
      UserError: the format does not exist or cannot express the net, or the file cannot be written.
    """
    path = files.absolute(path)
    to_file = FORMATS[path.suffix].write if path.suffix in FORMATS else None
    if not to_file:
        raise UserError(f"{path}: no such format to write; use {suffixes(written=True)}")
    with files.whole(path, "wb") as file:
        try:
            to_file(file, weights)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
