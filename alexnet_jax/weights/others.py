"""Reads the nets of Caffe and torchvision from the arrays of any file format."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from alexnet_jax.model import nets
from alexnet_jax.weights import weights
from alexnet_jax.weights.weights import Convert, Names, Weights

# Red, green and blue, 0–255. Caffe's are the channel means of its ilsvrc_2012_mean file.
CAFFE_MEAN = np.array([122.67891434, 116.66876762, 104.00698793], np.float32)
TORCHVISION_MEAN = 255 * np.array([0.485, 0.456, 0.406], np.float32)
TORCHVISION_STD = (58.395, 57.12, 57.375)

# torchvision's names for the layers of one_weird_trick.
TORCHVISION_NAMES = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}


def torchvision_names(layer: str, leaf: str) -> str:
    """torchvision's keys, as features.0.weight."""
    return weights.weight_names(TORCHVISION_NAMES[layer], leaf)


def read_caffe(name: str, arrays: Mapping[str, Any], names: Names, convert: Convert) -> Weights:
    """The weights of Caffe's net `name`, which takes stretched images with channels in the order blue, green, red.

    Raises UserError as `weights.read_params`.
    """
    net = nets.NETS[name].with_classes(_num_classes(arrays, names("fc8", "bias")))
    params = weights.read_params(net, arrays, names, convert)
    params["conv1"]["kernel"] = np.ascontiguousarray(params["conv1"]["kernel"][:, :, ::-1])
    model = weights.build_model(name, stretch=True)
    return Weights(model, params, CAFFE_MEAN, weights.class_names(net.num_classes))


def read_torchvision(arrays: Mapping[str, Any]) -> Weights:
    """The weights of torchvision's AlexNet, which takes standardised pixels. Raises as `weights.read_params`."""
    model = weights.build_model("one_weird_trick", input_std=TORCHVISION_STD)
    net = weights.build_net(model, _num_classes(arrays, torchvision_names("fc8", "bias")))
    params = weights.read_params(net, arrays, torchvision_names, weights.from_channels_first)
    return Weights(model, params, TORCHVISION_MEAN, weights.class_names(net.num_classes))


def _num_classes(arrays, key):
    return len(arrays[key]) if np.ndim(arrays.get(key)) == 1 else 1000
