"""Tries a claim of the paper: trains what it compares, several nets at a time, and says what came of it.

  python -m experiments NAME --scale=laptop --root=DATA --workdir=DIR [--at_once=2]
  python -m experiments report [--workdir=DIR]

NAME is a file of experiments/ that says what the paper claims and what trying it costs. Started again on the same
DIR it goes on, and claims that compare the same nets share them there. What is finished is kept in DIR/results, a
small file for each training. `report` makes DIR/RESULTS.md and DIR/report.html of these; without DIR, of the results
in experiments/results, beside which they lie.
"""

import pathlib
import sys

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from alexnet_jax.runtime import command_line, files
from experiments import claims, report, runs, sweep


def main():
    parser = command_line.Parser("experiments", __doc__)
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(claims.NAMES)}; or report")
    parser.add_argument("--scale", choices=claims.SCALES, help="as in the paper, or what a laptop can do")
    parser.add_argument("--workdir", type=pathlib.Path, help="where the trainings and their results go")
    parser.add_argument("--root", default="", help="of the data, as config.dataset.root")
    parser.add_argument("--at_once", type=int, default=1, help="trainings that run at the same time (1)")
    args = parser.parse_args()
    if args.name not in (*claims.NAMES, "report"):
        parser.error(f"no claim {args.name!r}; there are {', '.join(claims.NAMES)}, and report")
    if args.name != "report" and not (args.scale and args.workdir):
        parser.error(f"{args.name} needs --scale and --workdir")
    if args.at_once < 1:
        parser.error("--at_once must be above 0")
    if args.name == "report" and (args.scale or args.root or args.at_once > 1):
        parser.error("report takes no flag but --workdir")
    directory = args.workdir.expanduser().absolute() if args.workdir else runs.COMMITTED.parent
    with command_line.one_line_errors("the same command goes on"):
        try:
            if args.name != "report":
                sys.exit(run(args, directory))
            print(*report.write(directory), sep="\n")
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"{error.filename or directory}: cannot be written ({error.strerror})") from error


def run(args, directory):
    """Trains what is not finished, keeps what is, and says what came of it; returns the exit status."""
    claim = claims.load(args.name)
    data = claim.DATA[args.scale]
    results = directory / "results"
    workdir = directory / args.scale / data
    overrides = [f"--config.dataset.root={args.root}"] if args.root else []
    members = sweep.read_members(f"{claim.__file__}:{args.scale}", workdir, overrides)
    check_inputs(args, claim, members)
    runs.load(results, args.scale, data)  # a damaged one is named now, not when all is trained
    claims.measured(args.name, args.scale, results)
    workdir.mkdir(parents=True, exist_ok=True)
    with files.locked(workdir / "lock"):
        status = sweep.run(members, min(args.at_once, len(members)))
        finished = [member for member in members if member.result]
        for member in finished:
            runs.keep(member, runs.directory(results, args.scale, data))
    if status > 128:
        return status
    if finished and hasattr(claim, "measure"):
        kept = claims.measured(args.name, args.scale, results)
        found = claims.finished(claim, args.scale, results)
        if kept.get("commit") != sweep.commit() or not {run.path.stem for run in found} <= set(kept.get("runs", {})):
            command_line.set_up_jax()
            path = claims.measured_path(args.name, args.scale, results)
            claims.keep_measured(claim.measure(finished), found, path)
    summary = report.summarise(args.name, args.scale, results)
    for row in summary.table:
        print(" | ".join(row))
    print(f"{summary.statement} The claim: {summary.verdict}.")
    return status


def check_inputs(args, claim, members):
    """Raises UserError, once and before anything is trained, if the data or the nets to start from are not there."""
    dataset, data = claim.get_config(args.scale).dataset, claim.DATA[args.scale]
    if args.root and dataset.name == "textures":
        raise UserError(f"--root={args.root}: at this scale {args.name} takes the embedded textures; leave --root out")
    root = args.root or dataset.root
    try:
        _, test = datasets.held_out(dataset.name, root)
        images, class_names = datasets.load_split(dataset.name, root, test, 256)
    except UserError as error:
        raise UserError(
            f"--root: {str(error).partition(';')[0]}; at this scale {args.name} takes {data}, prepared as "
            "docs/data.md says"
        ) from error
    if (len(class_names), len(images)) != (claims.CLASSES[data], claims.TEST_IMAGES[data]):
        raise UserError(
            f"--root={root}: has {len(class_names)} classes and {len(images):,} {test} images; at this scale "
            f"{args.name} takes {data}, which has {claims.CLASSES[data]} and {claims.TEST_IMAGES[data]:,}"
        )
    for start in {member.settings.get("init_from", "") for member in members} - {""}:
        if not pathlib.Path(start).exists():
            raise UserError(f"{start}: no such directory; experiments/{args.name}.py says how to train it first")
        sweep.check_net(pathlib.Path(start))


if __name__ == "__main__":
    main()
