r"""Which of the differences between paper and 2012 code decide whether, and how fast, the net trains?

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python experiments/fidelity.py --root=imagenette256 --workdir=/tmp/fidelity

Trains the two-tower net by the paper, by the code, and by each with one field of the other
(alexnet_jax/training/fidelity.py), all for the same steps at a constant rate; then by both with standardised pixels.
Started again, it goes on. Writes experiments/results/fidelity.json and draws experiments/results/fidelity.png.

Cost: 40 runs of two minutes on two CPU cores, at a quarter of the width. At full size, half an hour for each of two:

  python experiments/fidelity.py --root=imagenette256 --workdir=/tmp/fidelity_full --width=1 --image_size=224 \
      --only paper code --seeds 0 --output=experiments/results/fidelity_full
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

import matplotlib.figure
import numpy as np

from alexnet_jax.training import fidelity

RESULTS = pathlib.Path(__file__).parent / "results"

# block5 gives the same values either way, and the schedules and noise_off_at come into play after these few epochs.
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
# Red, green and blue of ImageNet have about this standard deviation.
STANDARDISED = {"model.input_std": "(58.0,57.0,57.5)"}
# Flags that the results are kept with.
SETTINGS = ("width", "image_size", "epochs", "learning_rate", "seeds")


def variants():
    """{name: settings}: paper, code, and each with one field of the other."""
    found = {"paper": {"fidelity": "paper"}, "code": {"fidelity": "code"}}
    for difference in fidelity.DIFFERENCES:
        if difference.field in FIELDS:
            found[f"paper but {difference.field}"] = {"fidelity": "paper", difference.field: difference.code}
            found[f"code but {difference.field}"] = {"fidelity": "code", difference.field: difference.paper}
    for kind in ("paper", "code"):
        found[f"{kind}, standardised pixels"] = {"fidelity": kind} | STANDARDISED
    return found


def train(name, settings, seed, args):
    """The lines of a run's metrics.jsonl, after training."""
    workdir = pathlib.Path(args.workdir) / f"seed_{seed}" / name.replace(" ", "_")
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
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/imagenette.py", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in settings.items()]
    print(f"seed {seed}, {name}", flush=True)
    subprocess.run(command, check=True)  # at once where it was done before
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def errors(runs):
    """Epochs [E], and the validation error after each, in percent [seeds, E], of runs that differ in seeds."""
    found = [[(line["epoch"], 100 * line["top1_error"]) for line in run if line["split"] == "eval"] for run in runs]
    epochs_and_errors = np.array(found)
    return epochs_and_errors[0, :, 0], epochs_and_errors[:, :, 1]


def draw(runs, path):
    """Validation error by epoch, mean and range of the seeds: paper and code, and what became of each when changed."""
    panels = {}
    for kind in ("paper", "code"):
        if changed := [name for name in runs if name.startswith((f"{kind} but", f"{kind},"))]:
            panels[f"the {kind}, changed"] = changed
    panels = panels or {None: []}
    figure = matplotlib.figure.Figure(figsize=(6 * len(panels), 4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, changed) in zip(all_axes, panels.items(), strict=True):
        for i, name in enumerate(name for name in ("paper", "code", *changed) if name in runs):
            epochs, found = errors(runs[name])
            mean = found.mean(0)
            style = {"paper": {"color": "black", "linestyle": "--"}, "code": {"color": "black"}}.get(name, {})
            spread = np.stack([mean - found.min(0), found.max(0) - mean])
            axes.errorbar(epochs + 0.02 * i, mean, spread, label=name, marker=".", elinewidth=0.7, **style)
        axes.set(xlabel="epoch", ylabel="validation error, %", title=title)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)


def table(runs):
    """Markdown: the validation error after every epoch in percent, mean and, of several seeds, range."""
    rows = []
    for name in runs:
        epochs, found = errors(runs[name])
        cells = [f"{x.mean():.1f}" + (f" ({x.min():.1f}–{x.max():.1f})" if len(x) > 1 else "") for x in found.T]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    head = "| error in % after epoch | " + " | ".join(f"{epoch:.0f}" for epoch in epochs) + " |"
    return "\n".join([head, "|---" * (len(epochs) + 1) + "|", *rows])


def write(runs, settings, output):
    """The .json and the .png."""
    for run in (run for seeds in runs.values() for run in seeds):
        for line in run:
            line.pop("images_per_second", None)  # would not be the same again
    pathlib.Path(f"{output}.json").write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")
    draw(runs, f"{output}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="Imagenette, prepared")
    parser.add_argument("--workdir", required=True, help="where the runs go")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--image_size", type=int, default=112)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", metavar="RUN", choices=variants(), help="some of the runs")
    parser.add_argument("--output", default=str(RESULTS / "fidelity"), help="of the .json and the .png")
    args = parser.parse_args()
    runs = {
        name: [train(name, settings, seed, args) for seed in args.seeds]
        for name, settings in variants().items()
        if name in (args.only or variants())
    }
    write(runs, {name: getattr(args, name) for name in SETTINGS}, args.output)
    print(table(runs))
    print(f"\nchance: loss {math.log(10):.3f}, error 90 %")


if __name__ == "__main__":
    main()
