"""ImageNet's classes: their labels, and the names that others give them.

A label numbers the WordNet ids ("synsets") in sorted order, as in torchvision, Keras, Kaggle and Hugging Face.
"""

import functools
import importlib.resources
import logging
from collections.abc import Sequence

log = logging.getLogger("alexnet_jax")

DIFFERENT = 10  # names that a list of ImageNet's classes may spell otherwise: Hugging Face's has a "crane2"


@functools.cache
def _table() -> list[list[str]]:
    text = importlib.resources.files("alexnet_jax.data").joinpath("imagenet_classes.tsv").read_text()
    return [line.split("\t") for line in text.splitlines()]


@functools.cache
def imagenet_names() -> dict[str, str]:
    """The 1000 classes of ILSVRC2012 in the order of their labels: {WordNet id: torchvision's name}."""
    return {synset: name for synset, name, _ in _table()}


@functools.cache
def imagenet_words() -> dict[str, str]:
    """The same classes as Kaggle and Hugging Face name them: {WordNet id: WordNet's words, as 'tench, Tinca tinca'}."""
    return {synset: words for synset, _, words in _table()}


def readable(class_name: str) -> str:
    """'n02102040 English springer' for 'n02102040'; a name that is not ImageNet's is returned unchanged."""
    words = imagenet_names().get(class_name)
    return f"{class_name} {words}" if words else class_name


def ordered(class_names: Sequence[str]) -> tuple[str, ...]:
    """The order of the labels of some classes: by number if every name is one, otherwise sorted by Unicode."""
    if all(name.isascii() and name.isdigit() for name in class_names):
        return tuple(sorted(class_names, key=lambda name: (int(name), name)))
    return tuple(sorted(class_names))


def canonical(class_names: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's WordNet ids, if these are its 1000 classes in the order of the labels: by number or by a name.

    Other class names are returned unchanged.
    """
    if len(class_names) == len(_table()):
        same = sum(_plain(name) in _aliases(label) for label, name in enumerate(class_names))
        if same >= len(class_names) - DIFFERENT:
            if class_names[0] == "0":
                log.warning("the 1000 classes 0 … 999 are taken as ImageNet's, in the order of their WordNet ids")
            return tuple(imagenet_names())
    return tuple(class_names)


def translated(class_names: Sequence[str], into: Sequence[str]) -> tuple[str, ...]:
    """Class names by the WordNet ids of ImageNet's classes, if `into` are these and all the names mean one of them.

    A name means a class if it is its number or, unlike "crane", the name of no other class. Otherwise the class names
    are returned unchanged.
    """
    if tuple(into) != tuple(imagenet_names()):
        return tuple(class_names)
    meaning: dict[str, list[str]] = {}
    for label, (synset, _, _) in enumerate(_table()):
        for alias in _aliases(label):
            meaning.setdefault(alias, []).append(synset)
    found = [meaning.get(_plain(name), []) for name in class_names]
    if not all(len(synsets) == 1 for synsets in found):
        return tuple(class_names)
    if any(name.isdigit() for name in class_names):
        log.warning("classes with numbers as names are taken as ImageNet's, in the order of their WordNet ids")
    return tuple(synsets[0] for synsets in found)


def _aliases(label):
    """Everything that means a class of ImageNet."""
    synset, name, words = _table()[label]
    return {str(label), *map(_plain, (synset, name, words, words.split(",")[0]))}


def _plain(name):
    return name.replace("_", " ").lower()
