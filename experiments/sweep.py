"""Runs all members of a sweep: several at a time on this machine, or as an array of Slurm jobs.

  python experiments/sweep.py list  --config=configs/quickstart_sweep.py --workdir=DIR
  python experiments/sweep.py local --config=configs/quickstart_sweep.py --workdir=DIR --at_once=2
  python experiments/sweep.py slurm --config=configs/quickstart_sweep.py --workdir=DIR

The config has, beside get_config(), a function sweep() that yields a dict of settings for each member, for example
{"schedule.learning_rate": 0.01, "seed": 0}; --config.FIELD=VALUE sets a field for all members. With
--config=FILE.py:WORD both functions are called with the word. Each member is a run of alexnet_jax.main in its own
directory in DIR, with its output in log.txt and the project's commit at each start in commits.txt.

If the command is run again, it skips finished members and continues the others; one that fails is reported and stops
no other. After SIGINT or SIGTERM the running members save and end; a second signal kills them. `local` divides the CPU
cores and GPUs among the members that run at the same time (cores on Linux only). `list` shows the state of each member.
Both write DIR/sweep.csv and DIR/sweep.md: means and standard deviations of the test errors over the seeds.
"""

import csv
import json
import pathlib
import shutil
import subprocess
import sys

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax import UserError
from alexnet_jax.analysis import pages
from alexnet_jax.runtime import files, text
from experiments import estimates, scheduler
from experiments.sweep_members import ERRORS, Member, read_members

ARRAY_SCRIPT = pathlib.Path(__file__).parent / "slurm" / "array.sh"


def submit(members: list[Member], args, overrides: list[str]) -> int:
    """Submits an array with a job for each unfinished member; returns the exit status of sbatch."""
    indices = [str(i) for i, member in enumerate(members) if member.state not in ("finished", "damaged")]
    if not indices:
        print("all members are finished or damaged; list tells which")
        return 0
    if not shutil.which("sbatch"):
        raise UserError("slurm: no command sbatch; use local, or log in to a machine with Slurm")
    command = ["sbatch", f"--array={','.join(indices)}", f"--output={args.workdir}/slurm-%A_%a.log", *args.sbatch]
    command += [str(ARRAY_SCRIPT), f"--config={args.config}", f"--workdir={args.workdir}", *overrides]
    return subprocess.run(command).returncode


def write_table(members: list[Member], workdir: pathlib.Path) -> None:
    """Writes sweep.csv and sweep.md, one row for all members that differ only in their seeds, and prints the latter."""
    groups: dict[str, tuple[dict, list[dict | None]]] = {}
    for member in members:
        others = {field: value for field, value in member.settings.items() if field != "seed"}
        groups.setdefault(json.dumps(others), (others, []))[1].append(member.result)
    fields = list(dict.fromkeys(field for others, _ in groups.values() for field in others))
    rows = []
    table = [
        [*map(pages.literal, fields), "finished", *(f"{view} {error.replace('_', ' ')}, %" for view, error in ERRORS)]
    ]
    for others, results in groups.values():
        finished = [result for result in results if result]
        row = {field: others.get(field, "") for field in fields} | {"finished": len(finished), "members": len(results)}
        cells = [*map(pages.literal, list(row.values())[: len(fields)]), f"{len(finished)} of {len(results)}"]
        for view, error in ERRORS:
            errors = [result[view][error] for result in finished]
            row[f"{view}_{error}_mean"], row[f"{view}_{error}_std"] = estimates.mean_and_deviation(errors)
            cells.append(estimates.mean_percent(errors, digits=2))
        rows.append(row)
        table.append(cells)
    markdown = pages.markdown_table(table)
    with files.whole(workdir / "sweep.csv") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({field: _cell(value) for field, value in row.items()} for row in rows)
    with files.whole(workdir / "sweep.md") as file:
        file.write(markdown + "\n")
    print(f"\n{markdown}\n")
    text.print_line(f"mean ± standard deviation over seeds; {workdir / 'sweep.csv'}")


def _cell(value):
    """A value of a CSV file. A spreadsheet would execute a text that begins like a formula; numbers remain numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


@command_line.one_line_errors("run the same command again to continue")
def main():
    parser = command_line.Parser("experiments.sweep", __doc__)
    parser.add_argument("command", choices=("list", "local", "slurm"))
    parser.add_argument("--config", required=True, help="a file with get_config() and sweep()")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="for the members' directories")
    parser.add_argument("--at_once", type=int, default=1, help="local: members that run at the same time (1)")
    parser.add_argument("--member", type=int, help="local: run only this one, by its number in `list`")
    parser.add_argument("--sbatch", action="append", default=[], metavar="FLAG", help="slurm: a flag for sbatch")
    args, overrides = parser.parse_with_overrides()
    for flag, command in (("at_once", "local"), ("member", "local"), ("sbatch", "slurm")):
        if args.command != command and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag}: is a flag of `{command}`, not of `{args.command}`")
    if args.at_once < 1:
        parser.error("--at_once must be above 0")
    args.workdir = files.absolute(args.workdir)
    sys.exit(sweep(args, overrides))


def sweep(args, overrides: list[str]) -> int:
    """Executes the command; returns the exit status."""
    members = read_members(args.config, args.workdir, overrides)
    if args.command == "list":
        for i, member in enumerate(members):
            text.print_line(f"{i:4} {member.state:9} {member.workdir.name}")
        if any(member.result for member in members):
            write_table(members, args.workdir)
        return 0
    files.make_directory(args.workdir)
    if args.command == "slurm":
        return submit(members, args, overrides)
    if args.member is not None:
        if not 0 <= args.member < len(members):
            raise UserError(f"--member={args.member}: must be from 0 to {len(members) - 1}")
        return scheduler.run([members[args.member]], 1)
    with files.locked(args.workdir / "lock"):
        status = scheduler.run(members, min(args.at_once, len(members)))
        write_table(members, args.workdir)
        return status


if __name__ == "__main__":
    main()
