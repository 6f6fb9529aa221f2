"""Builds the objects of a config. After this, its settings are only recorded, compared, and read for `init_from`."""

import dataclasses
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from alexnet_jax import UserError
from alexnet_jax.data import augment, datasets
from alexnet_jax.model import counts, nets, spec
from alexnet_jax.runtime import memory, sharding
from alexnet_jax.training import optimizer, schedules


@dataclasses.dataclass(frozen=True)
class Training:
    """The objects that a config describes: the net, the optimiser, the data and so on.

    Attributes:
      rows: the part of every global batch that this process loads.
      log_every, eval_every, save_every: steps, perhaps fractions.
    """

    net: spec.Net
    mesh: jax.sharding.Mesh
    data: datasets.Data
    augmentation: augment.Augmentation
    optimizer: optax.GradientTransformationExtraArgs
    learning_rates: schedules.LearningRates
    seed: int
    batch_size: int
    rows: slice
    total_steps: int
    log_every: float
    eval_every: float
    save_every: float

    @property
    def steps_per_epoch(self) -> float:
        return len(self.data.train) / self.batch_size

    @property
    def images(self) -> dict[str, Any]:
        """The description of the data in a checkpoint. A run can only continue on data with the same classes."""
        return {"class_names": list(self.data.class_names), "train_images": len(self.data.train)}


def check_memory(net: spec.Net, mesh: jax.sharding.Mesh, batch_size: int) -> None:
    """Raises UserError if a training on CPUs takes more memory than there is: the system would kill it."""
    if mesh.devices.flat[0].platform != "cpu":
        return
    rows = counts.layer_table(net)
    # At least the images, the weights, their gradients and velocities, and the layers' outputs, perhaps in bfloat16.
    needed = batch_size * (3 * (4 * net.image_size**2 + net.stored_size**2) + 2 * sum(row.neurons for row in rows))
    needed += 12 * sum(row.parameters for row in rows)
    available = memory.of_host() * jax.process_count()
    if needed > available:
        raise UserError(
            f"the net takes at least {needed / 1e9:,.0f} GB of memory and there are {available / 1e9:,.0f}; use a "
            "smaller config.model.width, config.model.image_size or config.batch_size"
        )


def build(config: ConfigDict) -> Training:
    """Builds the objects of a resolved config. Raises UserError if a setting or the data do not work."""
    augment.check(config.augment)
    net = nets.from_config(config.model)
    learning_rates = schedules.LearningRates(config, net)
    chosen_optimizer = optimizer.from_config(config.optimizer, net)
    name, root, orientation = config.dataset.name, config.dataset.root, config.dataset.orientation
    if net.stretch and datasets.find(name, root).cropped:
        raise UserError("config.model.stretch: a prepared set is cropped; use config.dataset.name=folder or tfds:NAME")
    data = datasets.load(name, root, net.stored_size, net.stretch, orientation)
    net = net.with_classes(len(data.class_names))
    mesh = sharding.create_mesh(config.mesh.data, config.mesh.model, net.towers)
    rows = sharding.owned_rows(mesh, config.batch_size)
    if config.batch_size > len(data.train):
        raise UserError(
            f"config.batch_size={config.batch_size}: there are only {len(data.train)} training images; use less"
        )
    steps_per_epoch = len(data.train) / config.batch_size
    if config.num_epochs * steps_per_epoch >= 2**31:
        raise UserError(f"config.num_epochs={config.num_epochs}: these are more than 2³¹ steps; use less")
    check_memory(net, mesh, config.batch_size)
    return Training(
        net=net,
        mesh=mesh,
        data=data,
        augmentation=augment.from_config(config.augment, net.image_size, data.statistics),
        optimizer=chosen_optimizer,
        learning_rates=learning_rates,
        seed=config.seed,
        batch_size=config.batch_size,
        rows=rows,
        total_steps=max(1, round(config.num_epochs * steps_per_epoch)),
        log_every=config.log_every,
        eval_every=config.eval_every * steps_per_epoch,
        save_every=config.save_every,
    )
