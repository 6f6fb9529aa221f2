"""The order of the classes, and the table of ImageNet's names, against the lists of those who publish them."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST

from alexnet_jax import UserError
from alexnet_jax.data import base, class_names, sources
from alexnet_jax.data.class_names import canonical, imagenet_names, imagenet_words, ordered, translated

# Labels and names from the others' own lists: Keras's imagenet_class_index.json, torchvision's meta["categories"], and
# the README of Hugging Face's imagenet-1k. Those that look alike, and some at both ends, are among them. TFDS has lists
# of all ids, of all words, and of the numbers of the development kit.
KERAS = {
    0: ("n01440764", "tench"),
    2: ("n01484850", "great_white_shark"),
    134: ("n02012849", "crane"),
    217: ("n02102040", "English_springer"),
    517: ("n03126707", "crane"),
    638: ("n03710637", "maillot"),
    639: ("n03710721", "maillot"),
    657: ("n03773504", "missile"),
    744: ("n04008634", "projectile"),
    999: ("n15075141", "toilet_tissue"),
}
HUGGING_FACE = {
    0: "tench, Tinca tinca",
    27: "eft",
    103: "platypus, duckbill, duckbilled platypus, duck-billed platypus, Ornithorhynchus anatinus",
    134: "crane",
    180: "American Staffordshire terrier, Staffordshire terrier, American pit bull terrier, pit bull terrier",
    217: "English springer, English springer spaniel",
    296: "ice bear, polar bear, Ursus Maritimus, Thalarctos maritimus",
    319: "dragonfly, darning needle, devil's darning needle, sewing needle, snake feeder, snake doctor, mosquito hawk, "
    "skeeter hawk",
    480: "cash machine, cash dispenser, automated teller machine, automatic teller machine, automated teller, "
    "automatic teller, ATM",
    517: "crane2",
    638: "maillot",
    639: "maillot, tank suit",
    697: "pajama, pyjama, pj's, jammies",
    757: "recreational vehicle, RV, R.V.",
}
TORCHVISION = {0: "tench", 134: "crane bird", 217: "English springer", 517: "crane", 639: "maillot tank suit"}


def test_labels_are_those_of_the_others():
    ids, names, words = list(imagenet_names()), list(imagenet_names().values()), list(imagenet_words().values())
    assert ids == sorted(ids) and len(set(ids)) == 1000
    assert ids == tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split()
    for label, (synset, name) in KERAS.items():
        assert (ids[label], words[label].partition(",")[0].replace(" ", "_")) == (synset, name)
    for label, name in HUGGING_FACE.items():
        assert words[label] == name or (label, words[label]) == (517, "crane")
    for label, name in TORCHVISION.items():
        assert names[label] == name
    assert [
        {134: "crane (bird)", 517: "crane (machine)"}.get(i, x) for i, x in enumerate(words)
    ] == IMAGENET_LABELS_LIST


def test_the_numbers_of_the_development_kit():
    """They are not in the order of the labels: the kit begins with a fox, and the labels with a fish."""
    numbers = class_names.kit_numbers()
    published = tfds.core.tfds_path("image_classification/imagenet_resized_labels.txt").read_text().split()
    assert [numbers[number] for number in range(1, 1001)] == published
    kit = {1: "kit fox", 5: "English springer", 100: "proboscis monkey", 213: "koala", 257: "passenger car"}
    for number, word in kit.items():
        assert imagenet_words()[numbers[number]].split(",")[0] == word
    assert sorted(numbers.values()) == list(imagenet_names())


def test_imagenet_under_other_names():
    ids, words = tuple(imagenet_names()), list(imagenet_words().values())
    hugging_face = [HUGGING_FACE.get(label, name) for label, name in enumerate(words)]
    keras = [name.partition(",")[0].replace(" ", "_") for name in words]
    numbers = [str(label) for label in range(1000)]
    for names in (ids, words, hugging_face, keras, numbers, list(imagenet_names().values())):
        assert canonical(names) == ids
    for names in (words[:999], words[1:] + words[:1], numbers[::-1], ["0", "1"], []):
        assert canonical(names) == tuple(names)


def test_the_order_of_classes():
    assert ordered(["dog", "cat", "Ape", "ähre", "10", "9"]) == ("10", "9", "Ape", "cat", "dog", "ähre")
    assert ordered(["10", "9", "007", "0"]) == ("0", "007", "9", "10")
    assert ordered(["٣", "10"]) == ("10", "٣")  # digits, but not of ASCII


def test_names_of_some_classes_are_translated_for_a_net_of_all():
    ids = tuple(imagenet_names())
    assert translated(["tench, Tinca tinca", "English_springer", "999"], ids) == (ids[0], ids[217], ids[999])
    for unclear in (["tench", "crane"], ["tench", "dragon"], ["1000"]):
        assert translated(unclear, ids) == tuple(unclear)
    assert translated(["tench"], ("tench", "carp")) == ("tench",)
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    split = base.Split(sources.PixelSource("some", pixels, [0, 1], ["a", "b"], 8), ("5", "goldfish"))
    relabelled = split.relabelled(ids)
    assert [relabelled[i][1] for i in range(2)] == [5, 1]
    split = base.Split(sources.PixelSource("some", pixels, [0, 1], ["a", "b"], 8), ("crane", "goldfish"))
    with pytest.raises(UserError, match="some: 2 of its classes .crane, goldfish. are not among"):
        split.relabelled(ids)


def test_readable_names():
    assert class_names.readable("n02102040") == "n02102040 English springer"
    assert class_names.readable("dog") == "dog"
