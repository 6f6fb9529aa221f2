"""What the files of the claims share: two scales, and what finished trainings say.

A claim's file says in its docstring what the paper claims, and has

  DATA               the name of the data set at each scale
  get_config(scale)  and sweep(scale), as a config with members has them
  summary(found)     a `Summary` of the finished ones, `runs.Run`s

One that looks into trained nets has measure(members) as well; what that returns goes into a JSON file, and from there
into summary(found, measured).
"""

import dataclasses
import importlib
import json

import matplotlib.figure
import numpy as np
import scipy.stats

from alexnet_jax import files, visualize
from configs import imagenette_narrow, two_gpu
from experiments import runs

SCALES = ("full", "laptop")
# In the order of the paper.
NAMES = (
    "fig1_relu_vs_tanh",
    "two_gpus",
    "lrn",
    "lrn_cifar10",
    "overlapping_pooling",
    "colour_noise",
    "ten_views",
    "dropout",
    "table1",
    "table2",
    "pretraining",
    "depth",
    "fig3_kernels",
    "fig4_retrieval",
)
PHOTOGRAPHS = {"full": "imagenet", "laptop": "imagenette"}
SUPPORTED, CONTRADICTED, OPEN, NOT_RUN = "supported", "contradicted", "not decided", "not run"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the finished trainings say of a claim.

    Attributes:
      verdict: SUPPORTED, CONTRADICTED, OPEN or NOT_RUN.
      ours: the result in a few words.
      statement: the same in a sentence or two.
      table: rows of text, the first one the head.
      runs: the trainings that it is made of.
      pictures: {name: (caption, the bytes of a PNG)}.
    """

    verdict: str
    ours: str = ""
    statement: str = "Nobody has run this yet."
    table: list = dataclasses.field(default_factory=list)
    runs: list = dataclasses.field(default_factory=list)
    pictures: dict = dataclasses.field(default_factory=dict)


def load(name):
    """A claim's module."""
    return importlib.import_module(f"experiments.{name}")


def paper_config(scale):
    """The paper's net and recipe on ImageNet, or at a quarter of the width on Imagenette."""
    return {"full": two_gpu, "laptop": imagenette_narrow}[scale].get_config()


def over_seeds(scale, *settings):
    """The members of a sweep: dicts of settings, each with one seed at full scale and with three on a laptop."""
    for seed in range({"full": 1, "laptop": 3}[scale]):
        for setting in settings:
            yield setting | {"seed": seed}


def finished(claim, scale):
    """Those members of a claim's sweep that are finished, as `runs.Run`s in the order of the sweep."""
    kept = {json.dumps(run.settings): run for run in runs.load(scale, claim.DATA[scale])}
    members = [json.dumps(dict(member)) for member in claim.sweep(scale)]
    return [kept[member] for member in members if member in kept]


def with_settings(some_runs, settings):
    """The runs with these settings beside their seeds."""
    return [run for run in some_runs if {k: v for k, v in run.settings.items() if k != "seed"} == settings]


def measured_path(name, scale):
    """Where what a claim's `measure` found is kept."""
    return runs.RESULTS / "measured" / f"{name}_{scale}.json"


def keep_measured(name, scale, found):
    """Writes what a claim's `measure` found, a line for each of its keys."""
    path = measured_path(name, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    with files.whole(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def measured(name, scale):
    """What a claim's `measure` found; {} if it has not."""
    path = measured_path(name, scale)
    return files.read_json(path) if path.exists() else {}


def compare(found, nets, claimed=None):
    """Summary of a claim that nets have a higher top-1 error by ten views than another.

    Args:
      found: runs.
      nets: labels and settings, a dict; the first is the other.
      claimed: labels of the nets that the claim is of, if not of all but the first. Of several, their mean.
    """
    groups = {label: with_settings(found, settings) for label, settings in nets.items()}
    groups = {label: group for label, group in groups.items() if group}
    first, *others = nets
    claimed = claimed or others
    if not {first, *claimed} <= set(groups):
        return Summary(NOT_RUN)
    table = error_table(groups)
    table[0].append("top-1, more than the first")
    for row in table[1:]:
        more = difference(top1(groups[row[0]]), top1(groups[first]))
        row.append(interval(*more) if row[0] != first else "")
    by_seed = {}
    for run in (run for label in claimed for run in groups[label]):
        by_seed.setdefault(run.seed, []).append(run.result["ten_crop"]["top1_error"])
    means = [np.mean(errors) for errors in by_seed.values() if len(errors) == len(claimed)]
    estimate, low, high = difference(np.array(means), top1(groups[first]))
    whose = claimed[0] if len(claimed) == 1 else f"the mean of {len(claimed)} nets"
    return Summary(
        verdict(low, high),
        f"{interval(estimate, low, high)} points",
        f"Top-1 error by ten views, {whose} less {first}: {interval(estimate, low, high)} points.",
        table,
        found,
    )


def error_table(groups):
    """Mean errors and their deviations over the seeds of some groups of runs, by label."""
    table = [["", "seeds", "centre, top-1", "top-5", "ten views, top-1", "top-5"]]
    for label, group in groups.items():
        cells = [mean_and_deviation([run.result[way][error] for run in group]) for way, error in ERRORS]
        table.append([label, str(len(group)), *cells])
    return table


ERRORS = [(way, name) for way in ("center", "ten_crop") for name in ("top1_error", "top5_error")]


def top1(group):
    """Top-1 errors by ten views."""
    return np.array([run.result["ten_crop"]["top1_error"] for run in group])


def difference(a, b):
    """mean(a) − mean(b) and its 95 % interval by Welch's t-test; without limits (NaN) where there is one value."""
    estimate = a.mean() - b.mean()
    if min(len(a), len(b)) < 2:
        return estimate, np.nan, np.nan
    return (estimate, *scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95))


def paired_difference(a, b):
    """The same of values that belong together, as of one net looked at in two ways."""
    if len(a) < 2:
        return np.mean(a - b), np.nan, np.nan
    return (np.mean(a - b), *scipy.stats.ttest_rel(a, b).confidence_interval(0.95))


def verdict(low, high):
    """Of a claim that something is above 0, from an interval."""
    return SUPPORTED if low > 0 else CONTRADICTED if high < 0 else OPEN


def percent(fraction):
    return f"{100 * fraction:.1f}"


def interval(estimate, low, high):
    """In points of percent, as +1.4 (+0.2 to +2.6)."""
    return signed(estimate) + (f" ({signed(low)} to {signed(high)})" if np.isfinite(low) else " (one seed)")


def signed(fraction):
    return f"{100 * fraction:+.1f}".replace("-", "−")


def mean_and_deviation(fractions):
    """In percent, as 40.1 ± 0.8."""
    deviation = f" ± {percent(np.std(fractions, ddof=1))}" if len(fractions) > 1 else ""
    return percent(np.mean(fractions)) + deviation


def draw_curves(groups):
    """Validation error by epoch of some groups of runs, by label; the bytes of a PNG."""
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for i, (label, group) in enumerate(groups.items()):
        for run in group:
            epochs, errors = run.errors("eval")
            name = label if run is group[0] else None
            axes.plot(epochs, [100 * error for error in errors], color=f"C{i}", marker=".", alpha=0.7, label=name)
    axes.set(xlabel="epoch", ylabel="validation error, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return visualize.png(figure)
