"""AlexNet and its relatives in float64 NumPy, forward and backward: the independent witness of the project's nets.

Every layer is a function that returns its output and `back`, the map from the output's gradient to the inputs'.
Arrays are [batch, height, width, channels] and square. Each tower is computed on its own: between layers the net
carries a list with one array per tower, and a layer sees either its own tower's array or all of them side by side.
"""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# --- The nets, as data: the order of the operations, and what each word of it means in a net.

TAIL = "conv3 relu conv4 relu conv5 relu pool5 fc6 relu dropout fc7 relu dropout fc8"
ORDERS = {
    "paper": f"conv1 relu norm1 pool1 conv2 relu norm2 pool2 {TAIL}",
    "code": f"conv1 norm1 pool1 relu conv2 relu norm2 same_map_norm2 pool2 {TAIL.replace('relu pool5', 'pool5 relu')}",
    "caffenet": f"conv1 relu pool1 norm1 conv2 relu pool2 norm2 {TAIL}",
    "one_weird_trick": "conv1 relu pool1 conv2 relu pool2 conv3 relu conv4 relu conv5 relu pool5 "
    "dropout fc6 relu dropout fc7 relu fc8",
    "cifar10_figure1": "conv1 pool1 relu conv2 relu pool2 conv3 relu pool3 fc10",
    "cifar10_80sec": "conv1 pool1 relu conv2 relu pool2 conv3 relu pool3 fc64 relu fc10",
    "cifar10_18pct": "conv1 pool1 relu same_map_norm1 conv2 relu pool2 same_map_norm2 conv3 relu pool3 fc10",
    "cifar10_13pct": "conv1 relu pool1 conv2 relu pool2 local3 relu local4 relu fc10",
    "cifar10_11pct": "conv1 relu pool1 norm1 conv2 relu norm2 pool2 local3 relu local4 relu fc10",
    "cifar10_11pct_no_norm": "conv1 relu pool1 conv2 relu pool2 local3 relu local4 relu fc10",
}
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
AVERAGING = CIFAR10 | {"average": ("pool2", "pool3")}
TORCHVISION = {"pad": {"conv1": 2}, "rounding": math.floor, "dropout": (2, 1)}
NETS = {
    "two_gpu": TWO_GPU,
    "one_gpu": TWO_GPU | {"towers": 1, "maps": column(48, 128, 192, 192, 256, hidden=4096)},
    "no_overlap": TWO_GPU | {"pool": 2, "pad": {"conv1": 0, "conv2": 1, "conv5": 0}},
    "no_norm": TWO_GPU | {"norm": None},
    "no_dropout": TWO_GPU,
    "separate": TWO_GPU | {"maps": column(48, 160, 192, 192, 128, hidden=4096), "both": ("conv1",)},
    "sixth_conv": TWO_GPU | {"maps": column(48, 128, 192, 192, 128, 128, hidden=2048)},
    "no_towers": NO_TOWERS,
    "one_weird_trick": NO_TOWERS | TORCHVISION | {"maps": column(64, 192, 384, 256, 256, hidden=4096)},
    "caffe": CAFFE,
    "caffenet": CAFFE,
    "cifar10_figure1": AVERAGING | {"image": 32, "maps": {"conv1": 32, "conv2": 32, "conv3": 64}},
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
        if kind in WEIGHTED and word == words[-1]:  # one layer over all towers
            op |= {"maps": num_classes or net["classes"], "towers": 1, "both": True}
        elif kind in WEIGHTED:
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
    weights = [i for i, op in enumerate(ops) if op["kind"] in WEIGHTED]
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
        if op["kind"] not in WEIGHTED:
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
    return tuple(map(sum, transposed(totals)))


# --- Layers.


def unfold(x, op, fill=0.0):
    """The [B, out, out, window, window, C] windows of x, and the map that adds their gradients up into x's.

    The first window starts `pad` outside the array; what lies outside, also at the far edge, reads `fill`.
    """
    (batch, size, _, channels), window, stride = x.shape, op["window"], op["stride"]
    out = out_size(size, op)
    inside = slice(op["pad"], op["pad"] + size)
    extent = max(stride * (out - 1) + window, inside.stop)
    canvas = np.full((batch, extent, extent, channels), fill)
    canvas[:, inside, inside] = x
    windows = sliding_window_view(canvas, (window, window), (1, 2))[:, ::stride, ::stride][:, :out, :out]

    def fold(grad):
        canvas = np.zeros((batch, extent, extent, channels))
        reach = stride * (out - 1) + 1
        for i, j in np.ndindex(window, window):
            canvas[:, i : i + reach : stride, j : j + reach : stride] += grad[:, :, :, i, j]
        return canvas[:, inside, inside]

    return np.moveaxis(windows, 3, -1), fold


def convolution(op, x, kernel, bias):
    """kernel: [window, window, inputs of a group, outputs]; the groups' outputs follow each other."""
    windows, fold = unfold(x, op)
    groups = op["groups"]
    inputs, kernels = np.split(windows, groups, -1), np.split(kernel, groups, -1)
    out = np.concatenate([np.tensordot(i, k, 3) for i, k in zip(inputs, kernels, strict=True)], -1) + bias

    def back(grad):
        grads = np.split(grad, groups, -1)
        to_windows = [np.tensordot(g, k, (3, 3)) for g, k in zip(grads, kernels, strict=True)]
        to_kernels = [np.tensordot(i, g, ((0, 1, 2), (0, 1, 2))) for i, g in zip(inputs, grads, strict=True)]
        return fold(np.concatenate(to_windows, -1)), np.concatenate(to_kernels, -1), grad.sum((0, 1, 2))

    return out, back


def locally_connected(op, x, kernel, bias):
    """A kernel of its own at every position: [out, out, window, window, inputs, outputs]; bias [out, out, outputs]."""
    windows, fold = unfold(x, op)

    def back(grad):
        to_kernel = np.einsum("bhwijc,bhwo->hwijco", windows, grad)
        return fold(np.einsum("bhwo,hwijco->bhwijc", grad, kernel)), to_kernel, grad.sum(0)

    return np.einsum("bhwijc,hwijco->bhwo", windows, kernel) + bias, back


def dense(op, x, kernel, bias):
    """Flattens in the order height, width, channels."""
    flat = x.reshape(len(x), -1)
    return flat @ kernel + bias, lambda grad: ((grad @ kernel.T).reshape(x.shape), flat.T @ grad, grad.sum(0))


def pool(op, x):
    """Windows are clipped at the edge: an average is over the pixels inside. Equal maxima share the gradient."""
    if op["average"]:
        windows, fold = unfold(x, op)
        inside = unfold(np.ones_like(x), op)[0]
        share = inside / inside.sum((3, 4), keepdims=True)
        out = (windows * share).sum((3, 4))
    else:
        windows, fold = unfold(x, op, -np.inf)
        out = windows.max((3, 4))
        largest = windows == out[:, :, :, None, None]
        share = largest / largest.sum((3, 4), keepdims=True)
    return out, lambda grad: fold(share * grad[:, :, :, None, None])


def response_norm(op, x, window_sum):
    """x / (k + alpha * (sum of squares over the window)) ** beta.

    i is in the window around j exactly when j is in that around i, so the sum is its own transpose.
    """
    alpha, beta = op["alpha"], op["beta"]
    base = op["k"] + alpha * window_sum(x**2)

    def back(grad):
        return grad * base**-beta - 2 * alpha * beta * x * window_sum(grad * x * base ** (-beta - 1))

    return x * base**-beta, back


def window(op, index):
    return slice(max(0, index - op["size"] // 2), index + op["size"] // 2 + 1)


def norm(op, x):
    """Over `size` neighbouring maps of the tower."""
    return response_norm(
        op, x, lambda values: np.stack([values[..., window(op, c)].sum(-1) for c in range(values.shape[-1])], -1)
    )


def same_map_norm(op, x):
    """Over a window of size × size pixels of the same map."""

    def window_sum(values):
        sums = np.empty_like(values)
        for i, j in np.ndindex(values.shape[1:3]):
            sums[:, i, j] = values[:, window(op, i), window(op, j)].sum((1, 2))
        return sums

    return response_norm(op, x, window_sum)


def relu(op, x):
    return np.maximum(x, 0), lambda grad: grad * (x > 0)


def tanh(op, x):
    out = np.tanh(x)
    return out, lambda grad: grad * (1 - out**2)


def dropout(op, x, kept):
    return x * kept, lambda grad: grad * kept


def softmax_cross_entropy(logits, labels):
    """Mean over the batch, and its gradient with respect to the logits."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    rows = np.arange(len(labels))
    grad = np.exp(log_p)
    grad[rows, labels] -= 1
    return -log_p[rows, labels].mean(), grad / len(labels)


WEIGHTED = {"conv": convolution, "local": locally_connected, "fc": dense}
UNWEIGHTED = {layer.__name__: layer for layer in (pool, norm, same_map_norm, relu, tanh, dropout)}


# --- The towers.


def joined(streams):
    return np.concatenate(streams, -1)


def transposed(rows):
    return zip(*rows, strict=True)


def call(back, grad):
    return back(grad)


def weighted(op, layer, streams):
    """A layer with weights over `streams`, one array per tower; tower t makes the t-th part of the layer's outputs."""
    towers = op["towers"]
    inputs = [joined(streams)] * towers if op["both"] else streams
    kernels, biases = (np.split(np.asarray(layer[leaf], float), towers, -1) for leaf in ("kernel", "bias"))
    outs, backs = transposed(map(partial(WEIGHTED[op["kind"]], op), inputs, kernels, biases))

    def back(grads):
        to_inputs, to_kernels, to_biases = transposed(map(call, backs, grads))
        to_streams = np.split(sum(to_inputs), len(streams), -1) if op["both"] else to_inputs
        return to_streams, {"kernel": joined(to_kernels), "bias": joined(to_biases)}

    return outs, back


def unweighted(op, streams, masks):
    """An operation without weights, on each tower's array alone. masks: None in testing."""
    operands = [streams]
    if op["kind"] == "dropout":
        training, testing = op["factors"]
        kept = testing * np.ones_like(joined(streams)) if masks is None else training * masks[op["key"]]
        operands.append(np.split(kept, len(streams), -1))
    outs, backs = transposed(map(partial(UNWEIGHTED[op["kind"]], op), *operands))
    return outs, lambda grads: (list(map(call, backs, grads)), None)


def run(net, params, x, masks):
    """Logits, named outputs, and the backs of all operations."""
    streams, outputs, backs = [np.asarray(x, float)], {}, []
    for op in net.ops:
        weights = op["kind"] in WEIGHTED
        streams, back = weighted(op, params[op["key"]], streams) if weights else unweighted(op, streams, masks)
        outputs[op["key"]] = joined(streams)
        backs.append(back)
    return outputs.pop(net.ops[-1]["key"]), outputs, backs


def forward(net, params, x, masks=None):
    """Logits [B, classes] and every named output, both towers side by side. masks: name → 0/1; None in testing."""
    return run(net, params, x, masks)[:2]


def loss_and_grads(net, params, x, labels, masks=None):
    """Mean loss, and its gradient with respect to every parameter."""
    logits, _, backs = run(net, params, x, masks)
    loss, grad = softmax_cross_entropy(logits, labels)
    streams, grads = [grad], {}
    for op, back in zip(reversed(net.ops), reversed(backs), strict=True):
        streams, to_layer = back(streams)
        if to_layer:
            grads[op["key"]] = to_layer
    return loss, grads


# --- The optimiser and the pictures.


def sgd(params, velocity, grads, rates, decays, momentum=0.9):
    """v ← momentum v − decay ε w − ε gradient; w ← w + v. A leaf with ε = 0 is frozen, its velocity too."""
    new_params, new_velocity = {}, {}
    for name, layer in params.items():
        new_params[name], new_velocity[name] = {}, {}
        for leaf in layer:
            w, v, gradient, rate, decay = (
                np.asarray(tree[name][leaf], float) for tree in (params, velocity, grads, rates, decays)
            )
            step = momentum * v - decay * rate * w - rate * gradient
            new_params[name][leaf], new_velocity[name][leaf] = (w + step, step) if rate else (w, v)
    return new_params, new_velocity


def views(images, offsets, flips, mean, noise, divisor, size=224):
    """[B, size, size, 3] crops of [B, S, S, 3] images at offsets [B, 2], mirrored where flips [B], normalised.

    mean: [S, S, 3], of which the centre crop is subtracted from every crop after the flip, or [3]; noise: [B, 3].
    """
    mean = np.asarray(mean, float)
    if mean.ndim == 3:
        start = (len(mean) - size) // 2
        mean = mean[start : start + size, start : start + size]
    crops = [image[y : y + size, x : x + size] for image, (y, x) in zip(images, offsets, strict=True)]
    crops = [crop[:, ::-1] if flip else crop for crop, flip in zip(crops, flips, strict=True)]
    return (np.stack(crops).astype(float) - mean + np.asarray(noise, float)[:, None, None]) / divisor
