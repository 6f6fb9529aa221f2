"""SIGINT and SIGTERM, held back while something must not be cut short."""

import contextlib
import os
import signal
import threading
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE = 1.0  # seconds within which two signals are one that came by two ways, as from Slurm directly and by its parent

_held, _received = False, 0


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
    """Only notes the first signal, for `check`; a second one ends the process at once, wherever it is.

    Inside another `held`, and outside the main thread, where Python has no signals, this changes nothing.
    """
    global _held, _received
    if _held or threading.current_thread() is not threading.main_thread():
        yield
        return
    _held = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    fd_before = signal.set_wakeup_fd(writer)
    threading.Thread(target=_listen, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)  # which ends the thread
        _held, _received = False, 0


def _note(number, _):
    global _received
    _received = _received or number


def _listen(reader):
    """Takes the number of each signal as it comes; Python's handlers wait while the main thread is outside Python."""
    first = None
    with open(reader, "rb", buffering=0) as numbers:
        while byte := numbers.read(1):
            if byte[0] not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                # Not by print, which the signal may have interrupted.
                name = signal.Signals(byte[0]).name
                os.write(2, f"\nalexnet_jax: {name}: ending once all is saved; a second one ends at once\n".encode())
            elif time.monotonic() - first > ONE:
                os._exit(128 + byte[0])
