"""Files that are written completely or not at all, and the lock of a directory."""

import contextlib
import fcntl
import json
import logging
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import IO, Any

from alexnet_jax import UserError

log = logging.getLogger("alexnet_jax")


@contextlib.contextmanager
def whole(path: pathlib.Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary file to write. It is renamed to `path` once it is complete and on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open(mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: pathlib.Path, resource: str = "") -> Iterator[None]:
    """Holds an exclusive lock on a file. The system frees it when the process ends in any way.

    If the file system has no locks, it logs a warning and goes on.

    Args:
      resource: the name of the locked resource in messages; by default the directory of the file.

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror})") from error
    with file:
        try:
            _lock(file, resource or path.parent, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            log.warning("%s: cannot be locked (%s); let no other run use it", resource or path.parent, error.strerror)
        yield


def check_unlocked(path: pathlib.Path) -> None:
    """Raises UserError if another process holds the lock of `locked`."""
    with contextlib.suppress(OSError), path.open("rb") as file:  # no such file, or a file system without locks
        _lock(file, path.parent, fcntl.LOCK_SH)  # shared, because several processes may check at the same time


def _lock(file, resource, mode):
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().decode().strip()
        raise UserError(f"{resource}: in use by {owner}; wait for it, or use another") from error


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Writes a dict as JSON, completely or not at all."""
    with whole(path) as file:
        file.write(json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The dict in a JSON file. Raises UserError if it cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not what this program wrote; restore or remove it")
    return value
