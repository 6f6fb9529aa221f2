"""The net on this machine's GPU or TPU beside the same net on its CPU, whose numbers other tests compare with NumPy."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin", "jax_rocm7_plugin", "libtpu")

# The largest difference of the loss and of each gradient, relative to its largest number.
SCRIPT = """
import json, sys
import jax, numpy as np
from alexnet_jax.data import augment, base
from alexnet_jax.model import nets
from alexnet_jax.runtime import command_line, sharding
from alexnet_jax.training import step
from experiments.benchmarks import two_gpu_step

command_line.set_up_jax(1)
assert jax.devices()[0].platform != "cpu", "JAX does not find the accelerator"
dtype, batch_size = sys.argv[1], 128
config = two_gpu_step.load_config(batch_size)
config.model.dtype = dtype
net = nets.from_config(config.model)
augmentation = augment.from_config(config.augment, net.image_size, base.IMAGENET)
rng = np.random.default_rng(0)
batch = {"image": rng.integers(0, 256, (batch_size, 256, 256, 3), np.uint8), "label": np.arange(batch_size) % 1000}
found = []
for device in (jax.devices()[0], jax.devices("cpu")[0]):
    mesh = jax.sharding.Mesh(np.array([[device]]), **sharding.AXES)
    params = two_gpu_step.first_state(config, net, mesh).params
    loss = jax.shard_map(
        lambda params, batch: step.device_loss(net, 1, augmentation, 0, params, batch, 3, True)[0],
        mesh=mesh, in_specs=(jax.P(), sharding.BATCH), out_specs=jax.P(),
    )
    program = jax.jit(jax.value_and_grad(loss), compiler_options=sharding.compiler_options(mesh))
    found.append(jax.tree.map(np.asarray, program(params, sharding.put_batch(mesh, batch))))
ours, expected = (jax.tree.leaves_with_path(each) for each in found)
print(json.dumps({
    "device": jax.devices()[0].device_kind,
    "differences": {
        jax.tree_util.keystr(path): float(np.max(abs(a - b)) / np.max(abs(b)))
        for (path, a), (_, b) in zip(ours, expected)
    },
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "most"),
    [("float32", 1e-4), ("bfloat16", 0.1)],  # eight bits, rounded by every layer in both directions
)
def test_the_loss_and_the_gradients_are_those_of_a_cpu(dtype, most):
    if not any(os.path.exists(path) for path in DEVICES):
        pytest.skip("no GPU or TPU")
    if not any(importlib.util.find_spec(name) for name in PLUGINS):
        pytest.skip("the GPU or TPU needs jax[cuda13] or jax[tpu]")
    variables = {"JAX_PLATFORMS": "", "JAX_DEFAULT_MATMUL_PRECISION": "highest" if dtype == "float32" else ""}
    environment = {name: value for name, value in (os.environ | variables).items() if value}
    environment.pop("XLA_FLAGS", None)  # that of conftest.py
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT, dtype],
        env=environment, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    found = json.loads(output.stdout.splitlines()[-1])
    print(f"largest error of {dtype} on {found['device']}: {max(found['differences'].values()):.1e}")
    assert max(found["differences"].values()) < most, found
