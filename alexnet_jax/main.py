"""Trains and evaluates the net of a config. Run again on the same directory, it continues where it stopped.

  python -m alexnet_jax.main --config=configs/quickstart.py --workdir=/tmp/quickstart

Any field of the config can be set: --config.batch_size=64 --config.mesh.model=1

To train one net by several processes, run the same command in each: with --distributed if a scheduler starts them,
otherwise with --coordinator_address, --num_processes and --process_id. They share --workdir.
"""

import contextlib
import difflib
import re
import sys

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from absl import app, flags
from ml_collections import config_flags

from alexnet_jax import UserError
from alexnet_jax.runtime import interruption

CONFIG: flags.FlagHolder = config_flags.DEFINE_config_file("config", help_string="A file from configs/.")
WORKDIR: flags.FlagHolder = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, metrics and results go; made if missing."
)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the processes of a Slurm, TPU, Open MPI or Kubernetes job.")
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0, for processes started by hand.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many were started by hand.", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)
START_TIMEOUT = flags.DEFINE_integer(
    "start_timeout", 60, "Seconds for all processes to start; at most a day.", lower_bound=1, upper_bound=86_400
)


class ConfigFile(flags.ArgumentParser):
    """Parses --config=FILE into the ConfigDict that the file's get_config() returns."""

    def parse(self, argument):
        from alexnet_jax import settings
        from alexnet_jax.runtime import config_file

        config = config_file.run(argument, lambda module, *word: module.get_config(*word))
        settings.check_fields(config, argument)
        return config.lock()


flags.FLAGS["config"].parser = ConfigFile()
TYPES = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a tuple, as (30,60)"}


def main(argv):
    # Imported here, so that --help need not wait for JAX.
    from alexnet_jax import train
    from alexnet_jax.runtime import files, processes

    several = DISTRIBUTED.value or COORDINATOR.value
    with command_line.one_line_errors("run the same command again to continue"), contextlib.ExitStack() as stack:
        if argv[1:]:
            raise UserError(f"unexpected argument {argv[1]!r}; settings look like --config.batch_size=64")
        workdir = files.absolute(WORKDIR.value)
        command_line.set_up_jax(cpu_devices=1 if several else 2, start_jax=not several)  # a device for each tower
        if several:
            stack.enter_context(interruption.held())  # each process tells the others
            # Before the processes connect: a run that uses this directory may use this address too.
            files.check_unlocked(workdir / "lock")
            processes.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, START_TIMEOUT.value)
        with processes.ending_together():
            train.train_and_evaluate(CONFIG.value, workdir)


@command_line.one_line_errors("nothing was done yet")
def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags by absl, and reports a mistake in one line. Returns the positional arguments."""
    for flag in ("config", "workdir"):
        if len([argument for argument in argv if re.match(f"--?{flag}(=|$)", argument)]) > 1:
            raise UserError(f"--{flag} is given twice; use it once")
    try:
        positional = flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # absl ends --help with 1
    except (KeyError, AttributeError) as error:
        raise UserError(unknown_field(argv) or " ".join(str(error).split())) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(misplaced_setting(argv) or wrong_value(str(error))) from error
    if CONFIG.value is None or not WORKDIR.value:
        raise UserError("needs --config=FILE and --workdir=DIR; see --help")
    address, number, process_id = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
    if (address, number, process_id) != (None, None, None):
        if address is None or number is None or process_id is None or DISTRIBUTED.value:
            raise UserError("use --coordinator_address, --num_processes and --process_id, or --distributed alone")
        if process_id >= number:
            raise UserError(f"--process_id={process_id}: must be below --num_processes")
        matched = re.fullmatch(r"(\[[^\[\]]+\]|[^\[\]:]+):([0-9]{1,5})", address)
        if not matched or not 0 < int(matched[2]) < 2**16:
            raise UserError(f"--coordinator_address={address}: must be HOST:PORT; an IPv6 address is [HOST]:PORT")
    elif flags.FLAGS["start_timeout"].present and not DISTRIBUTED.value:
        raise UserError("--start_timeout: is for several processes; leave it out")
    return positional


def unknown_field(argv: list[str]) -> str:
    """Explains the first --config.FIELD that the config does not have; '' if it has all."""
    known = _fields()
    given = [match[1] for argument in argv if (match := re.match(r"--?(?:no)?config\.([^=]*)", argument))]
    name = next((name for name in given if not any(f"{one}.".startswith(f"{name}.") for one in known)), None)
    if not name:
        return ""
    section = name.rpartition(".")[0]
    if near := difflib.get_close_matches(name, known, 1, 0.8):
        return f"--config.{name}: the config has no such field; did you mean {near[0]}?"
    beside = [one for one in known if one.rpartition(".")[0] == section]
    return f"--config.{name}: the config has no such field; there are {', '.join(beside or known)}"


def misplaced_setting(argv: list[str]) -> str:
    """Explains the first argument that sets a field without --config, or a whole section; '' if there is none."""
    known = _fields()
    for argument in argv:
        flag = argument.partition("=")[0]
        if flag.removeprefix("--") in known:
            return f"{flag}: is a field of the config; use --config.{flag.removeprefix('--')}"
        fields = [f"--config.{name}" for name in known if f"--config.{name}".startswith(f"{flag}.")]
        if fields and flag != "--config":
            return f"{flag}: is a section of the config; set its fields: {', '.join(fields)}"
    return ""


def _fields():
    from alexnet_jax import settings

    return [name for name, _ in settings.flatten(settings.defaults().to_dict())]


def wrong_value(message: str) -> str:
    """absl's message about a flag, with the type of the field in place of Python's words if it is one of the config."""
    field = re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.S)
    if not field:
        return " ".join(message.split())
    *sections, name = field[1].split(".")
    config = CONFIG.value
    for section in sections:
        config = config[section]
    return f"--config.{field[1]}={field[2]}: must be {TYPES[config.get_type(name)]}"


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
