"""Reads bvlc_alexnet.npy: Caffe's net as a pickled dict from layers to weights and biases."""

import pathlib

import numpy as np

from alexnet_jax.weights import others, pickled, weights
from alexnet_jax.weights.weights import Weights


def read(path: pathlib.Path) -> Weights:
    """The weights in a .npy file. Raises as `pickled.read_dict` and `others.read_caffe`."""
    arrays: dict[str, np.ndarray] = {}
    for layer, (kernel, biases) in pickled.read_dict(path).items():
        arrays |= {weights.dotted(layer, "kernel"): kernel.array(), weights.dotted(layer, "bias"): biases.array()}
    return others.read_caffe("caffe", arrays, weights.dotted, weights.unchanged)
