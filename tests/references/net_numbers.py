"""AlexNet and its relatives as data: the order of the operations, and what each word of it means in a net.

What `numpy_net` computes with, written from the paper and the 2012 layer files, not from the project's `nets`.
"""

import math
from types import SimpleNamespace

TAIL = "conv3 relu conv4 relu conv5 relu pool5 fc6 relu dropout fc7 relu dropout fc8"
ORDERS = {
    "paper": f"conv1 relu norm1 pool1 conv2 relu norm2 pool2 {TAIL}",
    "code": f"conv1 norm1 pool1 relu conv2 relu norm2 same_map_norm2 pool2 {TAIL.replace('relu pool5', 'pool5 relu')}",
    "caffenet": f"conv1 relu pool1 norm1 conv2 relu pool2 norm2 {TAIL}",
    "one_weird_trick": "conv1 relu pool1 conv2 relu pool2 conv3 relu conv4 relu conv5 relu pool5 "
    "dropout fc6 relu dropout fc7 relu fc8",
    "cifar10_figure1": "conv1 pool1 relu conv2 relu pool2 conv3 relu pool3 fc10",
    "cifar10_80sec": "conv1 relu pool1 conv2 relu pool2 conv3 relu pool3 fc64 relu fc10",
    "cifar10_18pct": "conv1 pool1 relu same_map_norm1 conv2 relu pool2 same_map_norm2 conv3 relu pool3 fc10",
    "cifar10_13pct": "conv1 relu pool1 conv2 relu pool2 local3 relu local4 relu fc10",
    "cifar10_11pct": "conv1 relu pool1 norm1 conv2 relu norm2 pool2 local3 relu local4 relu fc10",
    "cifar10_11pct_no_norm": "conv1 relu pool1 conv2 relu pool2 local3 relu local4 relu fc10",
}
WITH_WEIGHTS = ("conv", "local", "fc")
CODE_NETS = ("two_gpu", "one_gpu", "no_overlap", "no_norm", "no_dropout", "separate", "sixth_conv")


def column(*convs, hidden):
    """Maps and hidden units of one tower."""
    return {f"conv{i}": maps for i, maps in enumerate(convs, 1)} | {"fc6": hidden, "fc7": hidden}


TWO_GPU = {
    "towers": 2,
    "image": 224,
    "classes": 1000,
    "maps": column(48, 128, 192, 192, 128, hidden=2048),  # of each tower
    "both": ("conv1", "conv3", "conv6", "fc6", "fc7"),  # these see both towers, like the last layer
    "window": {"conv1": 11, "conv2": 5},  # else 3
    "stride": {"conv1": 4},  # else 1
    "pad": {"conv1": 0},  # else window // 2
    "groups": {},  # else 1
    "pool": 3,
    "average": (),  # the pools that average; the others take the maximum
    "rounding": math.ceil,  # of output sizes
    "norm": {"size": 5, "k": 2, "alpha": 1e-4, "beta": 0.75},
    "same_map_norm": {"size": 5, "k": 1, "alpha": 0.001 / 25, "beta": 0.75},
    "dropout": (1, 0.5),  # what kept units are multiplied by in training, and all units in testing
}
NO_TOWERS = TWO_GPU | {"towers": 1, "maps": column(96, 256, 384, 384, 256, hidden=4096)}
CAFFE = NO_TOWERS | {
    "image": 227,
    "groups": {"conv2": 2, "conv4": 2, "conv5": 2},
    "norm": {"size": 5, "k": 1, "alpha": 1e-4 / 5, "beta": 0.75},
    "dropout": (2, 1),
}
CIFAR10 = TWO_GPU | {
    "towers": 1,
    "image": 24,
    "classes": 10,
    "window": {"conv1": 5, "conv2": 5, "conv3": 5},
    "stride": {},
    "pad": {},
    "norm": {"size": 9, "k": 1, "alpha": 0.001 / 9, "beta": 0.75},
    "same_map_norm": {"size": 3, "k": 1, "alpha": 5e-5 / 9, "beta": 0.75},
}
AVERAGING = CIFAR10 | {"image": 32, "average": ("pool2", "pool3")}
TORCHVISION = {"pad": {"conv1": 2}, "rounding": math.floor, "dropout": (2, 1)}
NETS = {
    "two_gpu": TWO_GPU,
    "one_gpu": TWO_GPU | {"towers": 1, "maps": column(48, 128, 192, 192, 256, hidden=4096)},
    "no_overlap": TWO_GPU | {"pool": 2, "pad": {"conv1": 0, "conv2": 1, "conv5": 0}},
    "no_norm": TWO_GPU | {"norm": None},
    "no_dropout": TWO_GPU,
    "separate": TWO_GPU | {"maps": column(48, 160, 192, 192, 128, hidden=4096) | {"fc7": 2048}, "both": ("conv1",)},
    "sixth_conv": TWO_GPU | {"maps": column(48, 128, 192, 192, 128, 128, hidden=2048)},
    "no_towers": NO_TOWERS,
    "one_weird_trick": NO_TOWERS | TORCHVISION | {"maps": column(64, 192, 384, 256, 256, hidden=4096)},
    "caffe": CAFFE,
    "caffenet": CAFFE,
    "cifar10_figure1": AVERAGING | {"maps": {"conv1": 32, "conv2": 32, "conv3": 64}},
    "cifar10_80sec": AVERAGING | {"maps": {"conv1": 32, "conv2": 32, "conv3": 64, "fc64": 64}},
    "cifar10_18pct": AVERAGING | {"maps": {"conv1": 32, "conv2": 32, "conv3": 64}},
    "cifar10_13pct": CIFAR10 | {"maps": {"conv1": 64, "conv2": 64, "local3": 32, "local4": 32}},
    "cifar10_11pct": CIFAR10 | {"maps": {"conv1": 64, "conv2": 64, "local3": 64, "local4": 32}},
    "cifar10_11pct_no_norm": CIFAR10 | {"maps": {"conv1": 64, "conv2": 64, "local3": 64, "local4": 32}},
}


def describe(name, fidelity="paper", width=1.0, image_size=None, num_classes=None, activation="relu", without=None):
    """The image size, and the operations in order, each with its settings and the `key` of the output it writes."""
    net = NETS[name]
    order, norm = ORDERS.get(name, ORDERS["paper"]), net["norm"]
    if fidelity == "code" and name in CODE_NETS:
        order, norm = ORDERS["code"], norm and norm | {"alpha": 2e-5}  # the code divides alpha by the window's 5 maps
    if name == "sixth_conv":
        order = order.replace("fc6", "conv6 relu fc6")
    if name == "no_dropout":
        order = order.replace(" dropout", "")
    words = [word for word in order.split() if norm or "norm" not in word]
    ops, key = [], None
    for word in words:
        kind = word.rstrip("0123456789")
        key = key if kind in ("relu", "dropout") else word  # these two overwrite the output before them
        op = {"kind": activation if kind == "relu" else kind, "key": key}
        if kind in WITH_WEIGHTS and word == words[-1]:  # one layer over all towers
            op |= {"maps": num_classes or net["classes"], "towers": 1, "both": True}
        elif kind in WITH_WEIGHTS:
            maps = max(1, round(width * net["maps"][word]))
            op |= {"maps": maps, "towers": net["towers"], "both": word in net["both"]}
        if kind in ("conv", "local"):
            window = net["window"].get(word, 3)
            op |= {"window": window, "stride": net["stride"].get(word, 1), "rounding": net["rounding"]}
            op |= {"pad": net["pad"].get(word, window // 2), "groups": net["groups"].get(word, 1)}
        elif kind == "pool":
            op |= {"window": net["pool"], "stride": 2, "rounding": net["rounding"], "pad": 0}
            op |= {"average": word in net["average"]}
        elif kind in ("norm", "same_map_norm"):
            op |= norm if kind == "norm" else net["same_map_norm"]
        elif kind == "dropout":
            op |= {"factors": net["dropout"]}
        ops.append(op)
    return SimpleNamespace(image_size=image_size or net["image"], ops=remove(ops, without) if without else ops)


def remove(ops, name):
    """Takes out one layer with weights, its activation and its dropout; the next such layer sees what it saw."""
    weights = [i for i, op in enumerate(ops) if op["kind"] in WITH_WEIGHTS]
    start = next(i for i in weights if ops[i]["key"] == name)
    end = weights[weights.index(start) + 1]
    kept = [op for op in ops[start + 1 : end] if op["key"] != name and op["kind"] not in ("relu", "tanh")]
    following = ops[end] | {"both": ops[start]["both"] or ops[end]["both"]}
    return [*ops[:start], *kept, following, *ops[end + 1 :]]


def out_size(size, op):
    return 1 + op["rounding"]((2 * op["pad"] + size - op["window"]) / op["stride"])


def layers(net):
    """Name, kernel shape, bias shape and multiply-accumulates of every layer with weights."""
    size, channels = net.image_size, [3]  # of each tower's array
    for op in net.ops:
        before, size = size, out_size(size, op) if "window" in op else size
        if op["kind"] not in WITH_WEIGHTS:
            continue
        inputs, outputs = sum(channels) if op["both"] else channels[0], op["maps"] * op["towers"]
        if op["kind"] == "fc":
            kernel, bias, size = (before**2 * inputs, outputs), (outputs,), 1
        else:
            kernel, bias = (op["window"], op["window"], inputs // op["groups"], outputs), (outputs,)
        if op["kind"] == "local":
            kernel, bias = (size, size, *kernel), (size, size, *bias)
        channels = [op["maps"]] * op["towers"]
        yield op["key"], kernel, bias, math.prod(kernel) * (size**2 if op["kind"] == "conv" else 1)


def count(net):
    """Parameters, and multiply-accumulates per image."""
    totals = [(math.prod(kernel) + math.prod(bias), macs) for _, kernel, bias, macs in layers(net)]
    return tuple(map(sum, zip(*totals, strict=True)))
