"""ReLUs train several times faster than tanh units (section 3.1, Figure 1).

Paper: six times faster; a four-layer convolutional net on CIFAR-10 to a training error of 25 %, each at its own best
learning rate and with nothing regularised.
Log of 2012: no net like that.

  python -m experiments fig1_relu_vs_tanh --scale=full --root=cifar10_32 --workdir=DIR
  python -m experiments fig1_relu_vs_tanh --scale=laptop --root=cifar10_32 --workdir=DIR

Cost: the paper's scale is a laptop's here, so both do the same: three learning rates each with one seed, and two more
seeds of the best. Ten runs, 40 seconds an epoch on a CPU core: about an hour on two.
"""

import matplotlib.figure
import numpy as np

from alexnet_jax import visualize
from configs import cifar10
from experiments import claims

DATA = {"full": "cifar10", "laptop": "cifar10"}
TARGET = 0.25
# Epochs to train for, the learning rates tried, and the best of them.
TRIED = {"relu": (12.0, (0.001, 0.002, 0.004), 0.002), "tanh": (30.0, (0.002, 0.004, 0.008), 0.004)}
NAMES = {"relu": "ReLU", "tanh": "tanh"}


def get_config(scale="laptop"):
    config = cifar10.get_config()
    config.model.net = "cifar10_figure1"
    config.augment.flip = False
    config.schedule.epochs = ()
    config.log_every = 130  # a third of an epoch
    config.eval_every = 6.0
    return config


def sweep(scale="laptop"):
    for seed in range(3):
        for activation, (epochs, rates, best) in TRIED.items():
            for rate in rates if seed == 0 else (best,):
                setting = {"model.activation": activation, "num_epochs": epochs, "schedule.learning_rate": rate}
                yield setting | {"seed": seed}


def epochs_to_target(run):
    """After how many epochs the training error is down to TARGET, between the means of two logs; NaN if never."""
    epochs, errors = map(np.array, run.errors("train"))
    middles = epochs - np.diff(epochs, prepend=0) / 2  # a log's mean is of the steps since the one before
    below = np.flatnonzero(errors <= TARGET)
    if not len(below) or not below[0]:
        return np.nan
    i = below[0]
    return np.interp(TARGET, [errors[i], errors[i - 1]], [middles[i], middles[i - 1]])


def summary(found):
    groups = {}
    for run in found:
        groups.setdefault((run.settings["model.activation"], run.settings["schedule.learning_rate"]), []).append(run)
    table = [["", "learning rate", "seeds", "epochs to 25 %, each seed", "training error at the end, %"]]
    for (activation, rate), group in groups.items():
        reached = [epochs_to_target(run) for run in group]
        said = ", ".join(f"{x:.1f}" if np.isfinite(x) else f"not in {TRIED[activation][0]:g}" for x in reached)
        at_end = [list(run.errors("train"))[1][-1] for run in group]
        table.append([NAMES[activation], f"{rate:g}", str(len(group)), said, claims.mean_and_deviation(at_end)])
    best = {activation: groups.get((activation, rate), []) for activation, (_, _, rate) in TRIED.items()}
    if not all(best.values()):
        return claims.Summary(claims.NOT_RUN)
    relu, tanh = (np.array([epochs_to_target(run) for run in best[activation]]) for activation in TRIED)
    # A net that does not get there counts with the epochs that it had: the ratio is at least this.
    at_least = "at least " * bool(np.isnan(tanh).any())
    tanh = np.where(np.isnan(tanh), TRIED["tanh"][0], tanh)
    ratio = f"{at_least}{tanh.mean() / relu.mean():.1f} times"
    needed = [f"{x.mean():.1f} epochs ({x.min():.1f} to {x.max():.1f})" for x in (relu, tanh)]
    statement = (
        f"At the best rate of each, ReLUs take {needed[0]} to a training error of 25 %, tanh units {at_least}"
        f"{needed[1]}: {ratio} as many."
    )
    verdict = claims.SUPPORTED if tanh.min() > relu.max() else claims.OPEN
    pictures = {"fig1": ("Training error by epoch, each at its best learning rate.", draw(best))}
    return claims.Summary(verdict, ratio, statement, table, found, pictures)


def draw(best):
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for activation, group in best.items():
        for run in group:
            epochs, errors = run.errors("train")
            first = run is group[0]
            axes.plot(
                epochs,
                [100 * error for error in errors],
                color="black" if activation == "relu" else "tab:blue",
                linestyle="-" if activation == "relu" else "--",
                alpha=1 if first else 0.4,
                label=NAMES[activation] if first else None,
            )
    axes.axhline(100 * TARGET, color="grey", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="training error, %", ylim=(0, 75), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return visualize.png(figure)
