"""Reads bvlc_alexnet.npy: Caffe's net as a pickled dict from layers to weights and biases."""

from typing import IO

from alexnet_jax.runtime import untrusted
from alexnet_jax.weights import others, weights
from alexnet_jax.weights.weights import Weights


def read(file: IO[bytes]) -> Weights:
    """The weights in a .npy file. Raises as `untrusted.read` and `others.read_caffe`."""
    arrays, _ = untrusted.read(file, "npy")
    return others.read_caffe("caffe", arrays, weights.dotted, weights.unchanged)
