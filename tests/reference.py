"""The two-tower net in float64 NumPy, written from the paper and the 2012 code's size rules, not from `models.py`."""

import math

import numpy as np


def out_size(size, window, stride, pad=0):
    return 1 + math.ceil((2 * pad + size - window) / stride)


def conv(x, kernel, bias, stride=1, pad=0):
    """Windows that hang over the edge read zeros."""
    k = kernel.shape[0]
    size = out_size(x.shape[1], k, stride, pad)
    canvas = np.zeros((len(x), stride * (size - 1) + k, stride * (size - 1) + k, x.shape[3]))
    height = min(x.shape[1], canvas.shape[1] - pad)
    canvas[:, pad : pad + height, pad : pad + height] = x[:, :height, :height]
    out = np.empty((len(x), size, size, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            window = canvas[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.tensordot(window, kernel, 3) + bias
    return out


def pool(x):
    """Windows are clipped at the edge."""
    size = out_size(x.shape[1], 3, 2)
    out = np.empty((len(x), size, size, x.shape[3]))
    for i in range(size):
        for j in range(size):
            out[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    return out


def lrn(x):
    out = np.empty_like(x)
    for c in range(x.shape[3]):
        squares = (x[..., max(0, c - 2) : c + 3] ** 2).sum(-1)
        out[..., c] = x[..., c] / (2 + 1e-4 * squares) ** 0.75
    return out


def relu(x):
    return np.maximum(x, 0)


def forward(params, x):
    """Logits and both towers' outputs of every layer, in testing; each tower is computed on its own."""
    p = {name: {k: np.asarray(v, np.float64) for k, v in layer.items()} for name, layer in params.items()}

    def share(name, tower):
        kernel, bias = p[name]["kernel"], p[name]["bias"]
        half = len(bias) // 2
        mine = slice(tower * half, (tower + 1) * half)
        return kernel[..., mine], bias[mine]

    out = {
        name: []
        for name in [
            "conv1",
            "norm1",
            "pool1",
            "conv2",
            "norm2",
            "pool2",
            "conv3",
            "conv4",
            "conv5",
            "pool5",
            "fc6",
            "fc7",
        ]
    }

    def both(name):
        return np.concatenate(out[name], -1)

    for tower in (0, 1):
        out["conv1"].append(relu(conv(x, *share("conv1", tower), stride=4)))
        out["norm1"].append(lrn(out["conv1"][tower]))
        out["pool1"].append(pool(out["norm1"][tower]))
        out["conv2"].append(relu(conv(out["pool1"][tower], *share("conv2", tower), pad=2)))
        out["norm2"].append(lrn(out["conv2"][tower]))
        out["pool2"].append(pool(out["norm2"][tower]))
    for tower in (0, 1):
        out["conv3"].append(relu(conv(both("pool2"), *share("conv3", tower), pad=1)))
        out["conv4"].append(relu(conv(out["conv3"][tower], *share("conv4", tower), pad=1)))
        out["conv5"].append(relu(conv(out["conv4"][tower], *share("conv5", tower), pad=1)))
        out["pool5"].append(pool(out["conv5"][tower]))
    for previous, name in (("pool5", "fc6"), ("fc6", "fc7")):
        for tower in (0, 1):
            kernel, bias = share(name, tower)
            out[name].append(0.5 * relu(both(previous).reshape(len(x), -1) @ kernel + bias))
    logits = both("fc7") @ p["fc8"]["kernel"] + p["fc8"]["bias"]
    return logits, {name: both(name) for name in out}


def loss(params, x, labels):
    logits, _ = forward(params, x)
    log_sum = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return (log_sum - logits[np.arange(len(labels)), labels]).mean()
