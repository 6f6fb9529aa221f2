"""The 2012 nets as their own files have them: a parser, and float64 NumPy that computes what a definition file says.

Nothing here is from the project's package. A definition file has a section for every layer of every column, a
parameter file their rates, weight decays and norms, and at its end notes on the training.
"""

import configparser
import math
import os
import pathlib
import re

import numpy as np

from tests.references import numpy_net

DIRECTORY = pathlib.Path(os.environ.get("ALEXNET_DATA", "../shared/data")) / "alexnet2012"
WITH_WEIGHTS = ("conv", "local", "fc")
WORDS = {"cmrnorm": "norm", "rnorm": "same_map_norm", "hs": "dropout"}  # ours


def parse(path):
    """The sections of a file of `DIRECTORY`, in order, as dicts of text."""
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parser.optionxform = str
    parser.read_string((DIRECTORY / path).read_text())
    return {name: dict(parser[name]) for name in parser.sections()}


def numbers(text):
    """A number for each input of a layer."""
    return [float(number) for number in text.split(",")]


def number(text):
    """That which is the same for all inputs of a layer."""
    (same,) = set(numbers(text))
    return same


def read(path, shrink=1):
    """The layers of a definition file by their names, in order, with `inputs` as a list and `column` beside the rest.

    The column is 'a' or 'b'; '' of the last layer, and of all in a net that has no such names. `shrink` divides the
    maps and the hidden units.
    """
    layers = {
        name: section for name, section in parse(path).items() if section["type"] in (*WITH_WEIGHTS, "pool", *WORDS)
    }
    *_, last = layers
    for name, layer in layers.items():
        layer["column"] = name[-1] if name[-1] in "ab" else ""
        layer["inputs"] = layer["inputs"].split(",")
        size = layer.get("filters") or layer.get("outputs")
        if size:
            layer["outputs"] = int(number(size)) // (1 if name == last else shrink)
        if "channels" in layer:
            layer["channels"] = [int(n) if n == 3 else int(n) // shrink for n in numbers(layer["channels"])]
    return layers


def columns(layers):
    """['a', 'b'], ['a'] or ['']: those that have layers of their own but the last."""
    return sorted({layer["column"] for layer in list(layers.values())[:-1]})


def chain(layers, column):
    """The layers of a column with weights, from below: [(name, those that follow it)]."""
    found = []
    for name, layer in layers.items():
        if layer["column"] in (column, ""):
            if layer["type"] in WITH_WEIGHTS:
                found.append((name, []))
            else:
                found[-1][1].append(name)
    return found


def words(layers, name, following):
    """What follows the product of a layer, in our words."""
    found = []
    for each in (name, *following):
        layer = layers[each]
        if layer["type"] == "pool":
            found.append({"max": "pool", "avg": "average_pool"}[layer["pool"]])
        elif layer["type"] in WORDS:
            found.append(WORDS[layer["type"]])
        found += {"relu": ["relu"], "ident": []}[layer.get("neuron", "ident")]
    return " ".join(found)


def seen(layers, column):
    """For each layer of a column with weights, the columns that it sees; [] of the image.

    Raises AssertionError unless it sees what comes out last of the layer below, with as many channels.
    """
    ends = {each: [(following or [name])[-1] for name, following in chain(layers, each)] for each in columns(layers)}
    found = []
    for i, (name, following) in enumerate(chain(layers, column)):
        inputs = layers[name]["inputs"]
        below = {ends[each][i - 1]: each for each in ends} if i else {"data": None}
        found.append([below[each] for each in inputs] if i else [])
        for before, after in zip([name, *following], following, strict=False):
            assert layers[after]["inputs"] == [before], after
        for each in (name, *following):
            if "channels" in layers[each]:
                assert layers[each]["channels"] == [maps(layers, before) for before in layers[each]["inputs"]], each
    return found


def maps(layers, name):
    """The channels of a layer's output."""
    while name != "data" and "outputs" not in layers[name]:
        (name,) = layers[name]["inputs"]
    return 3 if name == "data" else layers[name]["outputs"]


def window(layer):
    """A window as `numpy_net` has it: the code rounds sizes up."""
    size, pad = ("sizeX", 0) if layer["type"] == "pool" else ("filterSize", number(layer["padding"]))
    stride = int(number(layer["stride"]))
    return {"window": int(number(layer[size])), "stride": stride, "pad": int(pad), "rounding": math.ceil, "groups": 1}


def norm(layer, settings):
    """The constants of a norm. The code that read the files divided its scale by the number of values summed."""
    size, scale = int(layer["size"]), float(settings["scale"])
    alpha = scale / size ** (1 if layer["type"] == "cmrnorm" else 2)
    return {"size": size, "k": float(settings.get("minDiv", 1)), "alpha": alpha, "beta": float(settings["pow"])}


def sides(layers, image_size):
    """The height of every output; 1 of units."""
    found = {"data": image_size}
    for name, layer in layers.items():
        side = found[layer["inputs"][0]]
        if layer["type"] == "fc":
            side = 1
        elif layer["type"] in ("conv", "local", "pool"):
            side = numpy_net.out_size(side, window(layer))
        found[name] = side
    return found


def count(layers, image_size):
    """Parameters."""
    total, side = 0, sides(layers, image_size)
    for name, layer in layers.items():
        if layer["type"] in WITH_WEIGHTS:
            below = [maps(layers, each) for each in layer["inputs"]]
            if layer["type"] == "fc":
                inputs = sum(n * side[each] ** 2 for n, each in zip(below, layer["inputs"], strict=True))
            else:
                inputs = sum(below) * window(layer)["window"] ** 2
            places = side[name] ** 2 if layer["type"] == "local" else 1
            total += places * (inputs + 1) * layer["outputs"]
    return total


def forward(layers, settings, weights, x):
    """The outputs of all layers, in testing. weights: name → (a kernel for each input, the biases)."""
    found = {"data": np.asarray(x, float)}
    for name, layer in layers.items():
        inputs = [found[each] for each in layer["inputs"]]
        if layer["type"] in WITH_WEIGHTS:
            product, op = numpy_net.WEIGHTED[layer["type"]], layer["type"] != "fc" and window(layer)
            kernels, bias = weights[name]
            y = bias + sum(product(op, x, kernel, 0)[0] for x, kernel in zip(inputs, kernels, strict=True))
        elif layer["type"] == "pool":
            y, _ = numpy_net.pool(window(layer) | {"average": layer["pool"] == "avg"}, *inputs)
        elif layer["type"] == "hs":
            y = float(layer["keep"]) * inputs[0]
        else:
            y, _ = getattr(numpy_net, WORDS[layer["type"]])(norm(layer, settings[name]), *inputs)
        found[name] = np.maximum(y, 0) if layer.get("neuron") == "relu" else y
    return found


def changes(path):
    """What the notes at the end of a parameter file say of its first training.

    Returns:
      the first rates of weights by layer, '' for all others; every change of them by hand as (epoch, layer or '' for
      all, rate); the epoch that ended colour noise; and the one that ended the training. None for what is not noted.
    """
    first, found, noise_off, epoch = {"": 0.01}, [], None, None
    for line in (DIRECTORY / path).read_text().splitlines():
        if not line.startswith("#"):
            continue
        if begins := re.match(r"# init epsw ([\d.]+), ([\d.]+) on (\w+)", line):
            first = {"": float(begins[1]), begins[3]: float(begins[2])}
        if at := re.match(r"# epoch ([\d.]+):", line):
            epoch = float(at[1])
        if epoch is not None:
            for change in re.finditer(
                r"(conv1 )?eps\w+ (?:to|ot) ([\d.]+)(?: from [\d.]+)?(?: on (\w+))?|([\d.]+) elsewhere", line
            ):
                layer = (change[1] or change[3] or "").strip()
                found.append((epoch, layer, float(change[2] or change[4])))
        if "color noise to 0" in line:
            noise_off = epoch
        if "killed" in line:
            return first, found, noise_off, epoch
        if "resuming for" in line:  # another training
            break
    return first, found, noise_off, None
