"""SIGINT and SIGTERM: they end the process at once, or are deferred while a run must not be cut short.

`processes.in_agreement` checks between two batches whether there was a deferred signal.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds within which two signals count as one: Slurm signals a process both directly and through its parent.
ONE = 1.0

unfinished: set[os.PathLike] = set()  # files that `ending_at_once` removes
_held, _received = False, 0


class Interrupted(KeyboardInterrupt):
    """A signal, SIGINT or SIGTERM, ends the program; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def received() -> int:
    """The number of the deferred signal; 0 if there was none."""
    return _received


def check() -> None:
    """Raises Interrupted if a signal was deferred. Call it where the program can stop without harm."""
    if _received:
        raise Interrupted(_received)


@contextlib.contextmanager
def ending_at_once(message: str) -> Iterator[None]:
    """Makes both signals end the process at once, with a line and without the files that are half written.

    They raise no exception, because libraries catch or lose it: in an import, in a callback, in a thread.
    """
    handlers = end_at_once(f"; {message}")
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_at_once(details: str = "") -> dict[signal.Signals, Any]:
    """As `ending_at_once`, for the rest of the process. Returns the signals' handlers so far."""

    def end(number, _):
        for path in list(unfinished):
            with contextlib.suppress(OSError):
                os.unlink(path)
        _write(f"alexnet_jax: interrupted{details}\n")
        os._exit(128 + number)

    return {number: signal.signal(number, end) for number in SIGNALS}


def _write(text):
    # print is not reentrant, and the signal may have interrupted one.
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Defers the first signal until `check`. A second signal ends the process at once, wherever it is.

    Inside another `held` it changes nothing, nor in a thread other than the main one, where Python handles no signals.
    """
    global _held, _received
    if _held or threading.current_thread() is not threading.main_thread():
        yield
        return
    _held = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handlers = {number: signal.signal(number, _defer) for number in SIGNALS}
    fd_before = signal.set_wakeup_fd(writer)
    threading.Thread(target=_listen, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)  # ends the thread
        _held, _received = False, 0


def _defer(number, _):
    global _received
    _received = _received or number


def _listen(reader):
    """Reads the number of each signal at once: Python's handlers wait while the main thread is outside Python."""
    first = None
    with open(reader, "rb", buffering=0) as numbers:
        while byte := numbers.read(1):
            if byte[0] not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                name = signal.Signals(byte[0]).name
                _write(f"\nalexnet_jax: {name}: ending once all is saved; a second one ends at once\n")
            elif time.monotonic() - first > ONE:
                os._exit(128 + byte[0])
