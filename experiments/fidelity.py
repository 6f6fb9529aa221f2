r"""Which of the differences between paper and 2012 code decide whether, and how fast, the net trains?

  python -m alexnet_jax.prepare --dataset=folder --root=imagenette2-160 --output=imagenette256
  python experiments/fidelity.py --root=imagenette256 --workdir=/tmp/fidelity

Trains the two-tower net by the paper, by the code, and by each with one field of the other (alexnet_jax/fidelity.py),
all for the same steps at a constant rate; then by both with standardised pixels. Started again, it goes on. Writes
experiments/results/fidelity.json and draws experiments/results/fidelity.png.

Cost: 20 runs of two minutes on two CPU cores, at a quarter of the width. At full size, half an hour for each of two:

  python experiments/fidelity.py --root=imagenette256 --workdir=/tmp/fidelity_full --width=1 --image_size=224 \
      --only paper code --output=experiments/results/fidelity_full
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

import matplotlib.figure

from alexnet_jax import fidelity

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


def train(name, settings, args):
    """The lines of a run's metrics.jsonl, after training."""
    workdir = pathlib.Path(args.workdir) / name.replace(" ", "_")
    settings = settings | {
        "dataset.name": "prepared",
        "dataset.root": args.root,
        "model.width": args.width,
        "model.image_size": args.image_size,
        "num_epochs": args.epochs,
        "schedule.name": "steps",
        "schedule.epochs": "()",
        "schedule.learning_rate": args.learning_rate,
        "seed": args.seed,
    }
    command = [sys.executable, "-m", "alexnet_jax.main", "--config=configs/imagenette.py", f"--workdir={workdir}"]
    command += [f"--config.{field}={value}" for field, value in settings.items()]
    print(name, flush=True)
    subprocess.run(command, check=True)  # at once where it was done before
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def draw(runs, path):
    """Validation error by epoch: paper and code, and beside them what became of each with something changed."""
    panels = {
        kind: [name for name in runs if name.startswith((f"{kind} but", f"{kind},"))] for kind in ("paper", "code")
    }
    figure = matplotlib.figure.Figure(figsize=(12, 4), layout="constrained")
    for axes, (kind, changed) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        for name in [name for name in ("paper", "code", *changed) if name in runs]:
            points = [(line["epoch"], 100 * line["top1_error"]) for line in runs[name] if line["split"] == "eval"]
            style = {"paper": {"color": "black", "linestyle": "--"}, "code": {"color": "black"}}.get(name, {})
            axes.plot(*zip(*points, strict=True), label=name, marker=".", **style)
        axes.set(xlabel="epoch", ylabel="validation error, %", title=f"the {kind}, changed" if changed else None)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150)


def table(runs):
    """Markdown: what each change does to the validation error after every epoch, and the last training loss."""
    epochs = [round(line["epoch"]) for line in next(iter(runs.values())) if line["split"] == "eval"]
    rows = ["| run | " + " | ".join(f"epoch {epoch}" for epoch in epochs) + " | training loss |"]
    rows += ["|---" * (len(epochs) + 2) + "|"]
    for name, lines in runs.items():
        errors = [f"{line['top1_error']:.1%}" for line in lines if line["split"] == "eval"]
        loss = [line["loss"] for line in lines if line["split"] == "train"][-1]
        rows.append(f"| {name} | " + " | ".join(errors) + f" | {loss:.3f} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="Imagenette, prepared")
    parser.add_argument("--workdir", required=True, help="where the runs go")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--image_size", type=int, default=112)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--learning_rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="RUN", choices=variants(), help="some of the runs")
    parser.add_argument("--output", default=str(RESULTS / "fidelity"), help="of the .json and the .png")
    args = parser.parse_args()
    runs = {
        name: train(name, settings, args) for name, settings in variants().items() if name in (args.only or variants())
    }
    settings = {name: getattr(args, name) for name in ("width", "image_size", "epochs", "learning_rate", "seed")}
    kept = {name: [{k: v for k, v in line.items() if k != "images_per_second"} for line in runs[name]] for name in runs}
    pathlib.Path(args.output + ".json").write_text(json.dumps({"settings": settings, "runs": kept}, indent=1) + "\n")
    draw(runs, args.output + ".png")
    print(table(runs))
    print(f"\nchance: loss {math.log(10):.3f}, error 90 %")


if __name__ == "__main__":
    main()
