"""The claim that ReLUs train several times faster than tanh units: epochs to a training error of 25 % on CIFAR-10."""

from collections.abc import Iterator

import matplotlib.figure
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.analysis import figures
from configs import cifar10
from experiments import estimates, store
from experiments.claims.claim import Claim, Settings, Summary, Sweep

TARGET, SEVERAL, PAPER = 0.25, 2, 6
EPOCHS = {"relu": 12.0, "tanh": 48.0}
SEARCH_EPOCHS = {"relu": 12.0, "tanh": 30.0}  # on a laptop, for learning rates other than the best
LAPTOP_RATES = {"relu": (0.0005, 0.001, 0.002, 0.004), "tanh": (0.001, 0.002, 0.004, 0.008, 0.016)}
FULL_RATES = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
BEST = {"relu": 0.001, "tanh": 0.008}
NAMES = {"relu": "ReLU", "tanh": "tanh"}


def config(scale: str) -> ConfigDict:
    config = cifar10.get_config()
    config.model.net = "cifar10_figure1"
    config.schedule.epochs = ()
    config.log_every = 130  # a third of an epoch
    config.eval_every = 6.0
    return config


def members(scale: str) -> Iterator[Settings]:
    for seed in range({"full": 5, "laptop": 3}[scale]):
        for activation, best in BEST.items():
            rates = {"full": FULL_RATES, "laptop": LAPTOP_RATES[activation] if seed == 0 else (best,)}[scale]
            for rate in rates:
                epochs = (EPOCHS if scale == "full" or rate == best else SEARCH_EPOCHS)[activation]
                fields = {"model.activation": activation, "num_epochs": epochs, "schedule.learning_rate": rate}
                yield fields | {"seed": seed}


def epochs_to_target(run: store.Run) -> float:
    """The epoch at which the training error falls to TARGET, by linear interpolation between logs; inf if never."""
    epochs, errors = map(np.array, run.errors("train"))
    middles = epochs - np.diff(epochs, prepend=0) / 2  # a log has the mean over the steps since the previous log
    below = np.flatnonzero(errors <= TARGET)
    if not len(below):
        return np.inf
    i = below[0]
    return np.interp(TARGET, [errors[i], errors[i - 1]], [middles[i], middles[i - 1]]) if i else middles[0]


def error_in_epoch(run: store.Run, end: float) -> float:
    """The mean training error over the epoch that ends after `end` epochs."""
    epochs, errors = map(np.array, run.errors("train"))
    return errors[(end - 1 < epochs) & (epochs <= end)].mean()


def summary(runs: list[store.Run]) -> Summary:
    groups: dict[tuple[str, float], list[store.Run]] = {}
    best: dict[str, list[store.Run]] = {}
    compared: dict[str, float] = {}
    for run in runs:
        groups.setdefault((run.settings["model.activation"], run.settings["schedule.learning_rate"]), []).append(run)
    for activation in EPOCHS:
        first = [run for run in runs if run.settings["model.activation"] == activation and run.seed == 0]
        if not first:
            return Summary(estimates.NOT_RUN)
        compared[activation] = end = min(list(run.errors("train"))[0][-1] for run in first)
        lowest = min(first, key=lambda run: error_in_epoch(run, end))
        best[activation] = groups[activation, lowest.settings["schedule.learning_rate"]]
    table = [["", "learning rate", "seeds", "epochs to 25 %, each seed", "training error, %, over an epoch"]]
    for (activation, rate), group in groups.items():
        length, end = group[0].settings["num_epochs"], compared[activation]
        epochs = (f"{x:.1f}" if np.isfinite(x) else f"not in {length:g}" for x in map(epochs_to_target, group))
        error = estimates.mean_percent([error_in_epoch(run, end) for run in group])
        cells = f"{rate:g}", str(len(group)), ", ".join(epochs), f"{error} (to epoch {end:.0f})"
        table.append([NAMES[activation], *cells])
    relu, tanh = (np.array([epochs_to_target(run) for run in best[activation]]) for activation in ("relu", "tanh"))
    conclude = ratio if np.isfinite([*relu, *tanh]).all() else ratio_at_least
    pictures = {"curves": ("Training error by epoch, each at its best learning rate.", draw(best))}
    return Summary(*conclude(relu, tanh), table, runs, pictures)


def ratio(relu: np.ndarray, tanh: np.ndarray) -> tuple[str, str, str]:
    """Verdict, result and statement from the epochs to the target, which every net reaches."""
    estimate, low, high = np.exp(estimates.difference(np.log(tanh), np.log(relu)))
    result = f"{estimate:.1f} times" + (f" ({low:.1f} to {high:.1f})" if np.isfinite(low) else "")
    needed = [f"{x.mean():.1f} epochs (seeds: {x.min():.1f} to {x.max():.1f})" for x in (relu, tanh)]
    statement = f"At the best rate of each, ReLUs need {needed[0]} and tanh units {needed[1]}, {result} as many."
    if np.isfinite(low):
        where = "inside" if low <= PAPER <= high else "outside"
        statement += f" The interval is over seeds, at rates chosen with one seed; the paper's six is {where} it."
    verdict = estimates.CONTRADICTED if high < SEVERAL else estimates.NOT_DECIDED
    return estimates.SUPPORTED if low > SEVERAL else verdict, result, statement


def ratio_at_least(relu: np.ndarray, tanh: np.ndarray) -> tuple[str, str, str]:
    """The same where some nets do not reach the target."""
    counts = [f"{np.isfinite(epochs).sum()} of {len(epochs)}" for epochs in (relu, tanh)]
    reached = f"{counts[0]} ReLU nets and {counts[1]} tanh nets"
    statement = f"{reached} reach the target, in {EPOCHS['relu']:g} and {EPOCHS['tanh']:g} epochs at their best rates"
    at_least = np.minimum(tanh, EPOCHS["tanh"]).min() / relu.max()  # 0 if a ReLU net never does
    if at_least <= SEVERAL:
        return estimates.NOT_DECIDED, reached, f"{statement}."
    result = f"more than {at_least:.1f} times"
    return estimates.SUPPORTED, result, f"{statement}; every tanh net needs {result} the epochs of each ReLU net."


def draw(best: dict[str, list[store.Run]]) -> bytes:
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for activation, color, linestyle in (("relu", "black", "-"), ("tanh", "tab:blue", "--")):
        for i, run in enumerate(best[activation]):
            epochs, errors = run.errors("train")
            label = f"{NAMES[activation]}, rate {run.settings['schedule.learning_rate']:g}" if not i else None
            percent, alpha = [100 * error for error in errors], 0.4 if i else 1
            axes.plot(epochs, percent, color=color, linestyle=linestyle, label=label, alpha=alpha)
    axes.axhline(100 * TARGET, color="grey", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="training error, %", ylim=(0, 75), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figures.png(figure)


FIG1_RELU_VS_TANH = Claim(
    name="fig1_relu_vs_tanh",
    title="ReLUs train several times faster than tanh units",
    section="section 3.1, Figure 1",
    figure="six times faster",
    paper="a convolutional net of four layers reaches a training error of 25 % on CIFAR-10, with ReLUs or tanh units, "
    "each at its own best learning rate and without regularisation.",
    log="no such net.",
    notes=(
        "Training errors are means over a third of an epoch of training, with linear interpolation between the "
        "middles. The best rate is the one with the lowest training error for seed 0, in the last epoch that all "
        "rates have. On a laptop a few rates are run with that seed, and the best with two more; at full scale there "
        "are six rates with five seeds each. The claim is supported if the ratio of the epochs is above 2, and "
        "contradicted if it is below, by the 95 % interval of Welch's t-test on their logarithms. If some tanh nets "
        "never reach 25 %, it is supported if their number of epochs is more than twice that of every ReLU net.",
    ),
    data={"full": "cifar10", "laptop": "cifar10"},
    cost={
        "full": "12 or 48 epochs, each 45 seconds on a CPU core",
        "laptop": "12 to 48 epochs, together four hours on a CPU core",
    },
    sweep=Sweep(members, config),
    summary=summary,
)
