"""SIGINT and SIGTERM, deferred while a run must not be cut short.

`processes.in_agreement` checks between two batches whether there was a signal.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds within which two signals count as one: Slurm signals a process both directly and through its parent.
ONE = 1.0

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
                # print is not reentrant, and the signal may have interrupted one.
                name = signal.Signals(byte[0]).name
                os.write(2, f"\nalexnet_jax: {name}: ending once all is saved; a second one ends at once\n".encode())
            elif time.monotonic() - first > ONE:
                os._exit(128 + byte[0])
