"""Several processes that train one net together (jax.distributed): how they meet, and how they agree.

All run the same command on the same directories. What one of them meets alone, a broken image or a signal, it has to
tell the others: a process that leaves out a collective makes all others wait for it.
"""

import concurrent.futures
import contextlib
import logging
import os
import signal
import socket
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax import UserError
from alexnet_jax.runtime import files, interruption, sharding

log = logging.getLogger("alexnet_jax")

SILENCE = 30  # seconds without a sign of life, after which a process counts as dead and the others end
WAIT = 300  # seconds for all of them to start
LAST_WORDS = 2  # seconds that process 0 stays for the others to say theirs: when it ends, JAX aborts them
_TROUBLE = 1000  # above all signal numbers


def join(coordinator_address=None, num_processes=None, process_id=None):
    """Meets the other processes, before anything asks JAX for devices.

    Without arguments, JAX asks the scheduler that started the processes: Slurm, a TPU pod, Open MPI or Kubernetes.

    Raises:
      UserError: there is no scheduler, or the processes did not meet.
    """
    by_hand = coordinator_address is not None
    if by_hand:
        _check_address(coordinator_address, process_id)
        if process_id == 0:
            log.info("waiting for %d other processes at %s", num_processes - 1, coordinator_address)
    # Its own notice of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    # In a thread, as it waits for the others outside Python.
    meeting = concurrent.futures.ThreadPoolExecutor(1).submit(
        jax.distributed.initialize,
        coordinator_address,
        num_processes,
        process_id,
        cluster_detection_method="deactivate" if by_hand else None,
        initialization_timeout=WAIT + 60,
        heartbeat_timeout_seconds=SILENCE,
        shutdown_timeout_seconds=SILENCE,
    )
    began = time.monotonic()
    while not concurrent.futures.wait([meeting], timeout=0.1).done:
        if interruption.received():
            _say("interrupted before the processes had met")
            os._exit(128 + interruption.received())
        if time.monotonic() - began > WAIT:
            where = f"--coordinator_address={coordinator_address}: " if by_hand else ""
            _say(f"{where}the processes did not meet within {WAIT} s; was each started, with the same address?")
            os._exit(1)
    try:
        meeting.result()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if "should be defined" in str(error) or "must be defined" in str(error):
            raise UserError(
                "--distributed: no scheduler started this process (Slurm, TPU pod, Open MPI, Kubernetes); leave it "
                "out, or use --coordinator_address, --num_processes and --process_id"
            ) from error
        first_line = str(error).partition("\n")[0]
        hint = "is --coordinator_address right?" if by_hand else "is what started them as --distributed wants it?"
        raise UserError(f"the processes did not meet ({first_line}); {hint}") from error
    if jax.process_index() > 0:
        log.setLevel(logging.ERROR)


def _check_address(address, process_id):
    """Raises UserError for what JAX would wait for in vain, or die of."""
    host, _, port = address.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), port)
        if process_id == 0:
            with socket.create_server(("", int(port))):
                pass
    except OSError as error:
        raise UserError(f"--coordinator_address={address}: {error.strerror}; use another") from error


def _say(message):
    os.write(2, f"alexnet_jax: {message}\n".encode())


def highest(number):
    """The largest of the processes' numbers: int32 [], perhaps still on its way."""
    if jax.process_count() == 1:
        return np.int32(number)
    mesh = jax.make_mesh((jax.device_count(),), ("all",), (jax.sharding.AxisType.Auto,), devices=jax.devices())
    numbers = jax.make_array_from_callback(
        (jax.device_count(),), jax.NamedSharding(mesh, jax.P("all")), lambda _: np.full(1, number, np.int32)
    )
    return _max(numbers)


@jax.jit
def _max(numbers):
    return jnp.max(numbers)


@contextlib.contextmanager
def together():
    """What all processes have to get through: where one raises UserError, or was interrupted, all do."""
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        int(highest(_code(error)))  # which waits until the others know
        raise
    _raise(highest(0))


def check():
    """Raises interruption.Interrupted in all processes if one of them has received a signal."""
    _raise(highest(interruption.received()))


def in_agreement(mesh, batches):
    """The batches, which differ from process to process, as `sharding.put_batch` makes them, and with one mind.

    Where a process cannot load its next batch, or has received a signal, all raise at that batch. Each batch is
    loaded, and the others asked, one ahead: no device waits for the answer.

    Raises:
      UserError: a batch cannot be loaded.
      interruption.Interrupted: there was a signal.
    """

    def ask():
        batch = error = None
        try:
            batch = next(batches, None)
            batch = batch and sharding.put_batch(mesh, batch)
        except UserError as problem:
            error = problem
        return batch, error, highest(_code(error))

    ahead = ask()
    while True:
        batch, error, answer = ahead
        if jax.process_count() == 1:
            interruption.check()
        if error:
            raise error
        _raise(answer)
        if batch is None:
            return
        ahead = ask()
        yield batch


def collective_failed(error):
    """Whether an exception is one that JAX raises when another process has left."""
    gloo = isinstance(error, ValueError) and "Gloo" in str(error)  # where it fails at once, as it is called
    return jax.process_count() > 1 and (gloo or isinstance(error, jax.errors.JaxRuntimeError))


@contextlib.contextmanager
def ending_together():
    """Ends this process with one line, and status 1, where a collective failed because another process died.

    At once, as the interpreter's own end would wait for the dead.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not collective_failed(error):
            raise
        what = str(error).partition("\n")[0]
        _say(f"another process has died, or this one cannot go on ({what}); the same commands go on from the last save")
        if jax.process_index() == 0:
            time.sleep(LAST_WORDS)
        os._exit(1)


def _code(error):
    if isinstance(error, UserError):
        return _TROUBLE
    return getattr(error, "number", signal.SIGINT) if error else interruption.received()


def _raise(answer):
    answer = int(answer)
    if answer == _TROUBLE:
        raise UserError("another process cannot go on; see its message")
    if answer:
        raise interruption.Interrupted(answer)


def check_same_config(fields):
    """Raises UserError in all processes if the values of a field, by its name, differ."""
    if jax.process_count() == 1:
        return
    check_same(len(fields), "the processes have different configs; start each with the same command")
    checksums_PxN = multihost_utils.process_allgather(
        np.array([zlib.crc32(f"{name}={value}".encode()) for name, value in fields.items()], np.uint32)
    )
    differ = (checksums_PxN != checksums_PxN[0]).any(0)
    if differ.any():
        names = ", ".join(f"config.{name}" for name, other in zip(fields, differ, strict=True) if other)
        raise UserError(f"{names}: not the same in all processes; start each with the same command")


def check_same(number, message):
    """Raises UserError if the processes' numbers differ."""
    if -int(highest(-number)) != int(highest(number)):
        raise UserError(message)


@contextlib.contextmanager
def locked(path):
    """`files.locked`, by process 0 for all."""
    with contextlib.ExitStack() as stack:
        with together():
            if jax.process_index() == 0:
                stack.enter_context(files.locked(path))
        yield
