"""ImageNet's classes: their labels, and the names that others give them.

A label numbers the WordNet ids ("synsets") in sorted order, as in torchvision, Keras, Kaggle and Hugging Face.
"""

import functools
import importlib.resources
import logging
from collections.abc import Iterable, Sequence

log = logging.getLogger("alexnet_jax")

DIFFERENT = 10  # names that a list of ImageNet's classes may spell otherwise
CRANE_2 = 517  # the label that Hugging Face calls "crane2", because two classes are called "crane"


@functools.cache
def _table() -> list[list[str]]:
    text = importlib.resources.files("alexnet_jax.data").joinpath("imagenet_classes.tsv").read_text()
    return [line.split("\t") for line in text.splitlines()]


@functools.cache
def imagenet_names() -> dict[str, str]:
    """The 1000 classes of ILSVRC2012 in the order of their labels: {WordNet id: torchvision's name}."""
    return {synset: name for synset, name, _, _ in _table()}


@functools.cache
def imagenet_words() -> dict[str, str]:
    """The same classes as Kaggle and Hugging Face name them: {WordNet id: WordNet's words, as 'tench, Tinca tinca'}."""
    return {synset: words for synset, _, words, _ in _table()}


@functools.cache
def kit_numbers() -> dict[int, str]:
    """The same classes by the numbers of the development kit, ILSVRC2012_ID from 1 on: {number: WordNet id}."""
    return {int(number): synset for synset, _, _, number in _table()}


def readable(class_name: str) -> str:
    """'n02102040 English springer' for 'n02102040'; a name that is not ImageNet's is returned unchanged."""
    words = imagenet_names().get(class_name)
    return f"{class_name} {words}" if words else class_name


def is_number(class_name: str) -> bool:
    """Whether a class name is a whole number from 0 on, of at most nine digits."""
    return class_name.isascii() and class_name.isdigit() and len(class_name) < 10


def ordered(class_names: Iterable[str]) -> tuple[str, ...]:
    """Labels as class names in their order: by number if every one is a number, otherwise sorted by Unicode."""
    names = set(class_names)
    if all(map(is_number, names)):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def canonical(class_names: Sequence[str]) -> tuple[str, ...]:
    """ImageNet's WordNet ids, if these are its 1000 classes in the order of the labels: by number or by a name.

    Other class names are returned unchanged. It logs numbers and names that it does not have.
    """
    if len(class_names) != len(_table()):
        return tuple(class_names)
    others = [name for label, name in enumerate(class_names) if _plain(name) not in _aliases(label)]
    if len(others) > DIFFERENT:
        return tuple(class_names)
    if others or class_names[0] == "0":
        names = ", ".join(others) or "0 … 999"
        log.warning("1000 classes are taken as ImageNet's, in the order of their WordNet ids; among them: %s", names)
    return tuple(imagenet_names())


def translated(class_names: Sequence[str], into: Sequence[str]) -> tuple[str, ...]:
    """Class names as `into` calls ImageNet's classes, which are all 1000 of them: by WordNet id or by number.

    A name means a class if it is its number or, unlike "crane", the name of no other class. If `into` are other
    classes, or a name means none, the class names are returned unchanged.
    """
    ids, numbers = list(imagenet_names()), [str(label) for label in range(len(_table()))]
    if sorted(into) not in (ids, sorted(numbers)):
        return tuple(class_names)
    meaning: dict[str, list[int]] = {}
    for label in range(len(ids)):
        for alias in _aliases(label):
            meaning.setdefault(alias, []).append(label)
    found = [meaning.get(_plain(name), []) for name in class_names]
    if not all(len(labels) == 1 for labels in found):
        return tuple(class_names)
    if any(map(is_number, class_names)) != any(map(is_number, into)):
        log.warning("classes with numbers as names are taken as ImageNet's, in the order of their WordNet ids")
    return tuple((ids if into[0] in ids else numbers)[labels[0]] for labels in found)


def _aliases(label):
    """Everything that means a class of ImageNet."""
    synset, name, words, _ = _table()[label]
    others = {"crane2"} if label == CRANE_2 else set()
    return {str(label), *others, *map(_plain, (synset, name, words, words.split(",")[0]))}


def _plain(name):
    return name.replace("_", " ").lower()
