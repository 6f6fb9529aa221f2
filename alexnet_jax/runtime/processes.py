"""Processes that train one net together (jax.distributed): how they connect, and how they stop together.

All run the same command on the same directories. A broken image or a signal may reach one process alone. That process
must tell the others before it stops: if it left out a collective, they would wait for it.
"""

import concurrent.futures
import contextlib
import functools
import logging
import os
import pathlib
import signal
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax import UserError
from alexnet_jax.runtime import files, interruption, rendezvous, sharding
from alexnet_jax.runtime.text import printable

log = logging.getLogger("alexnet_jax")

HEARTBEAT_TIMEOUT = 30  # seconds without a heartbeat, after which a process counts as dead and the others end
START_TIMEOUT = 60  # seconds for all processes to start
CONNECT_TIMEOUT = 15  # seconds for JAX to connect them once all have started, even if fewer are left
EXIT_DELAY = 2  # seconds that process 0 leaves the others to print their messages: JAX aborts them when it exits
_FAILED = 1000  # above all signal numbers

Batch = dict[str, np.ndarray]


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: int = START_TIMEOUT,
) -> None:
    """Connects to the other processes. Call it before anything asks JAX for devices.

    Without an address, JAX asks the scheduler that started the processes: Slurm, a TPU pod, Open MPI or Kubernetes.

    Args:
      timeout: seconds for all processes to come.

    Raises:
      UserError: there is no scheduler, or the processes did not connect.
      interruption.Interrupted: there was a signal.
    """
    wait = rendezvous.Wait(timeout)
    if coordinator_address is not None:
        assert num_processes is not None and process_id is not None
        rendezvous.meet(coordinator_address, num_processes, process_id, wait)
        wait.leave(CONNECT_TIMEOUT)
        awaited = f"JAX to connect the {num_processes} processes at {coordinator_address}"
    else:
        tasks = os.environ.get("SLURM_NTASKS") or os.environ.get("OMPI_COMM_WORLD_SIZE") or "several"
        awaited = f"the others of the job's {tasks} processes"
    # JAX's handler of SIGTERM would replace ours.
    jax.config.update("jax_enable_preemption_service", False)
    # In a thread: JAX waits for the others outside Python, where this process could not react to a signal.
    connection = concurrent.futures.ThreadPoolExecutor(1).submit(
        jax.distributed.initialize,
        coordinator_address,
        num_processes,
        process_id,
        cluster_detection_method="deactivate" if coordinator_address else None,
        initialization_timeout=timeout + 60,  # `wait` ends first
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        shutdown_timeout_seconds=HEARTBEAT_TIMEOUT,
    )
    try:
        while not concurrent.futures.wait([connection], rendezvous.TURN).done:
            wait.turn(awaited)
    except (UserError, KeyboardInterrupt) as error:  # the interpreter's normal exit would wait for the thread
        failed = isinstance(error, UserError)
        _print_error(str(error) if failed else "interrupted before the processes were connected")
        os._exit(1 if failed else 128 + getattr(error, "number", signal.SIGINT))
    try:
        connection.result()
    except Exception as error:  # JAX's parts for schedulers raise whatever they like
        if "should be defined" in str(error) or "must be defined" in str(error):
            raise UserError(
                "--distributed: no scheduler started this process (Slurm, TPU pod, Open MPI, Kubernetes); leave it "
                "out, or use --coordinator_address, --num_processes and --process_id"
            ) from error
        first_line = str(error).partition("\n")[0]
        hint = "check --coordinator_address" if coordinator_address else "check the scheduler's job for --distributed"
        raise UserError(f"the processes did not connect ({first_line}); {hint}") from error
    if jax.process_index() > 0:
        log.setLevel(logging.ERROR)


def _print_error(message):
    os.write(2, f"alexnet_jax: {printable(message)}\n".encode())


def highest(number: int) -> np.int32 | jax.Array:
    """The maximum of the processes' numbers, int32 []. It is computed asynchronously: int() waits for it."""
    if jax.process_count() == 1:
        return np.int32(number)
    return _max(
        jax.make_array_from_callback((jax.device_count(),), _over_all_devices(), lambda _: np.full(1, number, np.int32))
    )


@functools.cache
def _over_all_devices():
    mesh = jax.make_mesh((jax.device_count(),), ("all",), (jax.sharding.AxisType.Auto,), devices=jax.devices())
    return jax.NamedSharding(mesh, jax.P("all"))


@jax.jit
def _max(numbers):
    return jnp.max(numbers)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs a block that every process must complete: if one raises UserError or is interrupted, all raise."""
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        int(highest(_code(error)))  # waits until the others have the code
        raise
    _raise(highest(0))


def check() -> None:
    """Raises interruption.Interrupted in all processes if one of them has received a signal."""
    _raise(highest(interruption.received()))


def in_agreement(mesh: jax.sharding.Mesh, batches: Iterator[Batch]) -> Iterator[dict[str, jax.Array]]:
    """Yields globally sharded batches, and stops every process at the same batch.

    If a process cannot load its next batch or has received a signal, all raise at that batch. Loading and agreement run
    one batch ahead, so that no device waits for them.

    Args:
      batches: this process's rows of each global batch.

    Raises:
      UserError: a batch cannot be loaded.
      interruption.Interrupted: there was a signal.
    """

    def load_next():
        batch = error = None
        try:
            batch = next(batches, None)
            batch = batch and sharding.put_batch(mesh, batch)
        except UserError as load_error:
            error = load_error
        return batch, error, highest(_code(error))

    ahead = load_next()
    while True:
        batch, error, code = ahead
        if jax.process_count() == 1:
            interruption.check()
        if error:
            raise error
        _raise(code)
        if batch is None:
            return
        ahead = load_next()
        yield batch


def collective_failed(error: BaseException | None) -> bool:
    """Whether JAX raised an exception because another process has left."""
    gloo = isinstance(error, ValueError) and "Gloo" in str(error)  # of a collective that fails as it is called
    return jax.process_count() > 1 and (gloo or isinstance(error, jax.errors.JaxRuntimeError))


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process with one line and status 1 if a collective fails because another process died.

    It ends by os._exit: the interpreter's normal exit would wait for the dead process.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not collective_failed(error):
            raise
        first_line = str(error).partition("\n")[0]
        _print_error(
            f"another process has died, or a collective failed ({first_line}); run the same commands again to "
            "continue from the last checkpoint"
        )
        if jax.process_index() == 0:
            time.sleep(EXIT_DELAY)
        os._exit(1)


def _code(error):
    """The number by which a process tells the others how it stops: _FAILED, a signal, or 0 if it goes on."""
    if isinstance(error, UserError):
        return _FAILED
    return getattr(error, "number", signal.SIGINT) if error else interruption.received()


def _raise(code):
    """Raises the exception for the highest `_code` of all processes, if it is not 0."""
    code = int(code)
    if code == _FAILED:
        raise UserError("another process has failed; see its message")
    if code:
        raise interruption.Interrupted(code)


def check_same_config(fields: Mapping[str, Any]) -> None:
    """Raises UserError in all processes if the value of a config field, {name: value}, differs between them."""
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


def check_same(number: int, message: str) -> None:
    """Raises UserError with `message` in all processes if their numbers differ."""
    if -int(highest(-number)) != int(highest(number)):
        raise UserError(message)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Holds `files.locked` in process 0, on behalf of all."""
    with contextlib.ExitStack() as stack:
        with together():
            if jax.process_index() == 0:
                stack.enter_context(files.locked(path))
        yield
