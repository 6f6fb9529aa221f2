"""Names of classes for people."""

import functools
import importlib.resources


@functools.cache
def imagenet_names() -> dict[str, str]:
    """The 1000 classes of ILSVRC2012 in the order of their labels, each with torchvision's name for it."""
    text = importlib.resources.files("alexnet_jax.data").joinpath("imagenet_classes.tsv").read_text()
    return dict(line.split("\t") for line in text.splitlines())


def readable(class_name: str) -> str:
    """A class name for people: 'n02102040 English springer' for 'n02102040', others as they are."""
    words = imagenet_names().get(class_name)
    return f"{class_name} {words}" if words else class_name
