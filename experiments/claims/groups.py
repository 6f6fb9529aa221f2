"""What the claims share: groups of runs that differ only in their seeds, their errors, and measuring their nets."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import matplotlib.figure
import numpy as np

from alexnet_jax.analysis import ensemble, figures, inference
from experiments import estimates, store, sweep_members
from experiments.claims.claim import Settings, Summary

SEEDS = 3


def over_seeds(*nets: Settings, seeds: int = SEEDS) -> Iterator[Settings]:
    """The members of a sweep: every net with each seed, all nets with the first seed first."""
    for seed in range(seeds):
        for net in nets:
            yield with_seed(net, seed)


def with_seed(net: Settings, seed: int) -> Settings:
    """A net's settings with a seed, which also replaces SEED in the directory that the net starts from."""
    start = {"init_from": str(net["init_from"]).replace("SEED", str(seed))} if "init_from" in net else {}
    return {**net, **start, "seed": seed}


def runs_of(net: Settings, runs: Iterable[store.Run]) -> list[store.Run]:
    """Those runs that have the settings of a net and any seed."""
    return [run for run in runs if run.settings == with_seed(net, run.seed)]


def compare(
    runs: list[store.Run], *, nets: dict[str, Settings], first: str | None = None, decisive: Sequence[str] = ()
) -> Summary:
    """Summary of a claim that one net has a lower top-1 error by ten views than others.

    Args:
      runs: the finished runs.
      nets: {label: settings}.
      first: the label of the net with the lower error; by default the first one.
      decisive: labels of the other nets that the claim is about, by default all; it must hold for each of them.
    """
    first = first or next(iter(nets))
    decisive = decisive or [label for label in nets if label != first]
    groups = {label: runs_of(nets[label], runs) for label in dict.fromkeys([first, *decisive, *nets])}
    groups = {label: group for label, group in groups.items() if group}
    if not {first, *decisive} <= groups.keys():
        return Summary(estimates.NOT_RUN)
    others = [label for label in groups if label != first]
    differences = {label: estimates.difference(top1(groups[label]), top1(groups[first])) for label in others}
    texts = {label: estimates.interval(*differences[label]) for label in others}
    table = error_table(groups)
    for row, text in zip(table, ["ten views, top-1, minus the first net's", "", *texts.values()], strict=True):
        row.append(text)
    means = ", ".join(f"{label} {estimates.signed(differences[label][0])}" for label in decisive)
    return Summary(
        estimates.verdict(differences[label] for label in decisive),
        f"{texts[decisive[0]] if len(decisive) == 1 else means} points",
        f'Top-1 error by ten views minus that of the first net, "{first}", in percentage points: '
        + "; ".join(f'"{label}" {texts[label]}' for label in decisive)
        + ".",
        table,
        runs,
        {"curves": curves(groups)},
    )


def top1(runs: Sequence[store.Run], view: str = "ten_crop") -> np.ndarray:
    """Top-1 test errors by the ten views or by the `center` view, fractions of shape [number of runs]."""
    return np.array([run.result[view]["top1_error"] for run in runs])


def per_net(measure: Callable[[ensemble.Ensemble, sweep_members.Member], dict]) -> Callable:
    """Makes a claim's `measure`, which returns {name of a run: measurement}, from a function for one trained net."""

    def measure_all(finished: list[sweep_members.Member]) -> dict:
        return {member.workdir.name: measure(ensemble.load([member.workdir]), member) for member in finished}

    return measure_all


def evaluate(trained: ensemble.Ensemble, source, views: int = 1) -> dict:
    """The errors of nets together on all images of a source."""
    return inference.errors(inference.classify_source(trained, source, views))


def error_table(groups: dict[str, list[store.Run]]) -> list[list[str]]:
    """Mean errors and their standard deviations over the seeds, a row for each group of runs."""
    table = [["", "seeds", "centre, top-1", "top-5", "ten views, top-1", "top-5"]]
    for label, runs in groups.items():
        cells = [
            estimates.mean_percent([run.result[view][error] for run in runs]) for view, error in sweep_members.ERRORS
        ]
        table.append([label, str(len(runs)), *cells])
    return table


def curves(groups: dict[str, list[store.Run]]) -> tuple[str, bytes]:
    """Caption and PNG: top-1 error by epoch of training and validation images, a line for each group of runs."""
    figure = matplotlib.figure.Figure(figsize=(9.5, 4), layout="constrained")
    titles = {"eval": "validation images, centre view", "train": "training images (crops, dropout)"}
    for axes, (split, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        for i, (label, runs) in enumerate(groups.items()):
            epochs = list(runs[0].errors(split))[0]
            errors = 100 * np.array([list(run.errors(split))[1] for run in runs])
            axes.plot(epochs, errors.mean(0), color=f"C{i}", label=label)
            axes.fill_between(epochs, errors.min(0), errors.max(0), color=f"C{i}", alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="top-1 error, %")
    figure.axes[0].legend()
    return "Top-1 error by epoch: the mean over the seeds, with their range shaded.", figures.png(figure)
