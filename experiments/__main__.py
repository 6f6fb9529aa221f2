"""Tries a claim of the paper: trains what it compares, several nets at a time, and says what came of it.

  python -m experiments NAME --scale=laptop --root=DATA --workdir=DIR [--at_once=2]

NAME is a file of experiments/ that says what the paper claims and what trying it costs. Started again on the same
DIR it goes on, and claims that compare the same nets share them there. What is finished is kept in
experiments/results/runs, a file for each training.
"""

import importlib
import pathlib
import sys

from alexnet_jax import UserError, commands, files
from experiments import claims, runs, sweep


def main():
    parser = commands.Parser("experiments", __doc__)
    parser.add_argument("name", metavar="NAME", help=", ".join(claims.NAMES))
    parser.add_argument("--scale", choices=claims.SCALES, help="as in the paper, or what a laptop can do")
    parser.add_argument("--workdir", type=pathlib.Path, help="where the trainings go")
    parser.add_argument("--root", default="", help="of the data, as config.dataset.root")
    parser.add_argument("--at_once", type=int, default=1, help="trainings that run at the same time (1)")
    args = parser.parse_args()
    if args.name not in claims.NAMES:
        parser.error(f"no claim {args.name!r}; there are {', '.join(claims.NAMES)}")
    if not args.scale or not args.workdir:
        parser.error("needs --scale and --workdir")
    if args.at_once < 1:
        parser.error("--at_once must be above 0")
    with commands.one_line_errors("the same command goes on"):
        sys.exit(run(args))


def run(args):
    """Trains what is not finished and keeps what is; returns the exit status."""
    claim = importlib.import_module(f"experiments.{args.name}")
    workdir = args.workdir.expanduser().absolute() / args.scale / claim.DATA[args.scale]
    overrides = [f"--config.dataset.root={args.root}"] if args.root else []
    members = sweep.read_members(f"{claim.__file__}:{args.scale}", workdir, overrides)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={args.workdir}: cannot be written ({error.strerror})") from error
    with files.locked(workdir / "lock"):
        status = sweep.run(members, min(args.at_once, len(members)))
    for member in members:
        if member.result:
            runs.keep(member, args.scale, claim.DATA[args.scale])
    return status


if __name__ == "__main__":
    main()
