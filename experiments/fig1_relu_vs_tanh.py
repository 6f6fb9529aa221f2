"""ReLUs train several times faster than tanh units (section 3.1, Figure 1).

Paper: six times faster; a four-layer convolutional net on CIFAR-10 to a training error of 25 %, each at its own best
learning rate and with nothing regularised.
Log of 2012: no net like that.

  python -m experiments fig1_relu_vs_tanh --scale=full --root=cifar10_32 --workdir=DIR
  python -m experiments fig1_relu_vs_tanh --scale=laptop --root=cifar10_32 --workdir=DIR

Training errors are means over a third of an epoch, as it is trained, and straight lines between their middles. The best
rate is that of the lowest training error with seed 0, over the last epoch that all rates have. A laptop tries a few
rates with that seed, and the best with two more; at full scale there are six rates, five seeds each. The claim is
supported if the ratio of the epochs, by the 95 % interval of Welch's t-test of their logarithms, is above 2,
contradicted if it is below. Where tanh nets do not get there at all in their epochs, it is supported if these are more
than twice those of each ReLU net.

Cost: 45 seconds an epoch on a CPU core; on a laptop 13 runs of 12 to 48 epochs, four hours of a core; 60 runs at full
scale.
"""

import matplotlib.figure
import numpy as np

from alexnet_jax.analysis import figures
from configs import cifar10
from experiments import claims

DATA = {"full": "cifar10", "laptop": "cifar10"}
TARGET, SEVERAL, PAPER = 0.25, 2, 6
EPOCHS = {"relu": 12.0, "tanh": 48.0}
SEARCH_EPOCHS = {"relu": 12.0, "tanh": 30.0}  # of a laptop's, at rates that are not the best
TRIED = {"relu": (0.0005, 0.001, 0.002, 0.004), "tanh": (0.001, 0.002, 0.004, 0.008, 0.016)}  # learning rates
BEST = {"relu": 0.001, "tanh": 0.008}
NAMES = {"relu": "ReLU", "tanh": "tanh"}


def get_config(scale="laptop"):
    config = cifar10.get_config()
    config.model.net = "cifar10_figure1"
    config.schedule.epochs = ()
    config.log_every = 130  # a third of an epoch
    config.eval_every = 6.0
    return config


def sweep(scale="laptop"):
    for seed in range({"full": 5, "laptop": 3}[scale]):
        for activation, best in BEST.items():
            if scale == "full":
                rates = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
            else:
                rates = TRIED[activation] if seed == 0 else (best,)
            for rate in rates:
                epochs = (EPOCHS if scale == "full" or rate == best else SEARCH_EPOCHS)[activation]
                fields = {"model.activation": activation, "num_epochs": epochs, "schedule.learning_rate": rate}
                yield fields | {"seed": seed}


def epochs_to_target(run):
    """After how many epochs the training error is down to TARGET, between the means of two logs; inf if never."""
    epochs, errors = map(np.array, run.errors("train"))
    middles = epochs - np.diff(epochs, prepend=0) / 2  # a log's mean is of the steps since the one before
    below = np.flatnonzero(errors <= TARGET)
    if not len(below):
        return np.inf
    if not below[0]:
        return middles[0]
    i = below[0]
    return np.interp(TARGET, [errors[i], errors[i - 1]], [middles[i], middles[i - 1]])


def error_in_epoch(run, end):
    """The training error over the epoch before `end` epochs."""
    epochs, errors = map(np.array, run.errors("train"))
    return errors[(end - 1 < epochs) & (epochs <= end)].mean()


def summary(found):
    groups, best, compared = {}, {}, {}
    for run in found:
        groups.setdefault((run.settings["model.activation"], run.settings["schedule.learning_rate"]), []).append(run)
    for activation in EPOCHS:
        first = [run for run in found if run.settings["model.activation"] == activation and run.seed == 0]
        if not first:
            return claims.Summary(claims.NOT_RUN)
        compared[activation] = end = min(list(run.errors("train"))[0][-1] for run in first)
        lowest = min(first, key=lambda run: error_in_epoch(run, end))
        best[activation] = groups[activation, lowest.settings["schedule.learning_rate"]]
    table = [["", "learning rate", "seeds", "epochs to 25 %, each seed", "training error, %, over an epoch"]]
    for (activation, rate), group in groups.items():
        reached = map(epochs_to_target, group)
        length = group[0].settings["num_epochs"]
        said = ", ".join(f"{x:.1f}" if np.isfinite(x) else f"not in {length:g}" for x in reached)
        error = claims.mean_and_deviation([error_in_epoch(run, compared[activation]) for run in group])
        error += f" (to epoch {compared[activation]:.0f})"
        table.append([NAMES[activation], f"{rate:g}", str(len(group)), said, error])
    pictures = {"curves": ("Training error by epoch, each at its best learning rate.", draw(best))}
    relu, tanh = (np.array([epochs_to_target(run) for run in best[activation]]) for activation in ("relu", "tanh"))
    if not np.isfinite([*relu, *tanh]).all():
        got = (
            f"{np.isfinite(relu).sum()} of {len(relu)} ReLU nets and {np.isfinite(tanh).sum()} of {len(tanh)} tanh nets"
        )
        at_least = np.minimum(tanh, EPOCHS["tanh"]).min() / relu.max()  # 0 if a ReLU net never does
        verdict = claims.SUPPORTED if at_least > SEVERAL else claims.OPEN
        ours = f"more than {at_least:.1f} times" if at_least > SEVERAL else got
        statement = f"{got} get there, in {EPOCHS['relu']:g} and {EPOCHS['tanh']:g} epochs at the best rate of each"
        statement += f"; the others need {ours} as many." if at_least > SEVERAL else "."
        return claims.Summary(verdict, ours, statement, table, found, pictures)
    estimate, low, high = np.exp(claims.difference(np.log(tanh), np.log(relu)))
    ours = f"{estimate:.1f} times" + (f" ({low:.1f} to {high:.1f})" if np.isfinite(low) else "")
    needed = [f"{x.mean():.1f} epochs (seeds: {x.min():.1f} to {x.max():.1f})" for x in (relu, tanh)]
    statement = f"At the best rate of each, ReLUs need {needed[0]} and tanh units {needed[1]}: {ours} as many."
    if np.isfinite(low):
        where = "in" if low <= PAPER <= high else "outside"
        statement += f" The interval is over seeds, at rates chosen by one of them; the paper's six lies {where} it."
    verdict = claims.SUPPORTED if low > SEVERAL else claims.CONTRADICTED if high < SEVERAL else claims.OPEN
    return claims.Summary(verdict, ours, statement, table, found, pictures)


def draw(best):
    figure = matplotlib.figure.Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for activation, style in {"relu": {"color": "black"}, "tanh": {"color": "tab:blue", "linestyle": "--"}}.items():
        for i, run in enumerate(best[activation]):
            epochs, errors = run.errors("train")
            label = f"{NAMES[activation]}, rate {run.settings['schedule.learning_rate']:g}" if not i else None
            axes.plot(epochs, [100 * error for error in errors], label=label, alpha=0.4 if i else 1, **style)
    axes.axhline(100 * TARGET, color="grey", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="training error, %", ylim=(0, 75), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return figures.png(figure)
