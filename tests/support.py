"""What tests of several rooms build their cases from: nets, meshes and folders of images."""

import jax
import numpy as np
from PIL import Image

from alexnet_jax.model import nets
from alexnet_jax.runtime import sharding
from alexnet_jax.training import fidelity
from configs import two_gpu


def describe(net, kind="paper", **fields):
    """The net that the command line describes with these fields of `config.model`."""
    config = two_gpu.get_config()
    config.fidelity = kind
    config.model.update({"net": net} | fields)
    return nets.from_config(fidelity.resolve(config).model)


def narrow(net, kind="paper", **fields):
    """`describe` with a sixteenth of the width."""
    return describe(net, kind, width=1 / 16, **fields)


def mesh(data, model):
    return jax.make_mesh((data, model), **sharding.AXES, devices=jax.devices()[: data * model])


def on(some_mesh, params):
    """The whole net's parameters, divided over a mesh."""
    return jax.device_put(params, sharding.param_shardings(some_mesh, params))


def write_images(root, counts, size=72):
    """A folder of PNG images: split/class_0, class_1, … with so many images each."""
    rng = np.random.default_rng(0)
    for split, numbers in counts.items():
        for label, number in enumerate(numbers):
            directory = root / split / f"class_{label}"
            directory.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 156, (size, size, 3), dtype=np.uint8)
                pixels[..., label % 3] += 100
                Image.fromarray(pixels).save(directory / f"{i:03}.png")
    return root
