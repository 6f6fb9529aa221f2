"""Readable names of ImageNet's classes."""

import functools
import importlib.resources


@functools.cache
def imagenet_names() -> dict[str, str]:
    """The 1000 classes of ILSVRC2012 in the order of their labels: {WordNet id: torchvision's name}."""
    text = importlib.resources.files("alexnet_jax.data").joinpath("imagenet_classes.tsv").read_text()
    return dict(line.split("\t") for line in text.splitlines())


def readable(class_name: str) -> str:
    """'n02102040 English springer' for 'n02102040'; a name that is not ImageNet's is returned unchanged."""
    words = imagenet_names().get(class_name)
    return f"{class_name} {words}" if words else class_name
