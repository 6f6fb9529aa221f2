"""Trains and evaluates the net of a config, and goes on where it stopped when run again on the same directory.

  python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart

Any field of the config can be set: --config.batch_size=64 --config.mesh.model=1

Several processes train one net together when each runs the same command, with --distributed where a scheduler starts
them, or with --coordinator_address, --num_processes and --process_id. They share --workdir.
"""

import os
import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax.runtime import command_line, interruption

CONFIG = config_flags.DEFINE_config_file("config", help_string="A file from configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and results go; made if there is none.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the processes of a Slurm, TPU, Open MPI or Kubernetes job.")
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, for processes started by hand.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many were started by hand.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


def main(argv):
    if argv[1:]:
        sys.exit(f"alexnet_jax: unexpected argument {argv[1]!r}; settings look like --config.batch_size=64")
    several = DISTRIBUTED.value or COORDINATOR.value
    with command_line.one_line_errors("the same command goes on from the last checkpoint"), interruption.held():
        command_line.set_up_jax(cpu_devices=1 if several else 2)  # a device for each tower
        from alexnet_jax import train  # only now: --help need not wait for JAX
        from alexnet_jax.runtime import files, processes  # only now: --help need not wait for JAX

        if several:
            # Before they meet: at the address of a run that uses the directory, they would disturb it.
            files.check_unlocked(pathlib.Path(WORKDIR.value).expanduser() / "lock")
            processes.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        with processes.ending_together():
            train.train_and_evaluate(CONFIG.value, WORKDIR.value)


def parse_flags(argv):
    """absl's parser, with one line for a mistake."""
    try:
        positional = flags.FLAGS(argv)
    except (KeyError, AttributeError) as error:  # from ml_collections, with its guess at what was meant
        message = error.args[0].args[0] if isinstance(error.args[0], Exception) else error.args[0]
        sys.exit(f"alexnet_jax: the config has no such field: {' '.join(message.split())}")
    except OSError:  # overrides of a config that is not there
        named = [argument for argument in argv if argument.startswith("--config=")]
        sys.exit(f"alexnet_jax: {' '.join(named)}: no such file; the project's own are in configs/")
    except (flags.Error, SyntaxError, TypeError, ValueError) as error:
        said = str(error)
        if "Traceback" in said:  # of a config file that failed
            said = f"{' '.join(a for a in argv if a.startswith('--config='))}: {said.strip().splitlines()[-1]}"
        sys.exit(f"alexnet_jax: {' '.join(said.split())}")
    if CONFIG.value is None or not WORKDIR.value:
        sys.exit("alexnet_jax: needs --config=FILE and --workdir=DIR; see --help")
    by_hand = [COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value]
    if by_hand != [None] * 3:
        if None in by_hand or DISTRIBUTED.value:
            sys.exit("alexnet_jax: use --coordinator_address, --num_processes and --process_id, or --distributed alone")
        if PROCESS_ID.value >= NUM_PROCESSES.value:
            sys.exit(f"alexnet_jax: --process_id={PROCESS_ID.value}: must be below --num_processes")
        host, _, port = COORDINATOR.value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            sys.exit(f"alexnet_jax: --coordinator_address={COORDINATOR.value}: must be HOST:PORT")
    path = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not os.path.isfile(path):
        sys.exit(f"alexnet_jax: --config={path}: no such file; the project's own are in configs/")
    return positional


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
