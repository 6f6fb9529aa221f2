"""What the benchmarks share: their flags, the description of the machine, median times, memory and JSON output.

Imports no framework: a process that measures PyTorch must not contain JAX.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable

from alexnet_jax.runtime import command_line


class Parser(command_line.Parser):
    """Flags for the numbers of a benchmark, and --output; with `pytorch` an error if PyTorch is missing."""

    def __init__(self, module: str, doc: str, *, pytorch: bool, **numbers: int):
        super().__init__(f"experiments.benchmarks.{module}", doc)
        self._missing = pytorch and not importlib.util.find_spec("torch")
        for name, default in numbers.items():
            self.add_argument(f"--{name}", type=positive, default=default, help=f"default {default}")
        self.add_argument("--output", type=output_file, help="a JSON file for the numbers")

    def parse(self) -> argparse.Namespace:
        args = super().parse()
        if self._missing:
            self.error("no PyTorch; python -m pip install torch --index-url https://download.pytorch.org/whl/cpu")
        return args


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def output_file(text: str) -> pathlib.Path:
    path = pathlib.Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a file in an existing directory")
    return path


def write(output: pathlib.Path | None, **result) -> None:
    """Writes the machine and the numbers of a benchmark to its --output, if given."""
    if output:
        output.write_text(json.dumps({"machine": machine()} | result, indent=1) + "\n")


def machine() -> str:
    """The processor, its cores and the versions of the frameworks."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    installed = [name for name in ("jax", "flax", "torch") if importlib.util.find_spec(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in installed)
    return f"{len(os.sched_getaffinity(0))} cores, {model[1] if model else platform.machine()}; {versions}"


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """The median time of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def memory(field: str, pid: int | str = "self") -> int:
    """VmHWM (the peak) or VmRSS of a process, in bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"{field}:\s+(\d+) kB", status)
    assert match, status
    return int(match[1]) * 1024
