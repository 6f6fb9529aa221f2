r"""Which differences between the paper and the 2012 code decide whether the net trains, and how fast?

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python experiments/paper_or_code.py --root=imagenette256 --workdir=/tmp/paper_or_code

Trains the two-tower net as in the paper, as in the code, and as in each with one field of the other
(alexnet_jax/training/fidelity.py), for the same number of steps at a constant learning rate; then both with
standardised pixels. If the command is run again, it continues. Writes experiments/results/fidelity.json and
fidelity.png.

Cost: 40 runs of two minutes on two CPU cores, at a quarter of the width. At full size, two runs of half an hour:

  python experiments/paper_or_code.py --root=imagenette256 --workdir=/tmp/paper_or_code_full --width=1 \
      --image_size=224 --only paper code --seeds 0 --output=experiments/results/fidelity_full
"""

import argparse
import json
import math
import subprocess
import sys

from alexnet_jax.runtime import command_line

if __name__ == "__main__":
    command_line.start()

import matplotlib.figure
import numpy as np

from alexnet_jax import UserError
from alexnet_jax.analysis import figures, pages
from alexnet_jax.runtime import files
from alexnet_jax.runtime.text import print_line
from alexnet_jax.training import fidelity
from configs import imagenette
from experiments import store

# block5 is missing because it gives the same values either way, the schedule and noise_off_at because they have no
# effect in these few epochs.
FIELDS = (
    "model.block1",
    "model.block2",
    "model.norm_alpha",
    "model.conv3to5_stddev",
    "optimizer.bias_rate",
    "optimizer.bias_decay",
    "augment.divisor",
    "augment.crop_group",
)
# About the standard deviations of red, green and blue in ImageNet.
STANDARDISED = {"model.input_std": "(58.0,57.0,57.5)"}
FLAGS = ("width", "image_size", "epochs", "learning_rate", "seeds")  # stored with the results


def variants() -> dict[str, dict]:
    """{name: settings} of paper, code, and each with one field of the other."""
    settings: dict[str, dict] = {"paper": {"fidelity": "paper"}, "code": {"fidelity": "code"}}
    for difference in fidelity.DIFFERENCES:
        if difference.field in FIELDS:
            settings[f"paper but {difference.field}"] = {"fidelity": "paper", difference.field: difference.code}
            settings[f"code but {difference.field}"] = {"fidelity": "code", difference.field: difference.paper}
    for kind in ("paper", "code"):
        settings[f"{kind}, standardised pixels"] = {"fidelity": kind} | STANDARDISED
    return settings


def train(name: str, settings: dict, seed: int, args: argparse.Namespace) -> list[dict]:
    """Trains a variant, unless it is finished; returns its metrics."""
    workdir = files.absolute(args.workdir) / f"seed_{seed}" / name.replace(" ", "_")
    settings = settings | {
        "dataset.name": "prepared",
        "dataset.root": args.root,
        "model.width": args.width,
        "model.image_size": args.image_size,
        "num_epochs": args.epochs,
        "schedule.name": "steps",
        "schedule.epochs": "()",
        "schedule.learning_rate": args.learning_rate,
        "seed": seed,
    }
    command = [sys.executable, "-m", "alexnet_jax.main", f"--config={imagenette.__file__}", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in settings.items()]
    print_line(f"seed {seed}, {name}")
    if status := subprocess.run(command).returncode:
        raise UserError(f"{workdir}: the training ended with status {status}; see its message")
    return store.read_metrics(workdir)


def errors(runs: list[list[dict]]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs [E] and validation errors in percent [seeds, E] from the metrics of runs with different seeds."""
    points = [[(line["epoch"], 100 * line["top1_error"]) for line in run if line["split"] == "eval"] for run in runs]
    epochs, errors = np.moveaxis(np.array(points), 2, 0)
    return epochs[0], errors


def draw(runs: dict[str, list]) -> bytes:
    """A PNG file: mean and range of the validation error by epoch, of paper and code, and the variants of each."""
    panels: dict[str | None, list[str]] = {}
    for kind in ("paper", "code"):
        if changed := [name for name in runs if name.startswith((f"{kind} but", f"{kind},"))]:
            panels[f"the {kind}, changed"] = changed
    panels = panels or {None: []}
    figure = matplotlib.figure.Figure(figsize=(6 * len(panels), 4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, changed) in zip(all_axes, panels.items(), strict=True):
        for i, name in enumerate(name for name in ("paper", "code", *changed) if name in runs):
            epochs, of_seeds = errors(runs[name])
            mean = of_seeds.mean(0)
            style = {"paper": {"color": "black", "linestyle": "--"}, "code": {"color": "black"}}.get(name, {})
            spread = np.stack([mean - of_seeds.min(0), of_seeds.max(0) - mean])
            axes.errorbar(epochs + 0.02 * i, mean, spread, label=name, marker=".", elinewidth=0.7, **style)
        axes.set(xlabel="epoch", ylabel="validation error, %", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    return figures.png(figure)


def table(runs: dict[str, list]) -> str:
    """Markdown: the mean and, of several seeds, the range of the validation error in percent after each epoch."""
    rows = []
    for name in runs:
        epochs, of_seeds = errors(runs[name])
        cells = [f"{x.mean():.1f}" + (f" ({x.min():.1f}–{x.max():.1f})" if len(x) > 1 else "") for x in of_seeds.T]
        rows.append([name, *cells])
    return pages.markdown_table([["error in % after epoch", *(f"{epoch:.0f}" for epoch in epochs)], *rows])


@command_line.one_line_errors("run the same command again to continue")
def main():
    parser = command_line.Parser("experiments.paper_or_code", __doc__)
    parser.add_argument("--root", required=True, help="Imagenette, prepared")
    parser.add_argument("--workdir", required=True, help="for the runs")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--image_size", type=int, default=112)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", metavar="RUN", choices=variants(), help="a subset of the runs")
    parser.add_argument("--output", default=str(store.COMMITTED / "fidelity"), help="path of the .json and the .png")
    args = parser.parse()
    runs = {
        name: [train(name, settings, seed, args) for seed in args.seeds]
        for name, settings in variants().items()
        if name in (args.only or variants())
    }
    results = {"settings": {flag: getattr(args, flag) for flag in FLAGS}, "runs": runs}
    with files.whole(f"{args.output}.json") as file:
        file.write(json.dumps(results, indent=1) + "\n")
    with files.whole(f"{args.output}.png", "wb") as file:
        file.write(draw(runs))
    print(table(runs))
    print(f"\nchance: loss {math.log(10):.3f}, error 90 %")


if __name__ == "__main__":
    main()
