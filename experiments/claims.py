"""What the files of the claims share: two scales, and what finished trainings say.

A claim's file says in its docstring what the paper claims, and has

  DATA               the name of the data set at each scale
  get_config(scale)  and sweep(scale), as a config with members has them
  summary(found)     a `Summary` of the finished ones, `runs.Run`s

One that looks into trained nets has measure(members) as well; what that returns goes into a JSON file, and from there
into summary(found, measured).
"""

import dataclasses
import hashlib
import importlib
import json

import matplotlib.figure
import numpy as np
import scipy.stats

from alexnet_jax.analysis import figures
from alexnet_jax.runtime import files
from alexnet_jax.training import fidelity, settings
from configs import imagenette_narrow, two_gpu
from experiments import runs, sweep

SCALES = ("full", "laptop")
SEEDS = 3
# In the order of the paper.
NAMES = (
    "fig1_relu_vs_tanh",
    "two_gpus",
    "lrn",
    "lrn_cifar10",
    "overlapping_pooling",
    "ten_views",
    "colour_noise",
    "dropout",
    "table1",
    "table2",
    "pretraining",
    "fig3_kernels",
    "fig4_retrieval",
    "depth",
)
MAY_DIFFER = {"dataset.root", "init_from"}  # directories
CLASSES = {"imagenet": 1000, "imagenet2010": 1000, "imagenette": 10, "cifar10": 10, "textures": 20}
TEST_IMAGES = {"imagenet": 50_000, "imagenet2010": 150_000, "imagenette": 3925, "cifar10": 10_000, "textures": 400}
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
      pictures: {what: (caption, the bytes of a PNG)}.
    """

    verdict: str
    ours: str = ""
    statement: str = "Too few are finished to say more."
    table: list = dataclasses.field(default_factory=list)
    runs: list = dataclasses.field(default_factory=list)
    pictures: dict = dataclasses.field(default_factory=dict)


def load(name):
    """A claim's module."""
    return importlib.import_module(f"experiments.{name}")


def paper_config(scale="laptop"):
    """The paper's net and recipe on ImageNet, or at a quarter of the width on Imagenette."""
    return {"full": two_gpu, "laptop": imagenette_narrow}[scale].get_config()


def over_seeds(*all_fields):
    """The members of a sweep: dicts of settings, each with three seeds, all with the first one first."""
    for seed in range(SEEDS):
        for fields in all_fields:
            yield of_seed(fields, seed)


def of_seed(fields, seed):
    """Settings with a seed, which also takes the place of SEED in a directory."""
    fields = {
        name: value.replace("SEED", str(seed)) if name == "init_from" else value for name, value in fields.items()
    }
    return fields | {"seed": seed}


def finished(claim, scale, results):
    """Those members of a claim's sweep that are finished among some results, as `runs.Run`s in the order of the sweep.

    One that was kept of another config, an earlier version of its net or other images, or that started from such a one,
    does not count.
    """
    data = claim.DATA[scale]
    kept = {json.dumps(run.settings): run for run in runs.load(results, scale, data)}
    found = []
    for member in map(dict, claim.sweep(scale)):
        run = kept.get(json.dumps(member))
        if (
            run
            and run.result["num_examples"] == TEST_IMAGES[data]
            and _is_of(run.config, run.net, claim.get_config(scale), member)
            and (
                not run.start or _is_of(run.start["config"], run.start.get("net", {}), *_first(claim, scale, run.seed))
            )
        ):
            found.append(run)
    return found


def _first(claim, scale, seed):
    """The config, and the settings in it, of the net that one with this seed starts from."""
    (member,) = [member for member in claim.sweep(f"more_{scale}") if member["seed"] == seed]
    return claim.get_config(f"more_{scale}"), member


def _is_of(kept, kept_net, config, member):
    """Whether a kept config and record are of a config with the settings of a member, and of the net it has today."""
    config.update_from_flattened_dict(member)
    config = fidelity.resolve(config)
    now = dict(settings.flatten(json.loads(config.to_json())))
    same = all(now.get(name, value) == value for name, value in settings.flatten(kept) if name not in MAY_DIFFER)
    return same and not settings.corrections(kept_net, config)


def with_settings(some_runs, fields):
    """The runs with these settings beside their seeds."""
    return [run for run in some_runs if run.settings == of_seed(fields, run.seed)]


def measured_path(name, scale, results):
    """Where what a claim's `measure` found is kept among some results."""
    return results / "measured" / f"{name}_{scale}.json"


def keep_measured(found, some_runs, path):
    """Writes what a claim's `measure` found in some runs, a line for each of its keys, and by which commit."""
    found = found | {"commit": sweep.commit(), "runs": {run.path.stem: _digest(run.path) for run in some_runs}}
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(found.items())]
    with files.whole(path) as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def measured(name, scale, results):
    """What a claim's `measure` found; {} if it has not, or in trainings that were done again since."""
    path = measured_path(name, scale, results)
    found = files.read_json(path) if path.exists() else {}
    directory = runs.directory(results, scale, load(name).DATA[scale])
    same = all(_digest(directory / f"{run}.json") == digest for run, digest in found.get("runs", {}).items())
    return found if same else {}


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else None


def compare(found, nets, claimed=None):
    """Summary of a claim that a net has a lower top-1 error by ten views than others.

    Args:
      found: runs.
      nets: {label: settings}, that net first, as {"with norms": {}, "without": {"model.net": "no_norm"}}.
      claimed: labels of the others that the claim is about, if not about all. It must hold for each of them.
    """
    groups = {label: with_settings(found, fields) for label, fields in nets.items()}
    groups = {label: group for label, group in groups.items() if group}
    first, *others = nets
    claimed = claimed or others
    if not {first, *claimed} <= set(groups):
        return Summary(NOT_RUN)
    more = {label: difference(top1(group), top1(groups[first])) for label, group in groups.items() if label != first}
    table = error_table(groups)
    table[0].append("ten views, top-1, minus the first net's")
    for row in table[1:]:
        row.append(interval(*more[row[0]]) if row[0] in more else "")
    said = "; ".join(f'"{label}" {interval(*more[label])}' for label in claimed)
    each = ", ".join(f"{label} {signed(more[label][0])}" for label in claimed)
    return Summary(
        verdict([more[label] for label in claimed]),
        f"{interval(*more[claimed[0]]) if len(claimed) == 1 else each} points",
        f'Top-1 error by ten views minus that of the first net, "{first}", in points: {said}.',
        table,
        found,
        {"curves": curves(groups)},
    )


def error_table(groups):
    """Mean errors and their deviations over the seeds of some groups of runs, by label."""
    table = [["", "seeds", "centre, top-1", "top-5", "ten views, top-1", "top-5"]]
    for label, group in groups.items():
        cells = [mean_and_deviation([run.result[way][error] for run in group]) for way, error in sweep.ERRORS]
        table.append([label, str(len(group)), *cells])
    return table


def top1(group):
    """Top-1 errors by ten views."""
    return np.array([run.result["ten_crop"]["top1_error"] for run in group])


def difference(a, b):
    """mean(a) − mean(b) of errors over seeds, fractions of shapes [A] and [B], and its 95 % interval by Welch's t-test.

    Three fractions; the limits are NaN where the values allow none.
    """
    estimate = a.mean() - b.mean()
    if min(len(a), len(b)) < 2 or min(np.ptp(a), np.ptp(b)) < 1e-9:
        return estimate, np.nan, np.nan
    return (estimate, *scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95))


def paired_difference(a, b):
    """The same of values that belong together, both [N], as of each net looked at in two ways, by Student's t-test."""
    if len(a) < 2 or np.ptp(a - b) < 1e-9:
        return np.mean(a - b), np.nan, np.nan
    return (np.mean(a - b), *scipy.stats.ttest_rel(a, b).confidence_interval(0.95))


def verdict(differences):
    """Of a claim that each of some differences is above 0, from their intervals."""
    if all(low > 0 for _, low, _ in differences):
        return SUPPORTED
    return CONTRADICTED if any(high < 0 for _, _, high in differences) else OPEN


def percent(fraction):
    return f"{100 * fraction:.1f}"


def interval(estimate, low, high):
    """In points of percent, as +1.4 (+0.2 to +2.6)."""
    return signed(estimate) + (f" ({signed(low)} to {signed(high)})" if np.isfinite(low) else " (no interval)")


def signed(fraction):
    return f"{100 * fraction:+.1f}".replace("-", "−")


def mean_and_deviation(fractions):
    """In percent, as 40.1 ± 0.8."""
    deviation = f" ± {percent(np.std(fractions, ddof=1))}" if len(fractions) > 1 else ""
    return percent(np.mean(fractions)) + deviation


def curves(groups):
    """A picture of some groups of runs, by label: top-1 error by epoch, in training and of the validation images."""
    figure = matplotlib.figure.Figure(figsize=(9.5, 4), layout="constrained")
    titles = {"eval": "validation images, centre view", "train": "training images (crops, dropout)"}
    for axes, (split, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for i, (label, group) in enumerate(groups.items()):
            epochs = list(group[0].errors(split))[0]
            errors = 100 * np.array([list(run.errors(split))[1] for run in group])
            axes.plot(epochs, errors.mean(0), color=f"C{i}", label=label)
            axes.fill_between(epochs, errors.min(0), errors.max(0), color=f"C{i}", alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="top-1 error, %")
    figure.axes[0].legend()
    return "Top-1 error by epoch: means over the seeds, from the lowest to the highest shaded.", figures.png(figure)
