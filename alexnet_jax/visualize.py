"""Pictures of a run: the learned kernels by tower (Figure 3) and the training curves."""

import json
import pathlib

import matplotlib.figure
import numpy as np


def conv1_kernels(kernels_HxWx3xN, towers, path):
    """Writes Figure 3: the kernels of conv1, a panel for each tower, all on one scale around mid-grey."""
    kernels_NxHxWx3 = np.moveaxis(kernels_HxWx3xN, -1, 0)
    kernels_NxHxWx3 = 0.5 + 0.5 * kernels_NxHxWx3 / abs(kernels_NxHxWx3).max()
    per_tower = len(kernels_NxHxWx3) // towers
    columns = min(16, per_tower)
    rows = -(-per_tower // columns)
    figure = matplotlib.figure.Figure(figsize=(0.5 * columns + 0.4, towers * (0.5 * rows + 0.4)), layout="constrained")
    for tower, panel in enumerate(figure.subfigures(towers, 1, squeeze=False).flat):
        panel.suptitle(f"tower {tower}", fontsize=9)
        for i, axes in enumerate(panel.subplots(rows, columns, squeeze=False).flat):
            axes.axis("off")
            if i < per_tower:
                axes.imshow(kernels_NxHxWx3[tower * per_tower + i])
    figure.savefig(path, dpi=150)


def curves(metrics_path, path):
    """Writes loss and top-1 error by epoch, training and validation, from a run's metrics.jsonl."""
    lines = [json.loads(line) for line in pathlib.Path(metrics_path).read_text().splitlines()]
    figure = matplotlib.figure.Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name, title in zip(figure.subplots(1, 2), ("loss", "top1_error"), ("loss", "top-1 error"), strict=True):
        for split, label in (("train", "training (crops, dropout)"), ("eval", "validation (centre view)")):
            points = [(line["epoch"], line[name]) for line in lines if line["split"] == split]
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if split == "eval" else "", markersize=3)
        axes.set(xlabel="epoch", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
