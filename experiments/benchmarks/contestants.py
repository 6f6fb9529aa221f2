"""A net on CPU or an accelerator, in a process that times it on request.

  python experiments/benchmarks/contestants.py NAME BATCH_SIZE [--dtype=float32] [--accelerator]

For every line on stdin with `train`, `center`, `ten_crop` or `matmul`, and a number of repetitions, it prints the
median seconds of one repetition. The first one compiles. On an accelerator a repetition starts CALLS times before it
waits, as a training does, and the seconds are those of one step.
"""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from tqdm import tqdm

from alexnet_jax.runtime import command_line
from experiments.benchmarks import harness

SIZE, STORED, CLASSES = 224, 256, 1000
CALLS = 20
SQUARE = 2048  # rows and columns of the matrices whose product is timed for comparison
NAMES = {
    "alexnet_jax": "alexnet_jax, one device",
    "alexnet_jax_2": "alexnet_jax, two virtual devices",
    "pytorch": "PyTorch, eager",
    "pytorch_last": "PyTorch, eager, channels_last",
    "pytorch_compiled": "PyTorch, compiled",
    "pytorch_compiled_last": "PyTorch, compiled, channels_last",
    "pytorch_compiled_last_kept": "PyTorch, compiled, channels_last, malloc as ours",
    "flax": "plain Flax, grouped convolutions",
}
CACHED = "alexnet_jax_cached"  # with images on the device and, on accelerators, several steps in a call
PYTORCH = [name for name in NAMES if name.startswith("pytorch") and not name.endswith("kept")]
KEPT = {
    "MALLOC_TRIM_THRESHOLD_": "-1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_ARENA_MAX": "1",
}  # as keep_freed_memory


class Contestant:
    """A process of this file, with `variables` added to its environment.

    NAME@PYTHON is NAME, run by that interpreter.
    """

    def __init__(
        self,
        name: str,
        batch_size: int,
        variables: Mapping[str, str] = MappingProxyType({}),
        dtype: str = "float32",
        accelerator: bool = False,
    ):
        net, _, python = name.partition("@")
        command = [python or sys.executable, __file__, net, str(batch_size), f"--dtype={dtype}"]
        command += ["--accelerator"] if accelerator else []
        others = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "JAX_", "XLA_"))}
        environment = others | ({} if accelerator else {"JAX_PLATFORMS": "cpu"})
        environment |= (KEPT if net.endswith("kept") else {}) | dict(variables)
        self.name, pipe = name, subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdin and self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout

    def seconds(self, way: str, repeats: int = 1) -> float:
        """The median time of one repetition."""
        with contextlib.suppress(BrokenPipeError):
            print(way, repeats, file=self._input, flush=True)
        line = self._output.readline()
        if not line:
            sys.exit(f"{self.name} failed at {way}; see above")
        return float(line)

    def peak_memory(self) -> int:
        """Bytes."""
        return harness.memory("VmHWM", self._process.pid)

    def kill(self) -> None:
        """Ends the process at once; `seconds` then exits."""
        self._process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._process.wait()


def compare(names: list[str], way: str, batch_size: int, turns: int, repeats: int) -> dict[str, list[float]]:
    """{name: seconds in each turn}, where the contestants take turns; `matmul` is the fastest matrix product."""
    with contextlib.ExitStack() as stack:
        contestants = [stack.enter_context(Contestant(name, batch_size)) for name in names]
        seconds: dict[str, list[float]] = {name: [] for name in (*names, "matmul")}
        for turn in tqdm(range(turns + 1), way, unit="turn"):
            for contestant in contestants:
                measured = contestant.seconds(way, repeats)
                if turn:  # the first one compiles and fills caches
                    seconds[contestant.name].append(measured)
            products = [contestant.seconds("matmul", 9) for contestant in contestants if contestant.name != "flax"]
            seconds["matmul"].append(min(products))
        return seconds


def print_speeds(seconds: dict[str, list[float]], operations: int, way: str = "") -> dict[str, float]:
    """Prints speeds relative to PyTorch at its best, and the share of the machine's rate of matrix products.

    Returns {name: median seconds}. `operations` are those of what was timed.
    """
    medians = harness.medians(seconds)
    best = min(medians[name] for name in PYTORCH)
    rate = 2 * SQUARE**3 / medians["matmul"]
    for name in (name for name in NAMES if name in medians):
        share = operations / medians[name] / rate
        text = f"{way}{NAMES[name]:48} {best / medians[name]:5.2f}"
        print(f"{text}   {share:4.0%} of the machine's matrix products")
    return medians


def alexnet_jax(batch_size, dtype, devices, cached):
    """The program's training step on uint8 images, with augmentation, and its evaluation."""
    command_line.set_up_jax(devices)
    import jax

    from alexnet_jax.analysis import inference
    from alexnet_jax.data.base import IMAGENET
    from alexnet_jax.model import alexnet, nets
    from alexnet_jax.runtime import sharding
    from alexnet_jax.training import step as training_step
    from experiments.benchmarks import two_gpu_step

    config = two_gpu_step.load_config(batch_size)
    config.model.dtype = dtype
    net = nets.from_config(config.model)
    mesh = sharding.create_mesh(1, devices, net.towers)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, STORED, STORED, 3), np.uint8)
    label = rng.integers(0, CLASSES, batch_size, np.int32)
    batch = sharding.put_batch(mesh, {"image": image, "label": label})
    init = functools.partial(two_gpu_step.first_state, config, net, mesh)

    @functools.cache
    def params():  # for evaluation, which reads weights from a file: neither drawn by JAX nor with velocities
        shapes = alexnet.shapes(net)
        arrays = jax.tree.map(lambda shape: 0.01 * rng.standard_normal(shape.shape, np.float32), shapes)
        return jax.device_put(arrays, sharding.param_shardings(mesh, net, shapes))

    at_once = training_step.steps_at_once(mesh, cached, batch_size)
    train_steps, rates = two_gpu_step.make_steps(config, net, mesh, at_once)
    train_batch = batch
    if cached:
        everywhere = jax.NamedSharding(mesh, jax.P())
        train_batch = {sharding.WHOLE + name: jax.device_put(x, everywhere) for name, x in batch.items()}
        indices = rng.integers(0, batch_size, (batch_size, at_once), np.int32)
        train_batch |= sharding.put_batch(mesh, {"index": indices if at_once > 1 else indices[:, 0]})
    trees, step = None, 0

    def train():
        nonlocal trees, step
        if not trees:
            state = init()
            trees = state.params, state.opt_state
        *trees, values = train_steps(*trees, train_batch, step, [rates] * at_once, [True] * at_once)
        step += at_once
        return trees, values

    def classify(views):
        classify_batch = inference.make_classify([net], mesh, [IMAGENET.mean], views)
        return lambda: classify_batch([params()], batch)

    product = jax.jit(jax.numpy.matmul, compiler_options=sharding.compiler_options(mesh))
    square = jax.device_put(rng.normal(size=(SQUARE, SQUARE)).astype(np.float32))
    work = {
        "train": train,
        "center": classify(1),
        "ten_crop": classify(10),
        "matmul": lambda: product(square, square),
    }
    return work, jax.block_until_ready, at_once


def pytorch(batch_size, dtype, compiled, channels_last, accelerator):
    """The same net on float32 images, without augmentation and metrics. For ten views the net runs ten times."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if accelerator:  # as JAX computes float32, and XLA chooses convolutions
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    norm = functools.partial(nn.LocalResponseNorm, 5, alpha=5e-4, beta=0.75, k=2)  # it divides alpha by 5
    relu = functools.partial(nn.ReLU, inplace=True)
    net = nn.Sequential(
        *(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4), relu(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), relu(), norm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), relu()),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), relu()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), relu(), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, 4096), relu(), nn.Dropout()),
        *(nn.Linear(4096, 4096), relu(), nn.Dropout()),
        nn.Linear(4096, CLASSES),
    )
    x, label = 50 * torch.randn(batch_size, 3, SIZE, SIZE), torch.randint(0, CLASSES, (batch_size,))
    device = "cuda" if accelerator else "cpu"
    net, x, label = net.to(device), x.to(device), label.to(device)
    autocast = functools.partial(torch.autocast, device, torch.bfloat16, enabled=dtype == "bfloat16")
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4, fused=True)
    run = torch.compile(net) if compiled else net

    def train():
        net.train()
        optimizer.zero_grad()
        with autocast():
            loss = nn.functional.cross_entropy(run(x), label)
        loss.backward()
        optimizer.step()

    @torch.inference_mode()
    def views(number):
        net.eval()
        with autocast():
            return sum(run(x).softmax(1) for _ in range(number)).topk(5)

    square = torch.randn(SQUARE, SQUARE, device=device)
    work = {
        "train": train,
        "center": lambda: views(1),
        "ten_crop": lambda: views(10),
        "matmul": lambda: square @ square,
    }
    return work, lambda _: torch.cuda.synchronize() if accelerator else None, 1


def flax(batch_size, dtype):
    """The same net, written without regard to speed."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class AlexNet(nnx.Module):
        def __init__(self, rngs):
            conv = functools.partial(nnx.Conv, dtype=dtype, rngs=rngs)
            linear = functools.partial(nnx.Linear, dtype=dtype, rngs=rngs)
            self.conv1 = conv(3, 96, (11, 11), strides=4, padding=((0, 3), (0, 3)))
            self.conv2 = conv(96, 256, (5, 5), feature_group_count=2)
            self.conv3 = conv(256, 384, (3, 3))
            self.conv4 = conv(384, 384, (3, 3), feature_group_count=2)
            self.conv5 = conv(384, 256, (3, 3), feature_group_count=2)
            self.fc6 = linear(9216, 4096)
            self.fc7 = linear(4096, 4096)
            self.fc8 = linear(4096, CLASSES)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            x = self.pool(self.norm(nnx.relu(self.conv1(x))))
            x = self.pool(self.norm(nnx.relu(self.conv2(x))))
            x = nnx.relu(self.conv4(nnx.relu(self.conv3(x))))
            x = self.pool(nnx.relu(self.conv5(x)))
            x = self.dropout(nnx.relu(self.fc6(x.reshape(len(x), -1))))
            return self.fc8(self.dropout(nnx.relu(self.fc7(x))))

        def pool(self, x):
            return nnx.max_pool(x, (3, 3), strides=(2, 2))

        def norm(self, x):
            squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (2, 2)))
            sums = sum(squares[..., i : i + x.shape[-1]] for i in range(5))
            return x / (2 + 1e-4 * sums) ** 0.75

    model = AlexNet(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(1e-3, 0.9)), wrt=nnx.Param)
    x = 50 * jax.random.normal(jax.random.key(0), (batch_size, SIZE, SIZE, 3))
    label = jax.random.randint(jax.random.key(1), (batch_size,), 0, CLASSES)

    @nnx.jit
    def train_step(model, optimizer, x, label):
        def loss(model):
            logits = model(x).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    @nnx.jit
    def classify(model, x):
        return jax.lax.top_k(nnx.softmax(model(x)), 5)

    def train():
        model.train()
        return train_step(model, optimizer, x, label), nnx.state(model)

    def center():
        model.eval()
        return classify(model, x)

    return {"train": train, "center": center}, jax.block_until_ready, 1


def main():
    parser = command_line.Parser("experiments.benchmarks.contestants", __doc__)
    parser.add_argument("name", choices=[*NAMES, CACHED])
    parser.add_argument("batch_size", type=harness.positive)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
    parser.add_argument("--accelerator", action="store_true", help="the machine's GPU or TPU")
    args = parser.parse()
    if args.name.startswith("alexnet_jax"):
        devices = 2 if args.name.endswith("2") else 1
        work, wait, at_once = alexnet_jax(args.batch_size, args.dtype, devices, args.name == CACHED)
    elif args.name == "flax":
        work, wait, at_once = flax(args.batch_size, args.dtype)
    else:
        compiled, channels_last = "compiled" in args.name, "last" in args.name
        work, wait, at_once = pytorch(args.batch_size, args.dtype, compiled, channels_last, args.accelerator)
    calls = CALLS if args.accelerator else 1

    def repeat(function):
        for _ in range(calls):
            result = function()
        wait(result)

    for line in sys.stdin:
        way, repeats = line.split()
        seconds = harness.median_seconds(functools.partial(repeat, work[way]), int(repeats))
        print(seconds / calls / (at_once if way == "train" else 1), flush=True)


if __name__ == "__main__":
    main()
