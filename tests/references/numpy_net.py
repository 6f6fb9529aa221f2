"""AlexNet and its relatives in float64 NumPy, forward and backward: the independent witness of the project's nets.

Every layer is a function that returns its output and `back`, the map from the output's gradient to the inputs'.
Arrays are [batch, height, width, channels] and square. Each tower is computed on its own: between layers the net
carries a list with one array per tower, and a layer sees either its own tower's array or all of them side by side.
A net is what `net_numbers.describe` returns.
"""

from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tests.references.net_numbers import out_size

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
