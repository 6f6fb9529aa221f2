"""RESULTS.md and report.html: what the stored runs show about every claim.

Both are made only from the JSON files in results/, and have the same bytes each time.
"""

import pathlib
import traceback
from collections.abc import Iterable

from alexnet_jax import UserError
from alexnet_jax.analysis import figures, pages
from alexnet_jax.model import nets
from alexnet_jax.runtime import files
from alexnet_jax.runtime.text import print_error
from experiments import claims, estimates, store
from experiments.claims.claim import SCALES, Claim, Summary

PICTURES = "results/pictures"

INTRODUCTION = (
    "The claims of the paper, re-tested. The log of 2012 is the training log of the nets that the authors later "
    "released with their code: 145 is the paper's net, 145-half the one for a single GPU, other numbers are variants. "
    "Two errors separated by a slash are top-1 and top-5 error."
)
RULES = (
    "A verdict holds for the scale at which the claim was tested: `laptop` is mostly a quarter of the paper's width, "
    "ten classes and a few epochs. Unless its section has another rule, a claim predicts a positive difference: it is "
    "supported if the 95 % confidence interval lies above 0, contradicted if it lies below 0, and not decided if it "
    "contains 0 or if a single seed gives no interval. The intervals are from Welch's t-test over seeds, or from "
    "Student's paired test where the same nets are evaluated in two ways. Errors are in percent, ± their standard "
    "deviation over the seeds."
)
CAUTIONS = (
    "Three seeds give wide intervals. The claims on Imagenette share the same three runs of the paper's net, so their "
    "results are not independent. Unless noted, all nets on Imagenette are trained with a learning rate of 0.01 and a "
    "batch size of 32. The rates were not tuned for each net, which may explain small differences: at 0.005 the "
    "paper's net has another error, and only there does the net without dropout learn at all (see dropout)."
)
# Data sets that are not the originals, by the beginning of their listing.
ENCODED_AGAIN = {
    "202c6af329": "the images of CIFAR-10 as JPEGs",
    "a36680b38b": "the photographs of Imagenette as squares of 160 pixels, as JPEGs of quality 60",
}
SOURCES = (
    "Each run is a JSON file in [results/runs](results/runs) with all fields of its config, the commit that ran it, "
    "its result and its metrics. Measurements of trained nets are in [results/measured](results/measured), with the "
    "commit that made them. A listing is a hash of the names, sizes and labels of the files from which a data set was "
    "prepared. `python -m experiments report` makes this page from these files."
)


def summarise(claim: Claim, scale: str, results: pathlib.Path) -> Summary:
    """The summary of a claim at a scale from the stored runs in a directory.

    Raises UserError if the claim cannot be computed from what the files hold.
    """
    try:
        return _summary(claim, scale, results)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        cause = f"{type(error).__name__}: {error}, {frame.filename}:{frame.lineno}"
        paths = [claim.runs_directory(scale, results)] + [claim.measurement_path(scale, results)] * bool(claim.measure)
        raise UserError(
            f"{' or '.join(map(str, paths))}: is not what this program wrote ({cause}); {files.RESTORE}"
        ) from error


def _summary(claim, scale, results):
    runs = claim.finished_runs(scale, results)
    if not claim.measure:
        return claim.summary(runs)
    measured = claim.measurement(scale, results)
    if not measured and len(runs) == len(list(claim.sweep.members(scale))):
        command = f"python -m experiments {claim.name} --scale={scale} --workdir={results.parent}"
        print_error(f"{claim.name}: trained, but not measured; {command} continues")
    return claim.summary(runs, measured)


def overview(summaries: dict[str, dict[str, Summary]]) -> list[list[str]]:
    """The table of all claims: title, the paper's figure, and the result and the verdict at each scale."""
    rows = [["claim", "paper", "measured here", "verdict"]]
    for name, by_scale in summaries.items():
        tested = {scale: summary for scale, summary in by_scale.items() if summary.verdict != estimates.NOT_RUN}
        result, verdict = (
            "; ".join(f"{scale}: " * (len(tested) > 1) + getattr(summary, field) for scale, summary in tested.items())
            for field in ("result", "verdict")
        )
        claim = claims.CLAIMS[name]
        rows.append([claim.title, claim.figure, result, verdict or estimates.NOT_RUN])
    return rows


def section(claim: Claim, by_scale: dict[str, Summary], results: pathlib.Path) -> list[pages.Block]:
    """The blocks about a claim."""
    costs = (f"`{scale}`, {len(list(claim.sweep.members(scale)))} runs of {claim.cost[scale]}" for scale in SCALES)
    paper = f"{claim.figure}; {claim.paper}" if claim.paper else f"{claim.figure}."
    texts = [f"Paper: {paper}", f"Log of 2012: {claim.log}", *claim.notes]
    blocks: list[pages.Block] = [("heading", f"{claim.title} ({claim.section})")]
    blocks += [("text", text) for text in [*texts, f"Cost: {'; '.join(costs)}."]]
    for scale, summary in by_scale.items():
        if summary.verdict != estimates.NOT_RUN:
            blocks.append(("text", f"**Scale `{scale}`: {summary.verdict}.** {summary.statement}"))
            blocks.append(("table", summary.table))
            for name, (caption, png) in summary.pictures.items():
                blocks.append(("picture", f"{claim.name}_{scale}_{name}", caption, png))
            measured_by = claim.measurement(scale, results).get("commit")
            blocks.append(("text", provenance(summary.runs, scale, measured_by)))
    if not_run := [f"`{scale}`" for scale, summary in by_scale.items() if summary.verdict == estimates.NOT_RUN]:
        blocks.append(("text", f"**Not run yet: scale {' and '.join(not_run)}.**"))
    return [*blocks, ("text", "Commands:"), ("code", "\n".join(claim.command_lines()))]


def provenance(runs: list[store.Run], scale: str, measured_by: str | None) -> str:
    """Data, seeds, steps and commits of some runs, and the commit that measured the trained nets, if one did."""
    first = runs[0]
    listings = ", ".join(pages.code(listing) for listing in sorted({listing(run) for run in runs} - {""}))
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    steps = " or ".join(f"{step:,}" for step in sorted({run.result["step"] for run in runs}))
    text = (
        f"Data: {first.data_set}{f' (listing {listings})' * bool(listings)}, {first.result['num_examples']:,} images "
        f"evaluated. Seeds {seeds}; {steps} steps of {first.config['batch_size']} images. Commits "
        f"{short(run.commit for run in runs)}. Runs: `results/runs/{scale}/{first.data_set}`."
    )
    if measured_by:
        text += f" Measured by commit {short([measured_by])}."
    if starts := [run.start for run in runs if run.start]:
        errors = estimates.mean_percent([start["result"]["center"]["top1_error"] for start in starts])
        text += (
            f" {len(starts)} of them started from nets with a top-1 error of {errors} % on their own data, of commit "
            f"{short(start['commit'] for start in starts)}."
        )
    return text


def listing(run: store.Run) -> str:
    return run.data.get("listing", "")[:10]


def short(commits: Iterable[str]) -> str:
    """Abbreviated commits without repetitions, from texts that may hold several each."""
    return ", ".join(
        pages.code(commit[:10]) for commit in sorted({one for text in commits for one in text.split(", ")})
    )


def write(directory: pathlib.Path) -> list[pathlib.Path]:
    """Writes both pages and their pictures for the results in a directory. Raises UserError if there are none."""
    results = directory / "results"
    if not (results / "runs").is_dir():
        raise UserError(f"{directory}: has no results; python -m experiments NAME --workdir={directory} makes some")
    summaries = {
        name: {scale: summarise(claim, scale, results) for scale in SCALES} for name, claim in claims.CLAIMS.items()
    }
    used = [run for by_scale in summaries.values() for summary in by_scale.values() for run in summary.runs]
    if unused := sorted(set((results / "runs").glob("*/*/*.json")) - {run.path for run in used}):
        reason = "no claim needs them now, or too few runs of a claim are finished"
        print_error(f"{len(unused)} runs are not used, for example {unused[0]}: {reason}")
    net = figures.png(figures.diagram(nets.NETS["two_gpu"]))
    blocks: list[pages.Block] = [("title", "The paper's claims"), ("text", INTRODUCTION), ("text", RULES)]
    blocks += [("text", CAUTIONS), ("table", overview(summaries)), ("text", SOURCES)]
    if again := sorted({listing(run) for run in used} & ENCODED_AGAIN.keys()):
        text = ", ".join(f"`{one}` {ENCODED_AGAIN[one]}" for one in again)
        text = (
            f"Data sets with these listings are re-encoded; the originals may give slightly different errors: {text}."
        )
        blocks.append(("text", text))
    caption = "The paper's net. At each gather, the number of values that a tower receives."
    blocks.append(("picture", "two_gpu", caption, net))
    for name, by_scale in summaries.items():
        blocks += section(claims.CLAIMS[name], by_scale, results)
    files.make_directory(directory / PICTURES)
    for block in blocks:
        if block[0] == "picture":
            _, name, _, png = block
            with files.whole(directory / PICTURES / f"{name}.png", "wb") as picture:
                picture.write(png)
    texts = {"RESULTS.md": pages.to_markdown(blocks, PICTURES), "report.html": pages.to_html(blocks)}
    for name, page in texts.items():
        with files.whole(directory / name) as file:
            file.write(page)
    return [directory / name for name in texts]
