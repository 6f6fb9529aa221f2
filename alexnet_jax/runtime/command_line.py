"""What the commands share: one line for a mistake, and quiet libraries."""

import argparse
import contextlib
import ctypes
import logging
import os
import signal
import sys
import warnings

from alexnet_jax import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


class Parser(argparse.ArgumentParser):
    """A parser that ends with one line for a mistake; its help is a module's docstring and the flags."""

    def __init__(self, module, doc):
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(self):
        """As usual, but `--flag=`, perhaps of an unset shell variable, is a mistake and not a default."""
        for argument in sys.argv[1:]:
            if argument.startswith("--") and argument.endswith("="):
                self.error(f"{argument} has no value")
        return super().parse_args()

    def error(self, message):
        sys.exit(f"alexnet_jax: {message}; see --help")


def add_data_flags(parser):
    """The flags for `inference.load_split`."""
    parser.add_argument("--split", help="train, validation, test, for TFDS also others; otherwise as training's test")
    parser.add_argument("--dataset", help="as config.dataset.name; otherwise what the (first) net was trained on")
    parser.add_argument("--root", help="as config.dataset.root; otherwise that of the training")


@contextlib.contextmanager
def one_line_errors(interrupted):
    """Ends the program with one line for what a user can mend and for Ctrl-C, and silently when its reader has gone.

    The exit status is 1, or 128 and the signal's number: 130 after SIGINT, 143 after SIGTERM.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # and Python's own flush at the end must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except UserError as error:
        sys.exit(f"alexnet_jax: {error}")
    except KeyboardInterrupt as error:
        print(f"alexnet_jax: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(128 + getattr(error, "number", signal.SIGINT))  # interruption.Interrupted has one


def keep_freed_memory():
    """Lets glibc's malloc keep what is freed, in one heap, unless the environment has settings for it (MALLOC_…).

    By default every training step on a CPU gives back a gigabyte and waits for the kernel to zero it again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, value in ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0), (M_ARENA_MAX, 1)):
            mallopt(parameter, value)


def set_up_jax(cpu_devices=2):
    """Prepares a process: quiet libraries, the program's own log on stderr, malloc, and a CPU's virtual devices."""
    from absl import logging as absl_logging

    from alexnet_jax.data import images
    from alexnet_jax.runtime import sharding

    images.ignore_warnings()
    # Orbax logs what it raises, in every thread that saw it, and leaves coroutines behind.
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
