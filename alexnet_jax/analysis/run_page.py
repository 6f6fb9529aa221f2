"""The report of a training run: its net, curves, kernels, errors by class, and pictures of its worst mistakes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.analysis import figures, inference, pages
from alexnet_jax.analysis.ensemble import Ensemble
from alexnet_jax.data.class_names import readable
from alexnet_jax.data.sources import Source

MISTAKES = 12


def blocks(trained: Ensemble, images: str, source: Source) -> list[pages.Block]:
    """The page of one net, evaluated on a source. `images` names the images of the source."""
    (member,), (net,), (params,) = trained.members, trained.nets, trained.params
    metrics = member.workdir / "metrics.jsonl"
    training: list[pages.Block] = []
    if metrics.exists():
        curves = figures.png(figures.curves(metrics))
        training = [("heading", "Training"), ("picture", "curves", "Loss and top-1 error by epoch.", curves)]
    unfinished = " The training is not finished." if training and not (member.workdir / "result.json").exists() else ""
    outputs = inference.classify_source(trained, source, views=10)
    result = inference.errors(outputs)
    name = pages.literal(images)
    caption = "A red line is an all-gather between the towers." if net.towers > 1 else "One column."
    page: list[pages.Block] = [
        ("title", pages.literal(f"{member.model['net']}, {member.workdir.name}")),
        ("text", f"Step {member.step:,}, {len(source):,} {name}, {net.num_classes} classes.{unfinished}"),
        ("table", error_table(result)),
        ("heading", "The net"),
        ("picture", "net", caption, figures.png(figures.diagram(net))),
        *training,
    ]
    first = net.layers[0].name
    kernels = np.asarray(params[first]["kernel"])
    if kernels.ndim == 4:  # height, width, RGB, maps
        picture = figures.png(figures.conv1_kernels(kernels, net.towers))
        page += [("heading", f"Kernels of {first}"), ("picture", first, "On one scale; grey is 0.", picture)]
    page += [("heading", "Errors by class"), ("table", class_table(outputs, trained.class_names))]
    if worst := worst_mistakes(outputs, source, trained.class_names):
        caption = f"The {len(worst)} wrong examples whose class, in red, has the lowest probability by ten views."
        picture = figures.png(figures.mistakes(worst))
        page += [("heading", "Worst mistakes"), ("picture", "mistakes", caption, picture)]
    return page


def error_table(result: dict[str, Any]) -> list[list[str]]:
    rows = [["view", "loss", "top-1 error", "top-5 error"]]
    for way, title in inference.TITLES.items():
        errors = (f"{result[way][error]:.2%}" for error in ("top1_error", "top5_error"))
        rows.append([title, f"{result[way]['loss']:.4f}", *errors])
    return rows


def class_table(outputs: inference.Outputs, class_names: Sequence[str]) -> list[list[str]]:
    """Rows of the classes for a page, the highest top-1 error first."""
    rows = [["class", "images", "top-1 error, ten views", "top-5", "most often taken for"]]
    by_class = inference.by_class(outputs, class_names)
    for row in sorted(by_class, key=lambda row: -row["ten_crop"]["top1_error"]):
        confused = row["confused_with"]
        taken_for = f"{pages.literal(readable(confused[0]))}, {confused[1]}×" if confused else ""
        errors = (f"{row['ten_crop'][error]:.1%}" for error in ("top1_error", "top5_error"))
        rows.append([pages.literal(readable(row["class"])), str(row["num_examples"]), *errors, taken_for])
    return rows


def worst_mistakes(
    outputs: inference.Outputs, source: Source, class_names: Sequence[str]
) -> list[tuple[np.ndarray, str, figures.Predictions]]:
    """Pixels, class and predictions of the wrong examples of highest loss, by ten views."""
    by_views, wrong = outputs["ten_crop"], inference.wrong(outputs)
    worst = wrong[np.argsort(-by_views["loss"][wrong], kind="stable")][:MISTAKES]
    return [
        (source[int(i)][0], class_names[outputs["label"][i]], inference.predictions(by_views, i, class_names))
        for i in worst
    ]
