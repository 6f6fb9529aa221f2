"""What tests of several rooms build their cases from: nets, meshes and folders of images."""

import contextlib
import functools
import os

import jax
import numpy as np
from PIL import Image

from alexnet_jax.data import augment
from alexnet_jax.data.base import IMAGENET
from alexnet_jax.model import nets
from alexnet_jax.runtime import sharding
from alexnet_jax.training import fidelity, optimizer, run_state, schedules, step
from configs import two_gpu

# Metadata of a checkpoint.
METADATA = {"data": {"class_names": ["some"], "train_images": 26}, "schedule": {}, "window": {"steps": 1}}

NOBODY = 65534  # a user without privileges


@contextlib.contextmanager
def bound_by_permissions(directory):
    """Lets the permissions of the files in a directory bind this process, also where root runs the tests."""
    if os.geteuid() == 0:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(os.getuid())


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


def on(some_mesh, net, params):
    """The whole net's parameters, divided over a mesh."""
    return jax.device_put(params, sharding.param_shardings(some_mesh, net, params))


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


def first_state(config, net, on_mesh):
    """Parameters and the optimiser's state before the first step, a dict."""
    return run_state.init(net, on_mesh, optimizer.from_config(config.optimizer, net), config.seed, {}).trees


def jitted_step(config, net, on_mesh, statistics=IMAGENET):
    """`step.train_step` of a config."""
    augmentation = augment.from_config(config.augment, net.image_size, statistics)
    return step.compile_step(net, on_mesh, augmentation, optimizer.from_config(config.optimizer, net), config.seed)


def compiled_step(config, net, on_mesh, statistics=IMAGENET):
    """The training step of a config: from (state, batch, number, rates, noise) to (state, metrics)."""
    jitted = jitted_step(config, net, on_mesh, statistics)

    def take(state, *args):
        params, opt_state, values = jitted(state["params"], state["opt_state"], *args)
        return {"params": params, "opt_state": opt_state}, values

    return take


def loss_of(config, net, devices, statistics=IMAGENET):
    """The loss of a config's step on one of some devices of a tower each: from (params, batch, step, noise)."""
    augmentation = augment.from_config(config.augment, net.image_size, statistics)
    return functools.partial(step.device_loss, net, devices, augmentation, config.seed)


def rates_of(config, net, epoch=0):
    """The learning rates of a config after some epochs, if nothing was evaluated."""
    rates = schedules.LearningRates(config, net)
    return rates(rates.schedule.init, epoch)
