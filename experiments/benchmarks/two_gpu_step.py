"""The training step of the paper's two-tower net, as the benchmarks measure it."""

from collections.abc import Callable

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from alexnet_jax.data import augment, base
from alexnet_jax.model import alexnet, counts, nets, spec
from alexnet_jax.runtime import sharding
from alexnet_jax.training import fidelity, optimizer, run_state, schedules, step
from configs import two_gpu


def load_config(batch_size: int = 128) -> ConfigDict:
    config = fidelity.resolve(two_gpu.get_config())
    config.batch_size = batch_size
    return config


NET = nets.from_config(load_config().model)


def make_step(
    config: ConfigDict, net: spec.Net, mesh: jax.sharding.Mesh, statistics: base.Statistics = base.IMAGENET
) -> tuple[jax.stages.Wrapped, dict]:
    """The compiled training step, and the learning rates that it takes."""
    rates = schedules.LearningRates(config, net)
    augmentation = augment.from_config(config.augment, net.image_size, statistics)
    train_step = step.compile_step(net, mesh, augmentation, make_optimizer(config, net), config.seed)
    return train_step, rates(rates.schedule.init, 0)


def make_steps(config: ConfigDict, net: spec.Net, mesh: jax.sharding.Mesh, at_once: int) -> tuple[Callable, dict]:
    """As `make_step`, of the function that takes up to `at_once` steps in a call."""
    augmentation = augment.from_config(config.augment, net.image_size, base.IMAGENET)
    rates = schedules.LearningRates(config, net)
    optimizer = make_optimizer(config, net)
    steps = step.compile_steps(net, mesh, augmentation, optimizer, config.seed, at_once)
    return steps, rates(rates.schedule.init, 0)


def make_optimizer(config: ConfigDict, net: spec.Net) -> optax.GradientTransformationExtraArgs:
    return optimizer.from_config(config.optimizer, net)


def first_state(config: ConfigDict, net: spec.Net, mesh: jax.sharding.Mesh) -> run_state.RunState:
    """Parameters and velocities before the first step."""
    return run_state.init(net, mesh, make_optimizer(config, net), config.seed, {})


def arguments(net: spec.Net, mesh: jax.sharding.Mesh, batch_size: int) -> tuple[dict, dict]:
    """The parameters and a batch as jax.ShapeDtypeStruct on a mesh, whose devices need not exist."""
    shapes, rows = alexnet.shapes(net), jax.NamedSharding(mesh, sharding.BATCH)
    shardings = sharding.param_shardings(mesh, net, shapes)
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
    image = (batch_size, net.stored_size, net.stored_size, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(image, np.uint8, sharding=rows),
        "label": jax.ShapeDtypeStruct((batch_size,), np.int32, sharding=rows),
    }
    return params, batch


def lower_step(config: ConfigDict, net: spec.Net, mesh: jax.sharding.Mesh) -> jax.stages.Lowered:
    """The training step of a config, ready to compile. A velocity has the shape of its parameter."""
    params, batch = arguments(net, mesh, config.batch_size)
    step, rates = make_step(config, net, mesh)
    return step.lower(params, params, batch, 0, rates, True)


def operations(devices: int = 1, views: int = 0) -> int:
    """Floating-point operations of a step for one image, on one of a row's devices; of evaluation if there are `views`.

    The image needs no gradient.
    """
    *towers, last = (row.macs for row in counts.layer_table(NET))
    macs = sum(towers) // devices + last
    return 2 * (views * macs or 3 * macs - towers[0] // devices)
