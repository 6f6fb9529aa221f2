"""Loads trained nets, one or an ensemble, from the directories of their runs."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from alexnet_jax import UserError
from alexnet_jax.data.base import normalized
from alexnet_jax.model import alexnet, nets, spec
from alexnet_jax.runtime import files, sharding
from alexnet_jax.training import checkpoint, fidelity, run_directory


@dataclasses.dataclass(frozen=True)
class Member:
    """A trained net at its newest checkpoint."""

    workdir: pathlib.Path
    dataset: str  # name and root of the training's data set; '' for a net that was imported from a file
    root: str
    orientation: str  # of its images; see `images.decode`
    devices: int  # for the towers, in training
    model: dict[str, Any]  # config.model
    net: spec.Net
    class_names: tuple[str, ...]
    mean: np.ndarray  # subtracted from its images
    step: int
    checksums: dict[str, Any]  # of its checkpoint; {} if an early version of the program saved it


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Nets with the same classes and the same input images, and their parameters on a mesh."""

    members: list[Member]
    params: list[alexnet.Params]
    mesh: jax.sharding.Mesh

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.members[0].class_names

    @property
    def orientation(self) -> str:
        return self.members[0].orientation

    @property
    def nets(self) -> list[spec.Net]:
        return [member.net for member in self.members]

    @property
    def means(self) -> list[np.ndarray]:
        return [member.mean for member in self.members]

    def batch_size(self, at_least: int) -> int:
        """The smallest batch size, `at_least` or above, that the mesh can divide."""
        rows = self.mesh.shape["data"]
        return -(-at_least // rows) * rows


def load(workdirs: Iterable[str | os.PathLike]) -> Ensemble:
    """Loads the nets of some runs' directories on all devices.

    Raises:
      UserError: a directory holds no net, or the nets cannot form an ensemble.
    """
    members = [read(files.absolute(workdir)) for workdir in workdirs]
    first = members[0]
    for other in members[1:]:
        images = [
            (member.class_names, member.net.image_size, member.net.stored_size, member.net.stretch, member.orientation)
            for member in (first, other)
        ]
        if images[0] != images[1]:
            raise UserError(
                f"--workdir={other.workdir}: its net has other classes or another image size, crop, stretch or "
                f"orientation than the net in {first.workdir}; use one at a time"
            )
    mesh = sharding.create_mesh(
        -1, min(member.devices for member in members), min(member.net.towers for member in members)
    )
    restored = [restore_newest(member, mesh) for member in members]
    return Ensemble([member for member, _ in restored], [params for _, params in restored], mesh)


def read(workdir: pathlib.Path) -> Member:
    """The `Member` of a run's directory.

    Raises:
      UserError: the directory holds no net, it is damaged, or this version of the program defines its net otherwise.
    """
    if not files.is_directory(workdir / "checkpoints"):
        raise UserError(
            f"{workdir}: holds no trained net; train one (python -m alexnet_jax.main) or import a file of weights "
            "(python -m alexnet_jax.pretrained)"
        )
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir / 'config.json'}: is missing; run the command that made the directory again")
    config = fidelity.read(workdir / "config.json")
    step, metadata = _newest(workdir)
    class_names = tuple(map(normalized, metadata["data"]["class_names"]))
    try:
        net = nets.from_config(config.model).with_classes(len(class_names))
        recorded = run_directory.read_record(workdir)
        corrected = run_directory.corrections(recorded, config, training=False) if recorded else ""
        if corrected:
            raise UserError(
                f"{workdir}: its net differs from that of this version of the program ({corrected}); use the version "
                "that trained it"
            )
        return Member(
            workdir,
            config.dataset.name,
            config.dataset.root,
            config.dataset.orientation,
            config.mesh.model,
            config.model.to_dict(),
            net,
            class_names,
            _read_mean(workdir / "mean.npy", net),
            step,
            metadata.get("checksums", {}),
        )
    except (AttributeError, TypeError) as error:
        raise UserError(f"{workdir / 'config.json'}: is not what training wrote; restore it") from error


def _newest(workdir):
    """The step and the metadata of the newest checkpoint."""
    failed = 0
    while True:
        with checkpoint.Checkpoints(workdir / "checkpoints", write=False) as checkpoints:
            step = checkpoints.latest_step
            if not step:
                raise UserError(f"{workdir}: has no checkpoint yet; wait for the first")
            try:
                return step, checkpoints.metadata(step)
            except checkpoint.UnreadableError:
                if step == failed:
                    raise
                failed = step  # a training that runs may have removed it in the meantime


def _read_mean(path, net):
    remedy = "remove it and run the command that made the directory again"
    mean = files.read_array(path, remedy)
    if mean.shape not in ((3,), (net.stored_size, net.stored_size, 3)) or mean.dtype.kind != "f":
        raise UserError(f"{path}: is not a valid mean (of shape {mean.shape}, {mean.dtype}); {remedy}")
    if not np.isfinite(mean).all():
        raise UserError(f"{path}: is not a valid mean (not finite); {remedy}")
    return mean


def restore_newest(member: Member, mesh: jax.sharding.Mesh) -> tuple[Member, alexnet.Params]:
    """A member and its parameters on a mesh; of a newer checkpoint, if a training has replaced the member's.

    Raises UserError if they cannot be read.
    """
    while True:
        try:
            return member, restore(member, mesh)
        except checkpoint.UnreadableError:
            newer = read(member.workdir)
            if newer.step == member.step:
                raise
            member = newer


def restore(member: Member, mesh: jax.sharding.Mesh) -> alexnet.Params:
    """A member's parameters on a mesh. Raises UserError if they cannot be read."""
    shapes = alexnet.shapes(member.net)
    like = jax.tree.map(
        lambda shape, s: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=s),
        shapes,
        sharding.param_shardings(mesh, member.net, shapes),
    )
    with checkpoint.Checkpoints(member.workdir / "checkpoints", write=False) as checkpoints:
        return checkpoints.restore_params(member.step, like)
