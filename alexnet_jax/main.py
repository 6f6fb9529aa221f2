"""Trains and evaluates the net of a config. Run again on the same directory, it continues where it stopped.

  python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart

Any field of the config can be set: --config.batch_size=64 --config.mesh.model=1

To train one net by several processes, run the same command in each: with --distributed if a scheduler starts them,
otherwise with --coordinator_address, --num_processes and --process_id. They share --workdir.
"""

import os
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax.runtime import command_line, interruption

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file from configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and results go; made if missing.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the processes of a Slurm, TPU, Open MPI or Kubernetes job.")
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, for processes started by hand.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many were started by hand.", lower_bound=1)
START_TIMEOUT = flags.DEFINE_float("start_timeout", 60, "Seconds for all processes to start.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


def main(argv):
    if argv[1:]:
        sys.exit(f"alexnet_jax: unexpected argument {argv[1]!r}; settings look like --config.batch_size=64")
    several, workdir = DISTRIBUTED.value or COORDINATOR.value, WORKDIR.value
    assert workdir  # by parse_flags
    with (
        command_line.one_line_errors("run the same command again to continue from the last checkpoint"),
        interruption.held(),
    ):
        command_line.set_up_jax(cpu_devices=1 if several else 2)  # a device for each tower
        # Imported here, so that --help need not wait for JAX.
        from alexnet_jax import train
        from alexnet_jax.runtime import files, processes

        if several:
            # Before the processes connect: a run that uses this directory may use this address too.
            files.check_unlocked(pathlib.Path(workdir).expanduser() / "lock")
            processes.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, START_TIMEOUT.value)
        with processes.ending_together():
            train.train_and_evaluate(CONFIG.value, workdir)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags by absl, and reports a mistake in one line. Returns the positional arguments."""
    try:
        positional = flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:  # from ml_collections, with its suggestion
        message = error.args[0].args[0] if isinstance(error.args[0], Exception) else error.args[0]
        sys.exit(f"alexnet_jax: the config has no such field: {' '.join(message.split())}")
    except OSError:  # overrides of a config file that does not exist
        named = [argument for argument in argv if argument.startswith("--config=")]
        sys.exit(f"alexnet_jax: {' '.join(named)}: no such file; the project's own are in configs/")
    except (flags.Error, SyntaxError, TypeError, ValueError) as error:
        message = str(error)
        if "Traceback" in message:  # of an exception in a config file
            message = f"{' '.join(a for a in argv if a.startswith('--config='))}: {message.strip().splitlines()[-1]}"
        sys.exit(f"alexnet_jax: {' '.join(message.split())}")
    if CONFIG.value is None or not WORKDIR.value:
        sys.exit("alexnet_jax: needs --config=FILE and --workdir=DIR; see --help")
    address, number, process_id = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if (address, number, process_id) != (None, None, None):
        if address is None or number is None or process_id is None or DISTRIBUTED.value:
            sys.exit("alexnet_jax: use --coordinator_address, --num_processes and --process_id, or --distributed alone")
        if process_id >= number:
            sys.exit(f"alexnet_jax: --process_id={process_id}: must be below --num_processes")
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            sys.exit(f"alexnet_jax: --coordinator_address={address}: must be HOST:PORT")
    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not os.path.isfile(path):
        sys.exit(f"alexnet_jax: --config={path}: no such file; the project's own are in configs/")
    return positional


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
