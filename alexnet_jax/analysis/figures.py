"""Figures: a net with its collectives (Figure 2), its kernels by tower (Figure 3), retrieval (Figure 4), curves.

Each function returns a matplotlib figure; `png` encodes it to reproducible bytes.
"""

import io
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib.patches
import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.data.class_names import readable
from alexnet_jax.model import spec, structure
from alexnet_jax.runtime.text import printable
from alexnet_jax.training import metrics

TOWERS, LINK, GREY = ("#dbe7f5", "#fbe3d0"), "#b5382a", "#e8e8e8"
RIGHT, WRONG = "#e07a5f", "#9db4c8"
LONGEST = 50  # characters of a name

Predictions = list[dict[str, Any]]  # of `inference.predictions`


def png(figure: Figure) -> bytes:
    """A figure as a PNG file. Equal figures give equal bytes. A character that the font lacks is shown as a box."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)  # wide names overlap
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return file.getvalue()


def _name(class_name):
    """A class's name for a matplotlib text, which must get parse_math=False: a $ would begin a formula."""
    line = printable(readable(class_name))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def diagram(net: spec.Net) -> Figure:
    """Figure 2 for any net: a row for each layer, a column for each tower, and the all-gathers between the towers.

    Labels give the height and width of each layer's output, the operations that follow it, and the count of numbers
    that a tower receives in each all-gather, per example.
    """
    width, gap, height = 3.4, 1.0, 0.62
    columns = [i * (width + gap) for i in range(net.towers)]
    end, sizes = columns[-1] + width, list(structure.sizes(net))
    gathers = [layer.cross_tower and net.towers > 1 for layer, *_ in sizes]
    tops = np.cumsum([1.35 if gather else 1.0 for gather in gathers])
    figure = Figure(figsize=(0.8 * (end + 2.8), 0.55 * (tops[-1] + 1)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set(xlim=(-0.2, end + 2.6), ylim=(tops[-1] + height + 0.15, -0.15))

    def box(left, right, top, text, colour):
        style = {"boxstyle": "round,pad=0.02,rounding_size=0.1", "facecolor": colour, "edgecolor": "#555555"}
        axes.add_patch(matplotlib.patches.FancyBboxPatch((left, top), right - left, height, **style))
        axes.text((left + right) / 2, top + height / 2, text, ha="center", va="center", fontsize=9)

    box(0, end, 0, f"image, {net.image_size}×{net.image_size}×3", GREY)
    bottom = height
    for (layer, in_channels, side, out_side), gather, top in zip(sizes, gathers, tops, strict=True):
        if gather:
            y, received = (bottom + top) / 2, in_channels * side**2 * (net.towers - 1) // net.towers
            axes.plot([width / 2, end - width / 2], [y, y], color=LINK, linewidth=2.5)
            axes.text(end / 2, y - 0.06, f"all_gather, {received:,}", ha="center", va="bottom", fontsize=8, color=LINK)
        for tower, left in enumerate(columns):
            x = left + width / 2
            axes.annotate("", (x, top), (x, bottom), arrowprops={"arrowstyle": "-|>", "color": "#555555"})
            if layer is not net.layers[-1]:
                box(left, left + width, top, _label(layer), TOWERS[tower % 2])
        if layer is net.layers[-1]:
            box(0, end, top, f"{_label(layer)}, softmax", GREY)
        else:
            after = [op.replace("_", " ") for op, _ in structure.operations(net, layer)]
            places = [] if isinstance(layer, spec.Dense) else [f"{out_side}×{out_side}"]
            axes.text(end + 0.2, top + height / 2, ", ".join(places + after), va="center", fontsize=8)
        bottom = top + height
    return figure


def _label(layer):
    if isinstance(layer, spec.Dense):
        return f"{layer.name}, {layer.features} units"
    stride = f", stride {layer.stride}" if layer.stride > 1 else ""
    local = ", locally connected" * isinstance(layer, spec.Local)
    return f"{layer.name}, {layer.features} maps, {layer.size}×{layer.size}{stride}{local}"


def conv1_kernels(kernels_HxWx3xN: np.ndarray, towers: int) -> Figure:
    """Figure 3: the kernels of conv1, a panel for each tower, all on one scale around mid-grey."""
    kernels_NxHxWx3 = np.moveaxis(kernels_HxWx3xN, -1, 0)
    kernels_NxHxWx3 = 0.5 + 0.5 * kernels_NxHxWx3 / abs(kernels_NxHxWx3).max()
    per_tower = len(kernels_NxHxWx3) // towers
    columns = min(16, per_tower)
    rows = -(-per_tower // columns)
    figure = Figure(figsize=(0.5 * columns + 0.4, towers * (0.5 * rows + 0.4)), layout="constrained")
    for tower, panel in enumerate(figure.subfigures(towers, 1, squeeze=False).flat):
        panel.suptitle(f"tower {tower}", fontsize=9)
        for i, axes in enumerate(panel.subplots(rows, columns, squeeze=False).flat):
            axes.axis("off")
            if i < per_tower:
                axes.imshow(kernels_NxHxWx3[tower * per_tower + i])
    return figure


def mistakes(rows: Sequence[tuple[np.ndarray, str, Predictions]]) -> Figure:
    """Images with their class, and the probabilities of the predicted classes as bars.

    Args:
      rows: pixels (uint8 [H, W, 3]), class and `inference.predictions` of each image.
    """
    columns = 4
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2 * columns, 2.7 * lines), layout="constrained")
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[2, 1] * lines)
    for axes in grid.flat:
        axes.axis("off")
    for i, (pixels, class_name, predictions) in enumerate(rows):
        image, bars = grid[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        image.imshow(pixels)
        image.set_title(_name(class_name), fontsize=8, parse_math=False)
        _bars(bars, class_name, predictions)
    return figure


def _bars(axes, class_name, predictions):
    axes.axis("on")
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(len(predictions) - 0.4, -0.6))
    colours = [RIGHT if best["class"] == class_name else WRONG for best in predictions]
    axes.barh(range(len(predictions)), [best["probability"] for best in predictions], color=colours)
    for i, best in enumerate(predictions):
        axes.text(0.02, i, _name(best["class"]), va="center", fontsize=7, parse_math=False)


def retrieval(rows: Sequence[tuple[np.ndarray, str, Predictions, Sequence[np.ndarray]]]) -> Figure:
    """Figure 4: images with their most likely classes as bars, and the images whose features are nearest.

    Args:
      rows: pixels (uint8 [H, W, 3]), class and `inference.predictions` of each image, and the pixels of its neighbours,
        nearest first.
    """
    neighbours = max(len(row[-1]) for row in rows)
    figure = Figure(figsize=(2.8 + 0.8 * neighbours, 0.95 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 2 + neighbours, squeeze=False, width_ratios=[1, 1.6, *[1] * neighbours])
    for axes_of_row, (pixels, class_name, predictions, near) in zip(grid, rows, strict=True):
        for axes in axes_of_row:
            axes.set(xticks=[], yticks=[])
            axes.axis("off")
        axes_of_row[0].imshow(pixels)
        axes_of_row[0].set_title(_name(class_name), fontsize=7, loc="left", parse_math=False)
        _bars(axes_of_row[1], class_name, predictions)
        for axes, image in zip(axes_of_row[2:], near, strict=False):
            axes.imshow(image)
    grid[0, 2].set_title("nearest training images", fontsize=7, loc="left")
    return figure


def curves(metrics_path: str | os.PathLike) -> Figure:
    """Loss and top-1 error by epoch, training and validation, from a run's metrics.jsonl.

    Raises as `metrics.read`.
    """
    lines = metrics.read(pathlib.Path(metrics_path))
    points = [(line["split"], line["epoch"], line["loss"], line["top1_error"]) for line in lines]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for i, (axes, title) in enumerate(zip(figure.subplots(1, 2), ("loss", "top-1 error"), strict=True)):
        for split, label in (("train", "training (crops, dropout)"), ("eval", "validation (centre view)")):
            of_split = [(epoch, values[i]) for which, epoch, *values in points if which == split]
            epochs, values = np.array(of_split).reshape(-1, 2).T
            axes.plot(epochs, values, label=label, marker="o" if split == "eval" else "", markersize=3)
        axes.set(xlabel="epoch", title=title, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend()
    return figure
