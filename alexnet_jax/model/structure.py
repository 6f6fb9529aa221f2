"""Properties that follow from the description of a net: its operations, the names of its outputs, its sizes."""

import dataclasses
import re
from collections.abc import Iterator

from alexnet_jax.model import spec
from alexnet_jax.model.operations import OPERATIONS
from alexnet_jax.model.spec import Layer, Net


def parse(word: str) -> tuple[str, str]:
    """A word of `Layer.then` as the operation and, for a norm or pool of a layer left out, the number of that layer.

    Raises:
      ValueError: the word is no operation.
    """
    names = "|".join(sorted(OPERATIONS, key=len, reverse=True))
    match = re.fullmatch(rf"({names})(\d+|_\w+)?", word)
    if not match:
        raise ValueError(f"no operation {word!r}; there are {', '.join(OPERATIONS)}")
    return match[1], match[2] or ""


def operations(net: Net, layer: Layer) -> list[tuple[str, str]]:
    """What follows a layer, in order: (operation, name of its output); without norms where the net has none."""
    name, following = layer.name, []
    for word in layer.then.split():
        operation, number = parse(word)
        if OPERATIONS[operation].kind == "norm" and not net.norm:
            continue
        if output := OPERATIONS[operation].output:
            name = output + (number or layer.number)
        following.append((operation, name))
    return following


def outputs(net: Net) -> dict[str, Layer]:
    """The names of all outputs but the logits, each with its layer, in order.

    Raises:
      ValueError: two layers have an output with the same name.
    """
    layers: dict[str, Layer] = {}
    for layer in net.layers[:-1]:
        for name in dict.fromkeys([layer.name, *(name for _, name in operations(net, layer))]):
            if name in layers:
                raise ValueError(f"{layers[name].name} and {layer.name} both have an output {name}; number them apart")
            layers[name] = layer
    return layers


def sizes(net: Net) -> Iterator[tuple[Layer, int, int, int]]:
    """For every layer (layer, channels of its input, side of its input, side of its output), in pixels."""
    channels, side = 3, net.image_size
    for layer in net.layers:
        in_channels = channels * (net.towers if layer.cross_tower else 1)
        out = 1
        if isinstance(layer, spec.Conv):
            out = spec.window_count(net, side, layer.size, layer.stride, layer.pad)
        yield layer, in_channels, side, out
        channels, side = layer.features, out
        for operation, _ in operations(net, layer):
            if OPERATIONS[operation].kind == "pool":
                side = spec.window_count(net, side, *net.pool)


def compute_alike(net: Net, other: Net) -> bool:
    """Whether two nets compute the same outputs, up to rounding, from the same parameters and crops.

    Their classes may differ.
    """

    def bare(net):
        layers = (dataclasses.replace(layer, stddev=0, bias=0, decay=0) for layer in net.with_classes(0).layers)
        return dataclasses.replace(net, layers=tuple(layers), stretch=False, dtype="")

    return bare(net) == bare(other)
