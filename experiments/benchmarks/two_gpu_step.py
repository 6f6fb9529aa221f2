"""The training step of the paper's two-tower net, as the benchmarks measure it."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from alexnet_jax import train
from alexnet_jax.data import datasets
from alexnet_jax.model import alexnet, nets, spec
from alexnet_jax.training import fidelity, optimizer
from configs import two_gpu


def load_config(batch_size: int = 128) -> ConfigDict:
    config = fidelity.resolve(two_gpu.get_config())
    config.batch_size = batch_size
    return config


NET = nets.from_config(load_config().model)


def without_images(net: spec.Net) -> datasets.Dataset:
    """A data set with the net's number of classes and default statistics."""
    return datasets.Dataset(None, None, None, tuple(map(str, range(net.num_classes))))


def make_step(
    config: ConfigDict, net: spec.Net, mesh: jax.sharding.Mesh, dataset: datasets.Dataset
) -> tuple[Callable, dict]:
    """The compiled training step, and the learning rates that it takes."""
    rates = optimizer.learning_rates(config, net, optimizer.init_schedule(), 0)
    return train.make_train_step(config, net, mesh, dataset), rates


def operations() -> int:
    """Floating-point operations of a step for one image. The input of conv1 needs no gradient."""
    macs = {row.name: row.macs for row in alexnet.layer_table(NET)}
    return 2 * (3 * sum(macs.values()) - macs["conv1"])
