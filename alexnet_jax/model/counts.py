"""Counts of a net, layer by layer: outputs, neurons, parameters and multiply-accumulates."""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.model import alexnet, spec
from alexnet_jax.runtime import sharding


class Row(NamedTuple):
    """A layer with weights: the shape of its output for one image, and its numbers.

    `macs` are multiply-accumulates per image.
    """

    name: str
    output: tuple[int, ...]
    neurons: int
    parameters: int
    macs: int


def layer_table(net: spec.Net) -> list[Row]:
    """A `Row` for every layer with weights."""
    params = alexnet.shapes(net)
    image = jax.ShapeDtypeStruct((1, net.image_size, net.image_size, 3), jnp.float32)
    mesh = jax.sharding.AbstractMesh((1, 1), **sharding.AXES)
    logits, outputs = jax.eval_shape(functools.partial(alexnet.forward, net, mesh), params, image)
    rows = []
    for layer in net.layers:
        kernel = params[layer.name]["kernel"].shape
        shape = (outputs | {net.last.name: logits})[layer.name].shape[1:]
        parameters = sum(math.prod(p.shape) for p in params[layer.name].values())
        positions = 1 if isinstance(layer, spec.Local) else math.prod(shape[:-1])
        rows.append(Row(layer.name, shape, math.prod(shape), parameters, math.prod(kernel) * positions))
    return rows


def total(rows: Iterable[Row]) -> Row:
    """The sum of rows of `layer_table`, a `Row` without an output."""
    _, _, *numbers = zip(*rows, strict=True)
    return Row("total", (), *map(sum, numbers))


def format_table(net: spec.Net) -> str:
    """`layer_table` as text, with totals."""
    rows = layer_table(net)
    lines: list[tuple[str, ...]] = [("layer", "output", "neurons", "parameters", "MACs per image")]
    for row in [*rows, total(rows)]:
        lines.append((row.name, "×".join(map(str, row.output)), *(f"{number:,}" for number in row[2:])))
    return "\n".join(f"{a:6}  {b:10}  {c:>9}  {d:>12}  {e:>15}" for a, b, c, d, e in lines)
