"""Tries a claim of the paper: trains what it compares, several nets at a time, and says what came of it.

  python -m experiments NAME --scale=laptop --root=DATA --workdir=DIR [--at_once=2]
  python -m experiments report

NAME is a file of experiments/ that says what the paper claims and what trying it costs. Started again on the same
DIR it goes on, and claims that compare the same nets share them there. What is finished is kept in
experiments/results/runs, a file for each training. `report` makes experiments/RESULTS.md and experiments/report.html
of these.
"""

import pathlib
import sys

from alexnet_jax import UserError, commands, datasets, files
from experiments import claims, report, runs, sweep


def main():
    parser = commands.Parser("experiments", __doc__)
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(claims.NAMES)}; or report")
    parser.add_argument("--scale", choices=claims.SCALES, help="as in the paper, or what a laptop can do")
    parser.add_argument("--workdir", type=pathlib.Path, help="where the trainings go")
    parser.add_argument("--root", default="", help="of the data, as config.dataset.root")
    parser.add_argument("--at_once", type=int, default=1, help="trainings that run at the same time (1)")
    args = parser.parse_args()
    if args.name not in (*claims.NAMES, "report"):
        parser.error(f"no claim {args.name!r}; there are {', '.join(claims.NAMES)}, and report")
    if args.name != "report" and not (args.scale and args.workdir):
        parser.error(f"{args.name} needs --scale and --workdir")
    if args.at_once < 1:
        parser.error("--at_once must be above 0")
    with commands.one_line_errors("the same command goes on"):
        try:
            if args.name != "report":
                sys.exit(run(args))
            print(*report.write(), sep="\n")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be written ({error.strerror})") from error


def run(args):
    """Trains what is not finished, keeps what is, and says what came of it; returns the exit status."""
    claim = claims.load(args.name)
    data, dataset = claim.DATA[args.scale], claim.get_config(args.scale).dataset
    datasets.held_out(dataset.name, args.root or dataset.root)  # so that what is not there is said once
    workdir = args.workdir.expanduser().absolute() / args.scale / data
    overrides = [f"--config.dataset.root={args.root}"] if args.root else []
    members = sweep.read_members(f"{claim.__file__}:{args.scale}", workdir, overrides)
    workdir.mkdir(parents=True, exist_ok=True)
    with files.locked(workdir / "lock"):
        status = sweep.run(members, min(args.at_once, len(members)))
    if status > 128:
        return status
    finished = [member for member in members if member.result]
    for member in finished:
        runs.keep(member, args.scale, data)
    if finished and hasattr(claim, "measure"):
        commands.set_up_jax()
        claims.keep_measured(args.name, args.scale, claim.measure(finished))
    summary = report.summarise(args.name, args.scale)
    for row in summary.table:
        print(" | ".join(row))
    print(f"{summary.statement} The claim: {summary.verdict}.")
    return status


if __name__ == "__main__":
    main()
