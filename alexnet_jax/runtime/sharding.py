"""The mesh ('data', 'model'), and how parameters and batches are sharded over it.

'model' holds the towers, 'data' the parts of a batch. The device in row d and column m works on the d-th part of every
batch with the m-th share of every tower layer's parameters.
"""

import functools
import logging
import os
from typing import TYPE_CHECKING, Any, TypedDict

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alexnet_jax import UserError

if TYPE_CHECKING:
    from alexnet_jax.model import spec

log = logging.getLogger("alexnet_jax")


class Axes(TypedDict):
    """Arguments of JAX's functions that make a mesh."""

    axis_names: tuple[str, str]
    axis_types: tuple[AxisType, AxisType]


# Auto: shard_map's in_specs and out_specs shard the arrays, whatever their layout. Explicit axes would make the layout
# part of an array's type, which JAX 0.11 and later compare with in_specs, even for a ShapeDtypeStruct.
AXES: Axes = {"axis_names": ("data", "model"), "axis_types": (AxisType.Auto, AxisType.Auto)}
BATCH = PartitionSpec("data")
WHOLE = "all_of_"  # begins the names of a batch's arrays that are not divided: `cache.resident`

# The variables that decide on the devices.
ENVIRONMENT = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")
MOST_CPU_DEVICES = 1024  # each has threads of its own

# The values of JAX's settings that decide on types and random numbers. JAX takes others from its environment, as
# JAX_ENABLE_X64=1, and a notebook may have set them.
NUMERICS = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_random_seed_offset": 0,
    "jax_threefry_partitionable": True,
}


def set_numerics() -> None:
    """Gives JAX the settings of `NUMERICS`, whatever the environment has."""
    for name, value in NUMERICS.items():
        jax.config.update(name, value)


def check_numerics() -> None:
    """Raises UserError if a setting of JAX is not that of `NUMERICS`: a run's numbers would be others."""
    for name, value in NUMERICS.items():
        if getattr(jax.config, name) != value:
            raise UserError(
                f"JAX's setting {name} is {getattr(jax.config, name)!r}, which changes the numbers of a run; call "
                f"jax.config.update({name!r}, {value!r})"
            )


def provide_cpu_devices(number: int) -> None:
    """Gives a process without accelerators `number` virtual devices, unless its environment sets another number.

    Call it before anything else asks JAX for devices. If the process has already used JAX, as a notebook's kernel may,
    the devices do not change, and a warning is logged if they are too few. Accelerators are not affected.

    Raises:
      UserError: the environment sets an impossible number.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    given = os.environ.get("JAX_NUM_CPU_DEVICES", "1")
    if not given.isdecimal() or not 1 <= int(given) <= MOST_CPU_DEVICES:
        raise UserError(f"the environment's JAX_NUM_CPU_DEVICES={given}: must be from 1 to {MOST_CPU_DEVICES}")
    if "JAX_NUM_CPU_DEVICES" in os.environ or "xla_force_host_platform_device_count" in flags:
        return
    try:
        jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError:  # JAX has made its devices
        if jax.default_backend() == "cpu" and (count := jax.device_count()) < number:
            log.warning("JAX has already started with %d CPU device(s); restart Python to get %d", count, number)


def devices() -> list[jax.Device]:
    """The devices of all processes. Raises UserError if JAX cannot start, which its environment decides."""
    try:
        return jax.devices()
    except (AssertionError, RuntimeError) as error:
        set_here = ", ".join(f"{name}={os.environ[name]}" for name in ENVIRONMENT if name in os.environ)
        advice = f"check the environment: {set_here}" if set_here else "check the installation of jax"
        cause = str(error).partition("\n")[0] or "no such devices"
        raise UserError(f"JAX has no devices ({cause}); {advice}") from error


def create_mesh(data: int, model: int, towers: int) -> Mesh:
    """The mesh of `data` × `model` devices; data = -1 uses all devices.

    If there are fewer devices than towers, each device runs all towers, which is logged.

    Raises:
      UserError: the towers or the devices cannot be divided like that, or JAX has other settings than `NUMERICS`.
    """
    check_numerics()
    count = len(devices())
    if model < 1 or towers % model:
        others = " or 1" if towers > 1 else ", as configs/one_gpu.py does"
        raise UserError(
            f"config.mesh.model={model}: the net has {towers} tower(s); set --config.mesh.model={towers}{others}"
        )
    if model > count:
        log.info("%d device(s) for %d towers: all towers run on each device", count, towers)
        model = 1
    if data == -1:
        data = count // model
    if data < 1:
        raise UserError(f"config.mesh.data={data}: use -1 for all devices, or a number above 0")
    if data * model > count:
        raise UserError(
            f"config.mesh: data={data} × model={model} needs {data * model} devices and there are {count}; use "
            "--config.mesh.data=-1 for all devices (on CPU, JAX_NUM_CPU_DEVICES=N gives N virtual devices)"
        )
    return jax.make_mesh((data, model), **AXES, devices=jax.devices()[: data * model])


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': what the devices are that run the `shard_map` being traced; 'cpu' outside of one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else "cpu"


def compiler_options(mesh: Mesh) -> dict[str, str]:
    """XLA's options for compiling a net for the devices of a mesh, for `jax.jit`."""
    # On CPU, XLA would run convolutions by YNNPACK, which trains AlexNet at little more than half the speed of Eigen.
    # Matrix products stay with YNNPACK: Eigen is eight times slower if the second matrix is transposed.
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
    return options if mesh.devices.flat[0].platform == "cpu" and _known(tuple(options.items())) else {}


@functools.cache
def _known(options):
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:  # an XLA without YNNPACK, or without this experimental option
        return False
    return True


def param_specs(net: "spec.Net", params: Any) -> Any:
    """A PartitionSpec for every parameter: layers are sharded on their last axis; the last layer is replicated."""

    def of_leaf(path, leaf):
        replicated = path[0].key == net.last.name
        return PartitionSpec() if replicated else PartitionSpec(*[None] * (leaf.ndim - 1), "model")

    return jax.tree_util.tree_map_with_path(of_leaf, params)


def param_shardings(mesh: Mesh, net: "spec.Net", params: Any) -> Any:
    """`param_specs` on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), param_specs(net, params))


def state_shardings(mesh: Mesh, net: "spec.Net", params: Any, opt_state: Any) -> Any:
    """A sharding for every array of an optimiser's state: that of its parameter, or replicated.

    An array belongs to a parameter if its path ends like the parameter's and it has the same shape.
    """
    shardings = param_shardings(mesh, net, params)

    def of_leaf(path, leaf):
        layer, name = (getattr(key, "key", None) for key in path[-2:]) if len(path) > 1 else (None, None)
        if name in params.get(layer, {}) and params[layer][name].shape == leaf.shape:
            return shardings[layer][name]
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(of_leaf, opt_state)


def owned_rows(mesh: Mesh, batch_size: int) -> slice:
    """The slice of a global batch that this process loads: the examples of the 'data' rows that hold its devices.

    Two processes with a tower each share a row and load the same examples.

    Raises:
      UserError: the rows do not divide the batch size, or this process has no or scattered rows.
    """
    if batch_size < 1 or batch_size % mesh.shape["data"]:
        raise UserError(
            f"config.batch_size={batch_size}: use a multiple of the mesh's {mesh.shape['data']} data rows, above 0"
        )
    own_rows = [
        row for row, devices in enumerate(mesh.devices) if any(d.process_index == jax.process_index() for d in devices)
    ]
    if not own_rows:
        raise UserError(
            f"config.mesh: {mesh.size} devices leave process {jax.process_index()} without one; use "
            "--config.mesh.data=-1, or fewer processes"
        )
    if own_rows != list(range(own_rows[0], own_rows[-1] + 1)):
        raise UserError("config.mesh: the 'data' rows of a process must be neighbours")
    per_row = batch_size // mesh.shape["data"]
    return slice(own_rows[0] * per_row, (own_rows[-1] + 1) * per_row)


def batch_specs(batch: dict[str, Any]) -> dict[str, PartitionSpec]:
    """A PartitionSpec for every array of a batch; those with names that begin with WHOLE are whole on every device."""
    return {name: PartitionSpec() if name.startswith(WHOLE) else BATCH for name in batch}


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """This process's examples (a tree of NumPy arrays) as global arrays, sharded over 'data'."""
    to_global = jax.make_array_from_process_local_data
    return jax.tree.map(lambda x: to_global(NamedSharding(mesh, BATCH), np.asarray(x)), batch)
