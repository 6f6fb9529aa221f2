"""The one place that opens files.

What is read is a regular file of the expected content. What is written is complete or absent, and goes through no link:
a directory may come from somebody else, and its links may lead anywhere. Whatever fails raises UserError, in one line.
"""

import contextlib
import errno
import fcntl
import io
import json
import logging
import os
import pathlib
import secrets
import socket
import stat
import tokenize
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import safetensors.numpy

from alexnet_jax import UserError
from alexnet_jax.runtime import interruption

log = logging.getLogger("alexnet_jax")

UNFINISHED = ".alexnet_jax-"  # begins the names of temporary files
RESTORE = "restore or remove it"
MOST_TEXT = 2**28  # bytes of a text file; bounds the memory for a huge file that is none

Path = str | os.PathLike
Version = tuple[int, int]  # of a file; see `version`

# The exceptions that NumPy raises for a file that is not an array.
NO_ARRAY = (
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def absolute(path: Path) -> pathlib.Path:
    """The absolute path, with `~` expanded. Raises UserError if there is no such user, or no current directory."""
    if "\0" in os.fspath(path):
        raise UserError(f"{path}: no path holds a zero byte; use another")
    try:
        return pathlib.Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no such user; write the whole path") from error
    except OSError as error:
        raise UserError(f"{path}: the current directory does not exist any more; change to another") from error


@contextlib.contextmanager
def explaining(path: Path, verb: str, remedy: str = "") -> Iterator[None]:
    """Turns an OSError of its block into a UserError: "PATH: cannot be VERB (CAUSE); REMEDY"."""
    try:
        yield
    except BrokenPipeError:  # of a print in the block
        raise
    except OSError as error:
        is_link = error.errno == errno.ELOOP and verb == "written"
        cause = "is a link" if is_link else error.strerror or error
        raise UserError(f"{path}: cannot be {verb} ({cause}){_advice(remedy)}") from error


def exists(path: Path) -> bool:
    """Whether there is a file or directory of this name. Raises UserError if that cannot be known."""
    return _mode(path) != 0


def is_directory(path: Path) -> bool:
    """Whether there is a directory of this name. Raises UserError if that cannot be known."""
    return stat.S_ISDIR(_mode(path))


def _mode(path):
    """The type and the permissions of a file; 0 if there is none."""
    with explaining(path, "read"):
        try:
            return os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except ValueError as error:  # a zero byte in the path
            raise OSError(errno.EINVAL, str(error)) from error


@contextlib.contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[IO[bytes]]:
    """Opens a file to read its bytes. It refuses pipes and devices, which could make the program wait for ever.

    Args:
      remedy: what the message tells the user to do.

    Raises:
      UserError: the file cannot be opened or read, or is not a regular one.
    """
    with explaining(path, "read", remedy):
        descriptor = _open(path, os.O_RDONLY)
        with open(path, "rb", opener=lambda *_: descriptor) as file:  # file.name is the path
            yield file


def read_bytes(path: Path, most: int = -1, remedy: str = "") -> bytes:
    """The bytes of a file, or the first `most` of them. Raises as `reading`."""
    with reading(path, remedy) as file:
        return file.read(most)


def version(path: Path, remedy: str = "") -> Version:
    """What stays the same as long as nobody writes to a file: its bytes and the time of the last change."""
    with explaining(path, "read", remedy):
        return _version(os.stat(path))


def _version(status):
    return status.st_size, status.st_mtime_ns


def check_unchanged(path: Path, opened: Version, remedy: str = "") -> None:
    """Raises UserError if the `version` of a file is not `opened` any more."""
    if version(path, remedy) != opened:
        raise UserError(f"{path}: has changed since it was opened{_advice(remedy)}")


def read_part(path: Path, opened: Version, offset: int, length: int, remedy: str = "") -> bytes:
    """`length` bytes of a file. Raises as `reading`, and UserError if its `version` is not `opened` any more."""
    with explaining(path, "read", remedy):
        descriptor = _open(path, os.O_RDONLY)  # quicker than `reading`, for images one by one
        try:
            data = os.pread(descriptor, length, offset)
            unchanged = _version(os.fstat(descriptor)) == opened  # afterwards: what was read before a change is right
        finally:
            os.close(descriptor)
    if not unchanged or len(data) < length:
        raise UserError(f"{path}: has changed since it was opened{_advice(remedy)}")
    return data


def read_text(path: Path, remedy: str = RESTORE) -> str:
    """The text of a file. Raises as `reading`, and UserError if it is not UTF-8."""
    data = read_bytes(path, MOST_TEXT + 1, remedy)
    if len(data) > MOST_TEXT:
        raise UserError(f"{path}: cannot be read (more than {MOST_TEXT:,} bytes){_advice(remedy)}")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read (not text in UTF-8){_advice(remedy)}") from error


def read_json(path: Path, shape: Any = dict, remedy: str = RESTORE) -> Any:
    """The value in a JSON file.

    Args:
      shape: see `check_shape`.

    Raises:
      UserError: as `read_text`; or the value has another shape.
    """
    text = read_text(path, remedy)
    try:
        return parse_json(text, shape)
    except ValueError as error:
        raise UserError(f"{path}: is not what this program wrote ({error}){_advice(remedy)}") from error


def parse_json(text: str | bytes, shape: Any = dict) -> Any:
    """The value in a JSON text. Raises ValueError if it is not JSON, or not of this shape; see `check_shape`."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    check_shape(value, shape)
    return value


def parse_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata in a safetensors file. Raises SafetensorError or ValueError if it is damaged."""
    try:
        arrays = safetensors.numpy.load(data)  # it checks the header, too
    except KeyError as error:
        raise ValueError(f"it holds {error.args[0]}, which NumPy does not have") from error
    end = 8 + int.from_bytes(data[:8], "little")
    header = parse_json(data[8:end], {"__metadata__?": {str: str}})
    return arrays, header.get("__metadata__", {})


def check_shape(value: Any, shape: Any, name: str = "the whole") -> None:
    """Raises ValueError if a value from a JSON file does not have a shape; its message names the place.

    A shape is
      a type or a union of types; `float` includes integers, and `object` is anything;
      [shape] for a list of such values;
      {name: shape, 'name?': shape} for a dict with these keys, some optional, and perhaps others;
      {str: shape} for a dict with any keys.
    """
    if isinstance(shape, list):
        check_shape(value, list, name)
        for i, item in enumerate(value):
            check_shape(item, shape[0], f"{name}[{i}]")
    elif isinstance(shape, dict):
        check_shape(value, dict, name)
        for key, of_key in (dict.fromkeys(value, shape[str]) if str in shape else shape).items():
            key, optional = (key.removesuffix("?"), key.endswith("?")) if str not in shape else (key, False)
            if key in value:
                check_shape(value[key], of_key, key if name == "the whole" else f"{name}.{key}")
            elif not optional:
                raise ValueError(f"{name} has no {key!r}")
    elif (
        not isinstance(value, shape | int if shape is float else shape)
        or isinstance(value, bool)
        and (shape in (int, float))
    ):
        raise ValueError(f"{name} is {type(value).__name__} instead of {getattr(shape, '__name__', shape)}")


def read_array(path: Path, remedy: str = RESTORE) -> np.ndarray:
    """The array in a .npy file. Raises as `reading`, and UserError if the file holds something else, or too little."""
    with reading(path, remedy) as file:
        header = _map_array(path, remedy)
        # Read, because a mapped file that shrinks would kill the process.
        file.seek(header.offset)
        values = np.fromfile(file, header.dtype, header.size)
        if len(values) < header.size:
            raise UserError(f"{path}: is not a whole array (it has become shorter){_advice(remedy)}")
        return values.reshape(header.shape, order="C" if header.flags.c_contiguous else "F")


def check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, remedy: str = RESTORE) -> None:
    """Raises UserError if a file is not a .npy file that ends with an array of this shape and dtype, in C order."""
    array = _map_array(path, remedy)
    found = array.shape, array.dtype, array.flags.c_contiguous, array.offset + array.nbytes
    if found != (shape, dtype, True, os.path.getsize(path)):
        raise UserError(f"{path}: is not a whole array of {dtype} {list(shape)}{_advice(remedy)}")


def _map_array(path, remedy):
    with reading(path, remedy):
        try:
            # It checks that the file has what the header promises. Reading would first allocate that.
            return np.lib.format.open_memmap(path, mode="r")
        except NO_ARRAY as error:
            raise UserError(f"{path}: is not a whole array ({error}){_advice(remedy)}") from error


@contextlib.contextmanager
def whole(path: Path, mode: str = "w", remedy: str = "") -> Iterator[IO]:
    """Opens a temporary file to write. It is renamed to `path` once it is complete and on the disk.

    If `path` is a link, the file replaces the link.

    Args:
      remedy: what the message tells the user to do.

    Raises:
      UserError: it cannot be written.
    """
    with explaining(path, "written", remedy), temporary(pathlib.Path(path).parent) as unfinished:
        with open(_open(unfinished, os.O_WRONLY), mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)


def write_array(path: Path, array: np.ndarray, remedy: str = "") -> None:
    """Writes a .npy file. Raises as `whole`."""
    encoded = io.BytesIO()  # on a full disk, NumPy's own writing does not raise the system's error
    np.save(encoded, array)
    with whole(path, "wb", remedy) as file:
        file.write(encoded.getbuffer())


@contextlib.contextmanager
def temporary(directory: Path) -> Iterator[pathlib.Path]:
    """The path of a new, empty file with a random name. It is removed at the end, unless it was renamed.

    Raises OSError if it cannot be made.
    """
    path = pathlib.Path(directory) / f"{UNFINISHED}{secrets.token_hex(8)}"
    interruption.unfinished.add(path)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        interruption.unfinished.discard(path)


def remove_unfinished(directory: Path) -> None:
    """Removes the temporary files that killed processes left in a directory. Call it while it is locked."""
    for path in pathlib.Path(directory).glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def append(path: Path, mode: str = "a", buffering: int = -1) -> IO:
    """Opens a file to append to, made if missing. Raises UserError if it cannot be opened, or is a link."""
    with explaining(path, "written", ""):
        descriptor = _open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
        return open(descriptor, mode, buffering, encoding=None if "b" in mode else "utf-8")


def make_directory(path: Path, remedy: str = "") -> None:
    """Makes a directory and its parents, if they do not exist. Raises UserError if it cannot be made."""
    with explaining(path, "written", remedy):
        try:
            pathlib.Path(path).mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UserError(f"{path}: is not a directory; use another path") from error


def check_no_link(path: Path) -> None:
    """Raises UserError if a part of a working directory is a link: what it leads to may belong to another run."""
    if os.path.islink(path):
        raise UserError(f"{path}: is a link; remove it, or make the whole working directory a link")


def _open(path, flags):
    """A file descriptor. Raises UserError if it is not of a regular file, or if a file to write has other names."""
    try:
        # A pipe without a writer would make open wait.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except ValueError as error:  # a zero byte in the path
        raise OSError(errno.EINVAL, str(error)) from error
    status = os.fstat(descriptor)
    is_file, names = stat.S_ISREG(status.st_mode), status.st_nlink
    if is_file and (flags & os.O_ACCMODE == os.O_RDONLY or names <= 1):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise UserError(
        f"{path}: is {'a link' if is_file else 'a pipe or a device'}, not a file of its own; remove it, or use another"
    )


def _advice(remedy):
    return f"; {remedy}" if remedy else ""


@contextlib.contextmanager
def locked(path: pathlib.Path, resource: str = "") -> Iterator[None]:
    """Holds an exclusive lock on a file. The system frees it when the process ends in any way.

    If the file system has no locks, it logs a warning and goes on.

    Args:
      resource: the name of the locked resource in messages; by default the directory of the file.

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    with append(path, "a+b", buffering=0) as file:
        try:
            _lock(file, resource or path.parent, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            log.warning("%s: cannot be locked (%s); let no other run use it", resource or path.parent, error.strerror)
        yield


def check_unlocked(path: pathlib.Path) -> None:
    """Raises UserError if another process holds the lock of `locked`."""
    if path.is_file():
        with reading(path) as file, contextlib.suppress(OSError):  # of a file system without locks
            _lock(file, path.parent, fcntl.LOCK_SH)  # shared, because several processes may check at the same time


def _lock(file, resource, mode):
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read(200).decode(errors="replace").strip()
        raise UserError(f"{resource}: in use by {owner}; wait for it, or use another") from error


def write_json(path: Path, value: dict[str, Any], remedy: str = "") -> None:
    """Writes a dict as JSON. Raises as `whole`."""
    with whole(path, remedy=remedy) as file:
        file.write(json.dumps(value, indent=2) + "\n")
