"""Small files that are there whole or not at all, and the lock of a directory."""

import contextlib
import fcntl
import json
import logging
import os
import socket

from alexnet_jax import UserError

log = logging.getLogger("alexnet_jax")


@contextlib.contextmanager
def whole(path, mode="w"):
    """A file to write that takes the name `path` when it is complete and on the disk."""
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
def locked(path):
    """Holds a file for this process alone, until the process ends in whatever way.

    Where the file system has no locks, a warning says so.

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    try:
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be written ({error.strerror})") from error
    with file:
        try:
            _lock(file, path, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            log.warning("%s: cannot be locked (%s); let no other run use it", path.parent, error.strerror)
        yield


def check_unlocked(path):
    """Raises UserError if another process holds a file by `locked`."""
    with contextlib.suppress(OSError), path.open("rb") as file:  # of no file, or a file system without locks
        _lock(file, path, fcntl.LOCK_SH)  # for many can look at the same time


def _lock(file, path, how):
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().decode().strip()
        raise UserError(f"{path.parent}: in use by {owner}; wait for it, or use another") from error


def write_json(path, value):
    """Writes a dict as JSON, whole or not at all."""
    with whole(path) as file:
        file.write(json.dumps(value, indent=2) + "\n")


def read_json(path):
    """The dict in a JSON file. Raises UserError if there is none."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not what this program wrote; restore or remove it")
    return value
