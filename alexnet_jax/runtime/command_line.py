"""Functions that all commands share: their start, errors of one line, and the set-up of JAX and its libraries."""

import argparse
import contextlib
import ctypes
import importlib.util
import io
import logging
import os
import pathlib
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

from alexnet_jax import UserError
from alexnet_jax.runtime import interruption, text

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h

PROJECT = pathlib.Path(__file__).absolute().parents[2]
LIBRARIES = ("CUDA", "JAX", "LIBTPU", "MPL", "TF", "TPU", "XLA")  # begin the names of the variables that they read


def start() -> None:
    """Call it before the import of JAX and other libraries, which takes seconds.

    Until `one_line_errors`, a signal ends the process at once. An exception in an import, mostly because of a variable
    of the environment or a missing library, is reported in one line. Nothing more is imported from the current
    directory, unless it is the project's.
    """
    interruption.end_at_once()
    sys.excepthook = _report
    with contextlib.suppress(OSError):  # the current directory does not exist any more
        # `python -m` puts it in front, and a file there, random.py or jax.py, would hide a module.
        if sys.path[0] == os.getcwd() and not pathlib.Path(sys.path[0]).is_relative_to(PROJECT):
            del sys.path[0]
    _open_standard_streams()
    os.environ["MPLBACKEND"] = "agg"  # matplotlib draws into files only
    if any(action == "error" for action, *_ in warnings.filters):  # PYTHONWARNINGS=error; the libraries do warn
        warnings.simplefilter("default")
        os.environ.pop("PYTHONWARNINGS", None)  # for the workers of alexnet_jax.prepare
        sys.warnoptions.clear()


def _report(kind, error, trace):
    modules = [frame for frame in traceback.extract_tb(trace) if frame.name == "<module>"]  # the first is the command
    missing = issubclass(kind, ModuleNotFoundError) and not importlib.util.find_spec(str(error.name).partition(".")[0])
    if not missing and (len(modules) < 2 or not issubclass(kind, (ImportError, OSError, RuntimeError, ValueError))):
        sys.__excepthook__(kind, error, trace)
        return
    named = [f"{name}={value}" for name, value in os.environ.items() if len(value) > 1 and value in str(error)]
    named = [variable for variable in named if variable.startswith(LIBRARIES)]
    advice = f"; check the environment's {', '.join(named)}" if named else ""
    if missing:
        advice = f" for {sys.executable}; use the Python of the environment that the project is installed in"
    text.print_error(f"alexnet_jax: cannot start: {str(error)[:300]}{advice}")


def _open_standard_streams():
    """Opens those that the caller has closed: otherwise the next file would get the number of one, and our messages.

    What is printed on a closed standard output is an error; messages to a closed standard error are lost.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # os.open takes the lowest free number
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
    encoding = sys.stdout.encoding if sys.stdout else None
    sys.stdout = _Output(open(1, "wb", closefd=False), encoding, "backslashreplace", line_buffering=os.isatty(1))  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


class _Output(io.TextIOWrapper):
    """Standard output. What cannot be written, for example on a full disk, is a UserError."""

    def write(self, written):
        with _explaining_output():
            return super().write(written)

    def flush(self):
        with _explaining_output():
            super().flush()


@contextlib.contextmanager
def _explaining_output():
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(f"standard output: cannot be written ({error.strerror})") from error


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

    def print_help(self, file=None) -> None:
        print(self.format_help(), end="", file=file, flush=True)  # argparse ignores that it cannot be written

    def error(self, message: str) -> NoReturn:
        sys.exit(f"alexnet_jax: {text.printable(message)}; see --help")


def add_data_flags(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Adds the flags for `inference.load_split`; with `several`, those of the data set may be repeated."""
    action = "append" if several else "store"
    parser.add_argument("--split", help="train, validation, test or another of TFDS's (the test split of the training)")
    parser.add_argument(
        "--dataset", action=action, help="as config.dataset.name (the data set that the first net was trained on)"
    )
    parser.add_argument("--root", action=action, help="as config.dataset.root (that of the training)")


@contextlib.contextmanager
def one_line_errors(interrupted: str) -> Iterator[None]:
    """Ends the program with one line after a UserError or a signal, or if a path cannot be used.

    The exit status is 1, or 128 plus the signal's number: 130 after SIGINT, 143 after SIGTERM. If the reader of the
    output has gone, it ends silently.

    Args:
      interrupted: what the line after a signal tells the user.
    """
    try:
        with interruption.ending_at_once(interrupted):
            try:
                yield
            except SystemExit:
                sys.stdout.flush()
                raise
            sys.stdout.flush()
    except UserError as error:
        _end(1, str(error))
    except KeyboardInterrupt as error:
        _end(128 + getattr(error, "number", signal.SIGINT), f"interrupted; {interrupted}")
    except BrokenPipeError:
        _end(1, "")
    except OSError as error:  # for example of a name that is too long, or a directory that may not be searched
        if error.filename is None:
            raise
        _end(1, f"{error.filename}: cannot be used ({error.strerror}); mend that, or use another")


def _end(status, message):
    if message:
        text.print_error(f"alexnet_jax: {message}")
    try:
        sys.stdout.flush()
    except (BrokenPipeError, UserError):  # Python's own flush at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def keep_freed_memory() -> None:
    """Makes glibc's malloc keep freed memory, in one heap, unless the environment configures it (MALLOC_…).

    By default every training step on a CPU returns a gigabyte to the kernel and waits until it is zeroed again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other C libraries lack it
    if mallopt and not any(name.startswith("MALLOC_") for name in os.environ):
        for parameter, value in ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0), (M_ARENA_MAX, 1)):
            mallopt(parameter, value)


class _OneLine(logging.Formatter):
    def format(self, record):
        return text.printable(super().format(record))


def set_up_jax(cpu_devices: int = 2, start_jax: bool = True) -> None:
    """Silences the libraries, sends the program's log to stderr, and sets up malloc and the CPU's devices.

    It starts JAX, unless `processes.join` must do something first. Raises UserError if JAX cannot start.
    """
    import jax
    from absl import logging as absl_logging

    from alexnet_jax.data import images
    from alexnet_jax.runtime import sharding

    images.ignore_warnings()
    sharding.set_numerics()
    # Orbax logs every exception in each of its threads, and leaves coroutines that were never awaited.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    sys.unraisablehook = lambda unraisable: None
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("alexnet_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    keep_freed_memory()
    # A program on one device of a CPU has ended when its call returns. Otherwise the next step often begins before the
    # memory of the last one is free, and takes as much again.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    sharding.provide_cpu_devices(cpu_devices)
    if start_jax:
        sharding.devices()
