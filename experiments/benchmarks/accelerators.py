"""Accelerators that programs can be compiled for on a machine that has none: their numbers, and devices to compile for.

NVIDIA's devices need `pip install 'jax[cuda13]'`, Google's `pip install 'jax[tpu]'`. Their compilers run on a CPU, and
need neither a driver nor a device.
"""

import dataclasses
import importlib.metadata
import math
import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import topologies

from alexnet_jax import UserError
from alexnet_jax.runtime import sharding

PACKAGES = {"cuda": ("jax-cuda13-plugin", "jax[cuda13]"), "tpu": ("libtpu", "jax[tpu]")}  # compiler; what installs it

# What XLA asks of a GPU (GpuTargetConfigProto), less what is given for each. The multiples of threads and registers
# are the same for all NVIDIA GPUs since 2020.
CUDA_DESCRIPTION = """
gpu_device_info {{
  {description}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A device by its data sheet.

    Attributes:
      name: as its maker calls it.
      platform: 'cuda' or 'tpu'.
      operations: {dtype: floating-point operations per second}, of dense matrix products as XLA computes them in that
        dtype: a GPU takes TF32 for float32, a TPU bfloat16.
      bandwidth: of its memory, bytes per second.
      memory: bytes.
      link: what it receives per second from other devices of its box or slice, over all its links, bytes.
      outside: the same from other boxes. For a TPU it is `link`: what slices exchange is not counted.
      box: devices that `link` connects.
      description: for a GPU, the numbers of its kind in XLA's notation; for a TPU, the kind in libtpu's topologies.
    """

    name: str
    platform: str
    operations: Mapping[str, float]
    bandwidth: float
    memory: int
    link: float
    outside: float
    box: int
    description: str

    @property
    def has_compiler(self) -> bool:
        """Whether its compiler is installed."""
        try:
            importlib.metadata.version(PACKAGES[self.platform][0])
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def devices(self, count: int) -> list:
        """At least `count` devices to compile for; a TPU's slices have fixed sizes.

        Raises:
          UserError: the compiler is not installed, or takes no such device.
        """
        if not self.has_compiler:
            raise UserError(f"no compiler for {self.name}; python -m pip install '{PACKAGES[self.platform][1]}'")
        try:
            return topologies.get_topology_desc(platform=self.platform, **self._topology(count)).devices
        except jax.errors.JaxRuntimeError as error:
            cause = str(error).partition("\n")[0]
            raise UserError(f"{count} devices of {self.name} cannot be compiled for: {cause}") from error

    def _topology(self, count):
        if self.platform == "cuda":
            config = CUDA_DESCRIPTION.format(
                name=self.name, description=self.description, bandwidth=int(self.bandwidth), memory=self.memory
            )
            return {"topology_name": "", "topology": f"1x1x{count}", "target_config": config}
        if count > self.box:  # several slices
            return {"topology_name": f"{self.description}:16x16", "num_slices": -(-count // self.box)}
        if count == 1:
            return {"topology_name": f"{self.description}:1x1", "chips_per_host_bounds": [1, 1, 1]}
        log = max(2, math.ceil(math.log2(count)))
        return {"topology_name": f"{self.description}:{2 ** (log // 2)}x{2 ** (log - log // 2)}"}

    def mesh(self, data: int, model: int) -> jax.sharding.Mesh:
        """A mesh of `data` × `model` of these devices. Raises as well as `devices`."""
        devices = np.array(self.devices(data * model)[: data * model]).reshape(data, model)
        return jax.sharding.Mesh(devices, **sharding.AXES)

    @property
    def compiler_options(self) -> dict[str, str | bool]:
        """XLA's options: without a GPU it cannot measure which of several kernels is the fastest."""
        return {"xla_gpu_autotune_level": "0"} if self.platform == "cuda" else {}


def set_up() -> None:
    """Tells the compilers not to look for devices. Call it before JAX starts."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # what it keeps can be loaded on the device only
    # libtpu would ask a server of Google's cloud for these, and complain that there is none.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ["TPU_ACCELERATOR_TYPE"] = "v5litepod-1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it guards devices against a second process; here are none


# Numbers of GPUs: NVIDIA's data sheets, and XLA's descriptions (xla/backends/gpu/target_config/specs/h100_sxm.txtpb and
# a100_sxm_80.txtpb). Links: NVLink, and an adapter of 400 or 200 Gbit/s for each GPU. TPUs: cloud.google.com/tpu/docs.
ACCELERATORS = {
    "h100": Accelerator(
        name="NVIDIA H100 80GB HBM3",
        platform="cuda",
        operations={"bfloat16": 989e12, "float32": 494.7e12},
        bandwidth=3.352e12,
        memory=84_942_979_072,
        link=450e9,
        outside=50e9,
        box=8,
        description="cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 "
        "l2_cache_size: 52428800 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448",
    ),
    "a100": Accelerator(
        name="NVIDIA A100-SXM4-80GB",
        platform="cuda",
        operations={"bfloat16": 312e12, "float32": 156e12},
        bandwidth=2.039e12,
        memory=85_100_068_864,
        link=300e9,
        outside=25e9,
        box=8,
        description="cuda_compute_capability { major: 8 } core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41 "
        "l2_cache_size: 41943040 shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912",
    ),
    "tpu-v5e": Accelerator(
        name="Google TPU v5e",
        platform="tpu",
        operations={"bfloat16": 197e12, "float32": 197e12},
        bandwidth=819e9,
        memory=16 * 2**30,
        link=200e9,
        outside=200e9,
        box=256,
        description="v5e",
    ),
    "tpu-v6e": Accelerator(
        name="Google TPU v6e",
        platform="tpu",
        operations={"bfloat16": 918e12, "float32": 918e12},
        bandwidth=1640e9,
        memory=32 * 2**30,
        link=448e9,
        outside=448e9,
        box=256,
        description="v6e",
    ),
}
