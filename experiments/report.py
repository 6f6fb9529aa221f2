"""What the finished trainings say of all claims, as RESULTS.md and report.html.

Made of the JSON files in results/ beside them alone, and the same bytes each time.
"""

import re
import sys
import textwrap

from alexnet_jax import UserError
from alexnet_jax.analysis import figures, pages
from alexnet_jax.model import nets
from alexnet_jax.runtime import files
from experiments import claims

PICTURES = "results/pictures"

INTRODUCTION = (
    "What the paper claims, and what came of trying it. The log of 2012 is that of the nets that its authors released "
    "later with their code: 145 is the paper's net, 145-half the one for a single GPU, other numbers are variants; two "
    "errors are top-1 / top-5."
)
RULES = (
    "What is supported or contradicted here is so at the scale that it was tried at: `laptop` is mostly a quarter of "
    "the paper's width, ten classes and a few epochs. If nothing else is said, a claim is supported where the 95 % "
    "interval of the difference that it predicts lies above 0, contradicted where it lies below, and not decided where "
    "it holds 0, or where one seed gives no interval. The intervals are of Welch's t-test over seeds, or of Student's "
    "paired test where the same nets are looked at in two ways. A plus speaks for a claim, a minus against it. Errors "
    "are in percent, ± their standard deviation over the seeds."
)
CAUTIONS = (
    "Three seeds make wide intervals. The claims on Imagenette share the three trainings of the paper's net, and so "
    "what chance did in these. If nothing else is said, all nets there have a rate of 0.01 in batches of 32; the best "
    "rate of each was not looked for, and small differences may come from that: at 0.005 the paper's net has another "
    "error, and only there the net without dropout learns at all (see dropout)."
)
# Data sets that are not the originals, by the beginnings of their listings.
ENCODED_AGAIN = {
    "202c6af329": "the images of CIFAR-10 as JPEGs",
    "a36680b38b": "the photographs of Imagenette as squares of 160 pixels, as JPEGs of quality 60",
}
TRACES = (
    "Each training is a JSON file in [results/runs](results/runs), with all fields of its config, the commit that "
    "ran it, its result and its metrics; what was found in trained nets is in "
    "[results/measured](results/measured), with the commit that looked. A listing is a hash of the names, sizes and "
    "labels of the files that a data set was prepared from. This page is made of these files by `python -m experiments "
    "report`."
)


def described(claim):
    """What a claim's docstring says: `title`, `paper`, `log`, `notes` (paragraphs) and `commands`."""
    title, sources, *others = claim.__doc__.strip().split("\n\n")
    words = re.fullmatch(r"Paper: (?P<paper>.*?)\nLog of 2012: (?P<log>.*)", sources, re.DOTALL)
    commands = [text for text in others if text.startswith("  ")]
    return {
        "title": " ".join(title.split()).rstrip("."),
        "paper": " ".join(words["paper"].split()),
        "log": " ".join(words["log"].split()),
        "notes": [" ".join(text.split()) for text in others if text not in commands],
        "commands": "\n".join(textwrap.dedent(text) for text in commands),
    }


def summarise(name, scale, results):
    """The `Summary` of a claim at a scale by some results."""
    claim = claims.load(name)
    found = claims.finished(claim, scale, results)
    if not hasattr(claim, "measure"):
        return claim.summary(found)
    measured = claims.measured(name, scale, results)
    if not measured and len(found) == len(list(claim.sweep(scale))):
        again = f"python -m experiments {name} --scale={scale} --workdir={results.parent}"
        print(f"{name}: trained, but not looked into; {again} goes on", file=sys.stderr)
    return claim.summary(found, measured)


def overview(summaries):
    """A row for each claim: its title, the paper's figure, and what came of trying it at each scale."""
    rows = [["claim", "paper", "tried here", "verdict"]]
    for name, by_scale in summaries.items():
        said = described(claims.load(name))
        tried = {scale: summary for scale, summary in by_scale.items() if summary.verdict != claims.NOT_RUN}
        ours, verdict = (
            "; ".join(f"{scale}: " * (len(tried) > 1) + getattr(summary, field) for scale, summary in tried.items())
            for field in ("ours", "verdict")
        )
        title, paper = said["title"].partition(" (")[0], re.split("[;,] ", said["paper"])[0].rstrip(".")
        rows.append([title, paper, ours, verdict or claims.NOT_RUN])
    return rows


def section(name, by_scale, results):
    """The blocks of a claim."""
    said = described(claims.load(name))
    texts = [f"Paper: {said['paper']}", f"Log of 2012: {said['log']}", *said["notes"]]
    blocks = [("heading", said["title"]), *(("text", text) for text in texts)]
    for scale, summary in by_scale.items():
        if summary.verdict != claims.NOT_RUN:
            blocks.append(("text", f"**Scale `{scale}`: {summary.verdict}.** {summary.statement}"))
            blocks.append(("table", summary.table))
            blocks += [("picture", f"{name}_{scale}_{what}", *rest) for what, rest in summary.pictures.items()]
            measured_by = claims.measured(name, scale, results).get("commit")
            blocks.append(("text", provenance(summary.runs, scale, measured_by)))
    if untried := [f"`{scale}`" for scale, summary in by_scale.items() if summary.verdict == claims.NOT_RUN]:
        blocks.append(("text", f"**Not run yet: scale {' and '.join(untried)}.**"))
    return [*blocks, ("text", "The commands:"), ("code", said["commands"])]


def provenance(found, scale, measured_by):
    """Data, seeds, steps and commits of some runs, in a line, and the commit that looked into them, if one did."""
    config = found[0].config
    data = found[0].path.parent.name
    listings = ", ".join(f"`{one}`" for one in sorted({run.data.get("listing", "")[:10] for run in found} - {""}))
    seeds = ", ".join(map(str, sorted({run.seed for run in found})))
    steps = " or ".join(f"{step:,}" for step in sorted({run.result["step"] for run in found}))
    text = (
        f"Data: {data}{f' (listing {listings})' * bool(listings)}, {found[0].result['num_examples']:,} images "
        f"evaluated. Seeds {seeds}; {steps} steps of {config['batch_size']} images. Commits "
        f"{short(run.commit for run in found)}. Runs: `results/runs/{scale}/{data}`."
    )
    if measured_by:
        text += f" Looked into by commit {short([measured_by])}."
    if starts := [run.start for run in found if run.start]:
        errors = claims.mean_and_deviation([start["result"]["center"]["top1_error"] for start in starts])
        text += (
            f" {len(starts)} of them started from nets with a top-1 error of {errors} % on their own data, of commit "
        )
        text += f"{short(start['commit'] for start in starts)}."
    return text


def short(commits):
    """Commits, of which each may be several, without repeats."""
    return ", ".join(f"`{commit[:10]}`" for commit in sorted({one for text in commits for one in text.split(", ")}))


def write(directory):
    """Writes both pages and the pictures of the results in a directory. Raises UserError if there are none."""
    results = directory / "results"
    if not (results / "runs").is_dir():
        raise UserError(f"{directory}: has no results; python -m experiments NAME --workdir={directory} makes some")
    summaries = {name: {scale: summarise(name, scale, results) for scale in claims.SCALES} for name in claims.NAMES}
    used = [run for by_scale in summaries.values() for summary in by_scale.values() for run in summary.runs]
    if unused := sorted(set((results / "runs").glob("*/*/*.json")) - {run.path for run in used}):
        print(f"not used, of no claim as it is now, or too few: {len(unused)}, as {unused[0]}", file=sys.stderr)
    net = figures.png(figures.diagram(nets.NETS["two_gpu"]))
    blocks = [("title", "The paper's claims"), ("text", INTRODUCTION), ("text", RULES)]
    blocks += [("text", CAUTIONS), ("table", overview(summaries)), ("text", TRACES)]
    listings = {run.data.get("listing", "")[:10] for run in used} & ENCODED_AGAIN.keys()
    if again := ", ".join(f"`{listing}` {ENCODED_AGAIN[listing]}" for listing in sorted(listings)):
        text = f"These listings are of images encoded again; the originals may give slightly other errors: {again}."
        blocks.append(("text", text))
    blocks.append(("picture", "two_gpu", "The paper's net; at a gather, the numbers that a tower receives.", net))
    blocks += [block for name, by_scale in summaries.items() for block in section(name, by_scale, results)]
    (directory / PICTURES).mkdir(parents=True, exist_ok=True)
    for kind, *content in blocks:
        if kind == "picture":
            name, _, data = content
            (directory / PICTURES / f"{name}.png").write_bytes(data)
    for path, text in {"RESULTS.md": pages.to_markdown(blocks, PICTURES), "report.html": pages.to_html(blocks)}.items():
        with files.whole(directory / path) as file:
            file.write(text)
    return directory / "RESULTS.md", directory / "report.html"
