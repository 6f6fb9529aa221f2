"""What the four commands share: one line for a mistake, and quiet libraries."""

import argparse
import contextlib
import logging
import sys
import warnings

from alexnet_jax import UserError


class Parser(argparse.ArgumentParser):
    """A parser that ends with one line for a mistake; its help is a module's docstring and the flags."""

    def __init__(self, module, doc):
        super().__init__(
            prog=f"python -m {module}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message):
        sys.exit(f"alexnet_jax: {message}; see --help")


@contextlib.contextmanager
def one_line_errors(interrupted):
    """Ends the program with one line for what a user can mend, and with `interrupted` for Ctrl-C."""
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be text
    try:
        yield
    except UserError as error:
        sys.exit(f"alexnet_jax: {error}")
    except KeyboardInterrupt:
        print(f"alexnet_jax: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)


def set_up_jax():
    """Silences libraries, sends the program's own log to stderr, and gives a CPU its virtual devices."""
    from absl import logging as absl_logging

    from alexnet_jax import sharding

    absl_logging.set_verbosity(absl_logging.WARNING)
    warnings.filterwarnings("ignore", module="PIL")  # of files that it reads nevertheless
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("alexnet_jax")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    sharding.provide_cpu_devices()
