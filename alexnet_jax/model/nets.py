"""The nets as data: one line for each layer, in the order of Figure 2.

`spec` defines the fields, `operations` the words of `then`, and `alexnet` runs the nets.
"""

import dataclasses
import itertools
import math

from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.model import structure
from alexnet_jax.model.operations import OPERATIONS
from alexnet_jax.model.spec import Conv, Dense, Local, Net, Norm, changed

# Section 3.5 of the paper.
TWO_GPU = Net(
    towers=2,
    two_fidelities=True,
    layers=(
        Conv("conv1", 48, size=11, stride=4, then="relu norm pool"),
        Conv("conv2", 128, size=5, pad=2, bias=1, then="relu norm pool"),
        Conv("conv3", 192, size=3, pad=1, cross_tower=True, then="relu"),
        Conv("conv4", 192, size=3, pad=1, bias=1, then="relu"),
        Conv("conv5", 128, size=3, pad=1, bias=1, then="relu pool"),
        Dense("fc6", 2048, cross_tower=True, bias=1, then="relu dropout"),
        Dense("fc7", 2048, cross_tower=True, bias=1, then="relu dropout"),
        Dense("fc8", 1000, cross_tower=True),
    ),
)

# One column that connects all channels, with the recipe of the paper.
NO_TOWERS = changed(
    TWO_GPU,
    {layer.name: {"features": 2 * layer.features} for layer in TWO_GPU.layers[:-1]},
    towers=1,
    two_fidelities=False,
)

# Caffe's bvlc_alexnet: the towers' connections on one device, but a norm over the maps of both, and α/n as in the code.
CAFFE = changed(
    NO_TOWERS,
    {name: {"groups": 2} for name in ("conv2", "conv4", "conv5")}
    | {name: {"then": "relu inverted_dropout"} for name in ("fc6", "fc7")},
    norm=Norm(size=5, alpha=1e-4 / 5, k=1),
    image_size=227,
)

# The 2012 code's nets for CIFAR-10 by their test errors; the first is called by its training time. The code
# divides the norms' scales by the number of values summed. The first two see whole images.
CIFAR10_80SEC = Net(
    towers=1,
    image_size=32,
    stored_size=32,
    layers=(
        Conv("conv1", 32, size=5, pad=2, stddev=1e-4, decay=0.004, then="relu pool"),
        Conv("conv2", 32, size=5, pad=2, decay=0.004, then="relu average_pool"),
        Conv("conv3", 64, size=5, pad=2, decay=0.004, then="relu average_pool"),
        Dense("fc64", 64, stddev=0.1, decay=0.03, then="relu"),
        Dense("fc10", 10, cross_tower=True, stddev=0.1, decay=0.03),
    ),
)
CIFAR10_13PCT = Net(
    towers=1,
    image_size=24,
    stored_size=32,
    norm=Norm(size=9, alpha=0.001 / 9, k=1),
    layers=(
        Conv("conv1", 64, size=5, pad=2, stddev=1e-4, decay=0.0, then="relu pool"),
        Conv("conv2", 64, size=5, pad=2, decay=0.0, then="relu pool"),
        Local("local3", 32, size=3, pad=1, stddev=0.04, decay=0.004, then="relu"),
        Local("local4", 32, size=3, pad=1, stddev=0.04, decay=0.004, then="relu"),
        Dense("fc10", 10, cross_tower=True, decay=0.004),
    ),
)
CIFAR10_11PCT = changed(
    CIFAR10_13PCT,
    {
        "conv1": {"then": "relu pool norm"},
        "conv2": {"then": "relu norm pool"},
        "local3": {"features": 64},
        "fc10": {"decay": 0.01},
    },
)

NETS = {
    "two_gpu": TWO_GPU,
    # Section 3.2: the last convolution and the fully connected layers keep the size that they have in both towers.
    "one_gpu": changed(
        TWO_GPU, {"conv5": {"features": 256}, "fc6": {"features": 4096}, "fc7": {"features": 4096}}, towers=1
    ),
    "no_overlap": changed(TWO_GPU, {"conv2": {"pad": 1}, "conv5": {"pad": 0}}, pool=(2, 2)),
    "no_norm": changed(TWO_GPU, {}, norm=None),
    "no_dropout": changed(TWO_GPU, {name: {"then": "relu"} for name in ("fc6", "fc7")}),
    "separate": changed(
        TWO_GPU,
        {
            "conv2": {"features": 160},
            "conv3": {"cross_tower": False},
            "fc6": {"features": 4096, "cross_tower": False},
            "fc7": {"cross_tower": False},
        },
    ),
    "sixth_conv": dataclasses.replace(
        TWO_GPU,
        layers=(
            *TWO_GPU.layers[:5],
            Conv("conv6", 128, size=3, pad=1, cross_tower=True, stddev=0.03, bias=1, then="relu"),  # as in its own file
            *TWO_GPU.layers[5:],
        ),
    ),
    "no_towers": NO_TOWERS,
    # Krizhevsky's "One weird trick for parallelizing convolutional neural networks", as torchvision has it.
    "one_weird_trick": changed(
        NO_TOWERS,
        {
            "conv1": {"features": 64, "pad": 2},
            "conv2": {"features": 192},
            "conv4": {"features": 256},
            "conv5": {"then": "relu pool inverted_dropout"},
            "fc6": {"then": "relu inverted_dropout"},
            "fc7": {"then": "relu"},
        },
        norm=None,
        ceil_mode=False,
    ),
    "caffe": CAFFE,
    "caffenet": changed(CAFFE, {name: {"then": "relu pool norm"} for name in ("conv1", "conv2")}),
    # Section 3.1: four layers, whole images, "no regularization of any kind".
    "cifar10_figure1": dataclasses.replace(
        CIFAR10_80SEC,
        layers=(
            dataclasses.replace(CIFAR10_80SEC.layers[0], decay=0.0, then="pool relu"),
            *(dataclasses.replace(CIFAR10_80SEC.layers[i], decay=0.0) for i in (1, 2, 4)),
        ),
    ),
    "cifar10_80sec": CIFAR10_80SEC,
    "cifar10_18pct": dataclasses.replace(
        CIFAR10_80SEC,
        same_map_norm=Norm(size=3, alpha=5e-5 / 9, k=1),
        layers=(
            dataclasses.replace(CIFAR10_80SEC.layers[0], then="pool relu same_map_norm"),
            dataclasses.replace(CIFAR10_80SEC.layers[1], then="relu average_pool same_map_norm"),
            CIFAR10_80SEC.layers[2],
            Dense("fc10", 10, cross_tower=True, decay=1.0),
        ),
    ),
    "cifar10_13pct": CIFAR10_13PCT,
    "cifar10_11pct": CIFAR10_11PCT,
    "cifar10_11pct_no_norm": changed(CIFAR10_11PCT, {}, norm=None),
}


LARGEST_IMAGE = 8192  # pixels of a side; an image of its stored size has fewer than 2³¹ bytes


def from_config(model: ConfigDict) -> Net:
    """The net that `config.model` describes, after `fidelity.resolve`; its classes are those of `NETS`.

    A net of width w has w times the maps and units. Its initial weights are 1/√w times larger, which makes up for the
    fewer inputs of all layers but conv1: its outputs, and all after them, are 1/√w times larger.

    Raises:
      UserError: a name, the width or the size is impossible.
    """
    _check(model)
    net = NETS[model.net]
    if net.two_fidelities:
        net = as_run(net, model)
    if model.without:
        net = without(net, model.without)
    image_size = net.image_size if model.image_size is None else model.image_size
    net = dataclasses.replace(
        net,
        layers=tuple(
            dataclasses.replace(
                layer,
                features=layer.features if layer is net.last else max(1, round(model.width * layer.features)),
                stddev=layer.stddev / math.sqrt(model.width),
                then=" ".join(model.activation if word == "relu" else word for word in layer.then.split()),
            )
            for layer in net.layers
        ),
        image_size=image_size,
        input_std=tuple(model.input_std),
        stretch=model.stretch,
        dtype=model.dtype,
        stored_size=image_size * net.stored_size // net.image_size,
    )
    if image_size > LARGEST_IMAGE:
        raise UserError(f"config.model.image_size={image_size}: must be {LARGEST_IMAGE} at most")
    for layer, in_channels, side, out_side in structure.sizes(net):
        inputs = in_channels * (layer.size if isinstance(layer, Conv) else side) ** 2
        places = out_side**2 if isinstance(layer, Local) else 1
        if inputs * layer.features * places >= 2**31:
            raise UserError(
                f"config.model.width={model.width}, config.model.image_size={image_size}: give {layer.name} "
                f"{inputs * layer.features * places:.0e} weights, more than 2³¹; use less"
            )
    for layer in net.layers:
        if isinstance(layer, Conv) and layer.features % layer.groups:
            raise UserError(
                f"config.model.width={model.width}: gives {layer.name} {layer.features} maps, which its "
                f"{layer.groups} groups cannot share equally"
            )
    if not _has_windows(net):
        larger = (dataclasses.replace(net, image_size=size) for size in itertools.count(1))
        least = next(net.image_size for net in larger if _has_windows(net))
        raise UserError(f"config.model.image_size={image_size}: too small for this net, which needs {least} at least")
    return net


def _check(model):
    if model.net not in NETS:
        raise UserError(f"config.model.net: no net {model.net!r}; there are {', '.join(NETS)}")
    if not 0 < model.width < 2**31:
        raise UserError(f"config.model.width={model.width}: must be a number above 0, and less than 2³¹")
    if len(model.input_std) != 3 or not all(isinstance(s, (int, float)) and 0 < s < math.inf for s in model.input_std):
        raise UserError(f"config.model.input_std={model.input_std}: must be three numbers above 0, as (58.0,57.0,57.0)")
    activations = [name for name, operation in OPERATIONS.items() if operation.kind == "activation"]
    if model.activation not in activations:
        raise UserError(
            f"config.model.activation: no activation {model.activation!r}; there are {', '.join(activations)}"
        )
    if model.dtype not in ("float32", "bfloat16"):
        raise UserError(f"config.model.dtype: no type {model.dtype!r}; there are float32, bfloat16")


def _has_windows(net):
    return all(side and out_side for _, _, side, out_side in structure.sizes(net))


def as_run(net: Net, model: ConfigDict) -> Net:
    """The net with the fields in which paper and code differ set as in `config.model`."""
    changes = {name: {"stddev": model.conv3to5_stddev} for name in ("conv3", "conv4", "conv5")}
    for field, name in {"block1": "conv1", "block2": "conv2", "block5": "conv5"}.items():
        if unknown := set(model[field].split()) - OPERATIONS.keys():
            raise UserError(f"config.model.{field}: no {unknown.pop()!r}; there are {', '.join(OPERATIONS)}")
        changes.setdefault(name, {})["then"] = model[field]
    for field in ("norm_alpha", "conv3to5_stddev"):
        if not 0 <= model[field] < math.inf:
            raise UserError(f"config.model.{field}={model[field]}: must be a number, 0 or above")
    return changed(net, changes, norm=net.norm and dataclasses.replace(net.norm, alpha=model.norm_alpha))


def without(net: Net, name: str) -> Net:
    """The net without one of its layers, its activation and its dropout.

    Norms and pools of the layer remain under their names, as does a dropout that follows a pool. The next layer sees
    what the removed one saw.
    """
    names = [layer.name for layer in net.layers]
    if name not in names[1:-1]:
        raise UserError(f"config.model.without: no layer {name!r} to leave out; there are {', '.join(names[1:-1])}")
    i = names.index(name)
    before, removed, after = net.layers[i - 1 : i + 2]
    kept = []
    for word in removed.then.split():
        operation = OPERATIONS[structure.parse(word)[0]]
        if operation.output:
            kept.append(word + removed.number)
        elif operation.kind == "dropout" and kept:
            kept.append(word)
    before = dataclasses.replace(before, then=" ".join([before.then, *kept]))
    after = dataclasses.replace(after, cross_tower=after.cross_tower or removed.cross_tower)
    return dataclasses.replace(net, layers=(*net.layers[: i - 1], before, after, *net.layers[i + 2 :]))
