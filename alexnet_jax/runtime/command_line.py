"""Functions that all commands share: errors of one line, and the set-up of JAX and its libraries."""

import argparse
import contextlib
import ctypes
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import NoReturn

from alexnet_jax import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line. Its help is the docstring of a command's module, and the flags."""

    def __init__(self, module: str, doc: str | None):
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self) -> argparse.Namespace:
        """Parses sys.argv. A flag without a value, `--flag=`, is a mistake: its shell variable may be unset."""
        self._check_values()
        return self.parse_args()

    def parse_with_overrides(self) -> tuple[argparse.Namespace, list[str]]:
        """As `parse`; also returns the arguments of the form --config.FIELD=VALUE, whose value may be empty."""
        self._check_values()
        args, overrides = self.parse_known_args()
        for argument in overrides:
            if not re.match(r"--config\.[\w.]+=", argument):
                self.error(f"unexpected argument {argument!r}; settings look like --config.batch_size=64")
        return args, overrides

    def _check_values(self):
        for argument in sys.argv[1:]:
            if re.fullmatch(r"--\w+=", argument):
                self.error(f"{argument} has no value")

    def error(self, message: str) -> NoReturn:
        sys.exit(f"alexnet_jax: {message}; see --help")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for `inference.load_split`."""
    parser.add_argument("--split", help="train, validation, test or another of TFDS's (the test split of the training)")
    parser.add_argument("--dataset", help="as config.dataset.name (the data set that the first net was trained on)")
    parser.add_argument("--root", help="as config.dataset.root (that of the training)")


@contextlib.contextmanager
def one_line_errors(interrupted: str) -> Iterator[None]:
    """Ends the program with one line after a UserError or a signal, and silently if the reader of its output has gone.

    The exit status is 1, or 128 plus the signal's number: 130 after SIGINT, 143 after SIGTERM.

    Args:
      interrupted: what the line after a signal tells the user.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # Python's own flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        sys.exit(f"alexnet_jax: {error}")
    except KeyboardInterrupt as error:
        print(f"alexnet_jax: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))  # the number of interruption.Interrupted


def keep_freed_memory() -> None:
    """Makes glibc's malloc keep freed memory, in one heap, unless the environment configures it (MALLOC_…).

    By default every training step on a CPU returns a gigabyte to the kernel and waits until it is zeroed again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other C libraries lack it
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, value in ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0), (M_ARENA_MAX, 1)):
            mallopt(parameter, value)


def set_up_jax(cpu_devices: int = 2) -> None:
    """Silences the libraries, sends the program's log to stderr, and sets up malloc and the CPU's virtual devices."""
    import jax
    from absl import logging as absl_logging

    from alexnet_jax.data import images
    from alexnet_jax.runtime import sharding

    images.ignore_warnings()
    jax.config.update(
        "jax_enable_x64", False
    )  # whatever JAX_ENABLE_X64 is: the nets and their random numbers are float32
    # Orbax logs every exception in each of its threads, and leaves coroutines that were never awaited.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = lambda unraisable: None
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("alexnet_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    keep_freed_memory()
    sharding.provide_cpu_devices(cpu_devices)
