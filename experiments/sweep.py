r"""Runs all members of a sweep: several at a time on this machine, or as an array of Slurm jobs.

  python experiments/sweep.py list  --config=configs/quickstart_sweep.py --workdir=DIR
  python experiments/sweep.py local --config=configs/quickstart_sweep.py --workdir=DIR --at_once=2
  python experiments/sweep.py slurm --config=configs/quickstart_sweep.py --workdir=DIR

A config with members has, beside get_config(), a function sweep() that yields a dict of settings for each, as
{"schedule.learning_rate": 0.01, "seed": 0}; --config.FIELD=VALUE sets a field for all of them. With
--config=FILE.py:WORD both are called with the word. Each member is a run of alexnet_jax.main in a directory of its own
in DIR, with what it printed in log.txt, and the project's commit at each start in commits.txt.

Started again, it leaves out the members that are finished and goes on with the others; one that fails is reported and
stops no other. SIGINT and SIGTERM let all save, a second one kills them. `local` divides CPU cores and GPUs among the
members that run at once. `list` shows how far each is. Both write DIR/sweep.csv and DIR/sweep.md: means and standard
deviations of the test errors over the seeds.
"""

import csv
import ctypes
import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback

from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.runtime import command_line, files, interruption
from alexnet_jax.training import settings

PROGRAM = ("-m", "alexnet_jax.main")  # what a member runs
LINUX = sys.platform == "linux"  # elsewhere members share all cores, and outlive this program if it is killed
ARRAY_SCRIPT = pathlib.Path(__file__).parent / "slurm" / "array.sh"
ERRORS = [(way, name) for way in ("center", "ten_crop") for name in ("top1_error", "top5_error")]


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    config: str  # the file, perhaps with a word for its get_config(), as FILE:WORD
    defaults: dict  # every field of its get_config()
    overrides: tuple[str, ...]  # --config.FIELD=VALUE, for all members
    settings: dict  # of this one
    workdir: pathlib.Path

    @property
    def description(self):
        """What decides the result, as kept in run.json."""
        return json.loads(json.dumps({"config": self.defaults, "overrides": self.overrides, "settings": self.settings}))

    @property
    def command(self):
        own = [f"--config.{field}={value}" for field, value in self.settings.items()]
        start = [sys.executable, *PROGRAM, f"--config={self.config}", f"--workdir={self.workdir}"]
        return start + list(self.overrides) + own

    @property
    def state(self):
        """finished, failed, started or waiting.

        Raises UserError if the directory holds a run of other settings, or of another version of its net.
        """
        path = self.workdir / "run.json"
        if not path.exists():
            return "waiting"
        changed = settings.changes(files.read_json(path), self.description)
        if changed:
            raise UserError(f"{self.workdir}: holds a run of other settings ({changed}); use another --workdir")
        if self.result:
            check_net(self.workdir)
            return "finished"
        return "failed" if (self.workdir / "failed").exists() else "started"

    @property
    def result(self):
        path = self.workdir / "result.json"
        return files.read_json(path) if path.exists() else None

    def start(self, share):
        """Its process, on a share of the machine."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(self.workdir / "run.json", self.description)
        (self.workdir / "failed").unlink(missing_ok=True)
        with (self.workdir / "commits.txt").open("a") as file:
            print(commit(), file=file)
        with (self.workdir / "log.txt").open("ab") as log:
            # In a session of its own, where Ctrl-C at the keyboard does not reach it twice.
            process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                env=os.environ | share.environment,
                start_new_session=True,
                preexec_fn=_end_with_parent if LINUX else None,
            )
        if LINUX:
            os.sched_setaffinity(process.pid, share.cores)
        return process

    def end(self, status, interrupted):
        """Notes and returns what its exit status means: finished, failed, or interrupted if this program was."""
        if status == 0:
            return "finished"
        if interrupted and (status in (128 + signal.SIGINT, 128 + signal.SIGTERM) or status < 0):
            return "interrupted"
        (self.workdir / "failed").write_text(f"exit status {status}\n")
        return "failed"

    @property
    def in_use(self):
        """Whether a process is still at work there, as of a sweep that was killed a moment ago."""
        try:
            files.check_unlocked(self.workdir / "lock")
        except UserError:
            return True
        return False

    def last_line(self):
        lines = (self.workdir / "log.txt").read_text(errors="replace").splitlines()
        return lines[-1] if lines else ""


def check_net(workdir):
    """Raises UserError if a run was finished with another version of its net or schedule."""
    try:
        config = ConfigDict(files.read_json(workdir / "config.json"))
        corrected = settings.corrections(settings.read_record(workdir), config)
    except (AttributeError, TypeError) as error:
        raise UserError(f"{workdir / 'config.json'}: is not what training wrote; restore it") from error
    if corrected:
        raise UserError(
            f"{workdir}: was finished with another version of this net or schedule ({corrected}); use another "
            "--workdir, or remove this directory to train it again"
        )


def commit():
    """The commit that this program is of, with a + if its files were changed since; 'unknown' without git."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent.parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "*.py"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + "+" * bool(changed)


def _end_with_parent():
    """Has SIGTERM sent to this process when its parent dies, of kill -9 perhaps."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@dataclasses.dataclass(frozen=True)
class Share:
    """A part of this machine."""

    cores: set[int]
    environment: dict


def shares(number):
    """The machine in so many parts. Raises UserError if there are fewer GPUs."""
    cores = sorted(os.sched_getaffinity(0)) if LINUX else list(range(os.cpu_count()))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "CUDA_VISIBLE_DEVICES" in os.environ else None
    if gpus is None:
        gpus = [str(i) for i in range(len(list(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))))]
    gpus = [gpu for gpu in gpus if gpu]
    if gpus and number > len(gpus):
        raise UserError(f"--at_once={number}: there are {len(gpus)} GPUs")
    found = []
    for i in range(number):
        part = slice(i * len(gpus) // number, (i + 1) * len(gpus) // number)
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[part])} if gpus else {}
        found.append(Share(set(cores[i * len(cores) // number : (i + 1) * len(cores) // number] or cores), environment))
    return found


def read_members(config, workdir, overrides):
    """The members of a config, FILE or FILE:WORD.

    Raises:
      UserError: it has none, two that are equal, or one with an unknown field.
    """
    path, *words = config.split(":", 1)
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"--config={path}: no such file; the project's own are in configs/")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.getcwd())  # for configs that build on others, as alexnet_jax.main has it
    try:
        spec.loader.exec_module(module)
        fields = module.get_config(*words).to_dict()
        all_settings = [dict(member) for member in module.sweep(*words)] if hasattr(module, "sweep") else None
    except Exception as error:  # the user's program can raise anything; the line names its type and place
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else path
        raise UserError(f"--config={where}: {type(error).__name__}: {error}") from error
    if all_settings is None:
        raise UserError(f"--config={path}: has no sweep(); see --help")
    if not all_settings:
        raise UserError(f"--config={path}: sweep() yields no member")
    defaults, found = dict(settings.flatten(fields)), {}
    for member in all_settings:
        try:
            json.dumps(member)
        except TypeError as error:
            raise UserError(f"--config={path}: sweep() yields {member}: {error}; use plain numbers and text") from error
        for field in member:
            if field not in defaults:
                raise UserError(f"--config={path}: sweep() sets {field!r}, which the config does not have")
        name = directory_name(member)
        if name in found:
            raise UserError(f"--config={path}: sweep() yields {member} twice")
        found[name] = Member(
            ":".join([str(path.resolve()), *words]), defaults, tuple(overrides), member, workdir / name
        )
    return list(found.values())


def directory_name(member):
    """As `seed=0,model.width=0.5`; with a hash where that is too long for a file name, or has other characters."""
    full = ",".join(f"{field}={value}" for field, value in member.items()) or "default"
    safe = re.sub(r"[^\w.,=+-]", "_", full)[:120]
    return safe if safe == full else f"{safe}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def run(members, at_once):
    """Runs what is not finished. Returns the exit status: 0, 1 if one failed, or 128 and the number of a signal."""
    waiting = [member for member in members if member.state != "finished"]
    done = len(members) - len(waiting)
    logs = members[0].workdir.parent / "*" / "log.txt"
    print(f"{len(members)} members, {done} finished before; {logs} say how far they are", flush=True)
    for member in waiting:
        if member.in_use:
            print(f"{member.workdir.name}: waits for the process that is in its directory", flush=True)
    free, running, failed, received = shares(at_once), {}, [], []

    def forward(number, _):
        now = time.monotonic()
        received.append((number, now))
        if len(received) == 1:  # not by print, which may be at work
            os.write(2, b"alexnet_jax: ending once all is saved; a second one ends at once\n")
        for process, _, _ in running.values():
            if len(received) == 1:
                process.send_signal(number)
            elif now - received[0][1] > interruption.ONE:
                process.kill()

    handlers = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    while running or waiting and not received:
        while waiting and free and not received and not waiting[0].in_use:
            member = waiting.pop(0)
            if member.state == "finished":  # by the process that was in its directory
                done += 1
                continue
            share = free.pop()
            process = member.start(share)
            running[member.workdir] = (process, member, share)
            if received:  # in between
                process.send_signal(received[0][0])
            print(f"{member.workdir.name}: started", flush=True)
        for workdir, (process, member, share) in list(running.items()):
            if process.poll() is not None:
                del running[workdir]
                free.append(share)
                state = member.end(process.returncode, received)
                done += state == "finished"
                said = {
                    "finished": f" ({done} of {len(members)})",
                    "failed": f" ({member.last_line()}; {member.workdir / 'log.txt'})",
                }
                print(f"{workdir.name}: {state}{said.get(state, '')}", flush=True)
                failed += [member] if state == "failed" else []
        time.sleep(0.1)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if received:
        print("alexnet_jax: interrupted; the same command goes on", file=sys.stderr)
        return 128 + received[0][0]
    if failed:
        print(f"alexnet_jax: {len(failed)} of {len(members)} members failed; see above", file=sys.stderr)
    return 1 if failed else 0


def submit(members, args, overrides):
    """Submits an array with a job for each member that is not finished."""
    indices = [str(i) for i, member in enumerate(members) if member.state != "finished"]
    if not indices:
        print("all members are finished")
        return 0
    if not shutil.which("sbatch"):
        raise UserError("slurm: there is no sbatch here; use local, or log in to where Slurm is")
    command = ["sbatch", f"--array={','.join(indices)}", f"--output={args.workdir}/slurm-%A_%a.log", *args.sbatch]
    command += [str(ARRAY_SCRIPT), f"--config={args.config}", f"--workdir={args.workdir}", *overrides]
    return subprocess.run(command).returncode


def write_table(members, workdir):
    """Writes sweep.csv and sweep.md, a row for all members that differ in their seeds only, and prints the latter."""
    groups = {}
    for member in members:
        others = {field: value for field, value in member.settings.items() if field != "seed"}
        groups.setdefault(json.dumps(others), (others, []))[1].append(member.result)
    fields = list(dict.fromkeys(field for others, _ in groups.values() for field in others))
    names = [f"{way}_{name}" for way, name in ERRORS]
    rows, lines = [], []
    for others, results in groups.values():
        done = [result for result in results if result]
        row = {field: others.get(field, "") for field in fields} | {"finished": len(done), "members": len(results)}
        cells = []
        for name, (way, error) in zip(names, ERRORS, strict=True):
            values = [result[way][error] for result in done]
            row[f"{name}_mean"] = statistics.mean(values) if values else math.nan
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else math.nan
            mean = f"{100 * row[f'{name}_mean']:.2f}" if values else ""
            cells.append(f"{mean} ± {100 * row[f'{name}_std']:.2f}" if len(values) > 1 else mean)
        rows.append(row)
        lines.append([*(str(others.get(field, "")) for field in fields), f"{len(done)} of {len(results)}", *cells])
    head = [*fields, "finished", *(f"{way} {error.replace('_', ' ')}, %" for way, error in ERRORS)]
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])
    with files.whole(workdir / "sweep.csv") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with files.whole(workdir / "sweep.md") as file:
        file.write(markdown + "\n")
    print(f"\n{markdown}\n\nmean ± standard deviation over seeds; {workdir / 'sweep.csv'}")


def main():
    parser = command_line.Parser("experiments.sweep", __doc__)
    parser.add_argument("command", choices=("list", "local", "slurm"))
    parser.add_argument("--config", required=True, help="a file with get_config() and sweep()")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where the members' directories are")
    parser.add_argument("--at_once", type=int, default=1, help="local: members that run at the same time (1)")
    parser.add_argument("--member", type=int, help="local: this one alone, by its number in the list")
    parser.add_argument("--sbatch", action="append", default=[], metavar="FLAG", help="slurm: a flag for sbatch")
    args, overrides = parser.parse_known_args()
    for argument in overrides:
        if not re.match(r"--config\.[\w.]+=", argument):
            parser.error(f"unexpected argument {argument!r}; settings look like --config.batch_size=64")
    if args.at_once < 1:
        parser.error("--at_once must be above 0")
    args.workdir = args.workdir.expanduser().absolute()
    with command_line.one_line_errors("the same command goes on"):
        try:
            sys.exit(sweep(args, overrides))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"--workdir={args.workdir}: cannot be written ({error})") from error


def sweep(args, overrides):
    """Does what the flags of `main` ask for; returns the exit status."""
    members = read_members(args.config, args.workdir, overrides)
    if args.command == "list":
        for i, member in enumerate(members):
            print(f"{i:4} {member.state:9} {member.workdir.name}")
        if any(member.result for member in members):
            write_table(members, args.workdir)
        return 0
    args.workdir.mkdir(parents=True, exist_ok=True)
    if args.command == "slurm":
        return submit(members, args, overrides)
    if args.member is not None:
        if not 0 <= args.member < len(members):
            raise UserError(f"--member={args.member}: must be from 0 to {len(members) - 1}")
        return run([members[args.member]], 1)
    with files.locked(args.workdir / "lock"):
        status = run(members, min(args.at_once, len(members)))
        write_table(members, args.workdir)
        return status


if __name__ == "__main__":
    main()
