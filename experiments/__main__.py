"""Tests a claim of the paper: trains the nets that it compares, several at a time, and prints the result.

  python -m experiments NAME --scale=laptop --root=DATA --workdir=DIR [--at_once=2]
  python -m experiments report [--workdir=DIR]

NAME is a claim in experiments/claims. If the command is run again with the same DIR, it continues. Claims that compare
the same nets share their runs in DIR. Each finished run is stored as a small file in DIR/results. `report` makes
DIR/RESULTS.md and DIR/report.html from these files; without DIR, the pages in experiments/ from experiments/results.
"""

import pathlib
import sys

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

from alexnet_jax import UserError
from alexnet_jax.data import datasets
from alexnet_jax.runtime import files, text
from experiments import claims, results_page, scheduler, store, sweep_members
from experiments.claims.claim import SCALES, Claim


@command_line.one_line_errors("run the same command again to continue")
def main():
    names = ", ".join(claims.CLAIMS)
    parser = command_line.Parser("experiments", __doc__)
    parser.add_argument("name", metavar="NAME", help=f"{names}; or report")
    parser.add_argument("--scale", choices=SCALES, help="full: as in the paper; laptop: reduced")
    parser.add_argument("--workdir", type=pathlib.Path, help="for the runs and their results")
    parser.add_argument("--root", default="", help="of the data, as config.dataset.root")
    parser.add_argument("--at_once", type=int, default=1, help="runs at the same time (1)")
    args = parser.parse()
    if args.name not in (*claims.CLAIMS, "report"):
        parser.error(f"no claim {args.name!r}; the claims are {names}, and report makes the pages")
    if args.name != "report" and not (args.scale and args.workdir):
        parser.error(f"{args.name} needs --scale and --workdir")
    if args.at_once < 1:
        parser.error("--at_once must be above 0")
    if args.name == "report" and (args.scale or args.root or args.at_once > 1):
        parser.error("report takes no flag but --workdir")
    directory = files.absolute(args.workdir) if args.workdir else store.COMMITTED.parent
    if args.name != "report":
        sys.exit(run(claims.CLAIMS[args.name], args.scale, args.root, directory, args.at_once))
    for path in results_page.write(directory):
        text.print_line(path)


def run(claim: Claim, scale: str, root: str, directory: pathlib.Path, at_once: int) -> int:
    """Trains what is not finished, stores the finished runs and prints the summary; returns the exit status."""
    results = directory / "results"
    workdir = directory / scale / claim.data[scale]
    overrides = [f"--config.dataset.root={root}"] if root else []
    members = sweep_members.read_members(f"{claims.CONFIG}:{claim.name}:{scale}", workdir, overrides)
    check_inputs(claim, scale, root, members)
    store.load_runs(claim.runs_directory(scale, results))  # reports damaged files before the training
    claim.measurement(scale, results)
    files.make_directory(workdir)
    with files.locked(workdir / "lock"):
        status = scheduler.run(members, min(at_once, len(members)))
        finished = [member for member in members if member.result]
        for member in finished:
            store.store_run(member, claim.runs_directory(scale, results))
    if status > 128:
        return status
    if finished and claim.measure:
        stored = claim.measurement(scale, results)
        runs = claim.finished_runs(scale, results)
        measured = {run.name for run in runs} <= stored.get("runs", {}).keys()
        if stored.get("commit") != sweep_members.commit() or not measured:
            command_line.set_up_jax()
            store.store_measurement(claim.measure(finished), runs, claim.measurement_path(scale, results))
    summary = results_page.summarise(claim, scale, results)
    for row in summary.table:
        text.print_line(" | ".join(row))
    text.print_line(f"{summary.statement} The claim: {summary.verdict}.")
    return status


def check_inputs(claim: Claim, scale: str, root: str, members: list[sweep_members.Member]) -> None:
    """Raises UserError if the data are not those of the claim, or if a net to start from is missing."""
    dataset, expected = claim.sweep.config(scale).dataset, claim.data_set(scale)
    needs = f"at this scale {claim.name} needs {claim.data[scale]}"
    if root and dataset.name == "textures":
        raise UserError(f"--root={root}: at this scale {claim.name} uses the embedded textures; leave --root out")
    root = root or dataset.root
    try:
        images = datasets.find(dataset.name, root)
        _, test = images.held_out()
        source, class_names = images.load(test, 256)
    except UserError as error:
        raise UserError(
            f"--root: {str(error).partition(';')[0]}; {needs}, prepared as described in docs/getting-data.md"
        ) from error
    if (len(class_names), len(source)) != (expected.classes, expected.test_images):
        raise UserError(
            f"--root={root}: has {len(class_names)} classes and {len(source):,} {test} images; {needs}, which has "
            f"{expected.classes} and {expected.test_images:,}"
        )
    for start in {member.settings.get("init_from", "") for member in members} - {""}:
        if not pathlib.Path(start).exists():
            raise UserError(f"{start}: no such directory; experiments/RESULTS.md has the command that trains it")
        sweep_members.check_net(pathlib.Path(start))


if __name__ == "__main__":
    main()
