"""SIGINT and SIGTERM, held back while something must not be cut short."""

import contextlib
import os
import signal
import threading

_received = 0


class Interrupted(KeyboardInterrupt):
    """A signal, SIGINT or SIGTERM, that ends the program: `number`."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.number = number


def received():
    """The number of the signal that was held back, or 0."""
    return _received


def check():
    """Raises Interrupted if a signal was held back: to be called where it does no harm."""
    if _received:
        raise Interrupted(_received)


@contextlib.contextmanager
def held():
    """Only notes the first signal, for `check`; a second one ends the process at once.

    Outside the main thread, where Python has no signals, nothing is held.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received = 0


def end(number, _):
    """A handler that raises Interrupted, wherever the program is."""
    raise Interrupted(number)


def _note(number, _):
    global _received
    _received = number
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # which also ends a process that hangs outside Python
    # Not by print, which the signal may have interrupted.
    os.write(2, f"\nalexnet_jax: {signal.Signals(number).name}: saving; a second one ends at once\n".encode())
