"""What the benchmarks count, and what they rely on; the figures themselves are for a quiet machine."""

import os
import subprocess
import sys

import pytest

from experiments.benchmarks import train_step


def test_operations_of_a_step():
    # Two for each of 724,406,816 multiply-accumulates, three times; but no gradient of conv1's input, 105,415,200.
    assert train_step.operations() == 2 * (3 * 724_406_816 - 105_415_200)


KEPT = """
import resource
import numpy as np
from alexnet_jax import commands

commands.keep_freed_memory()

def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(64 << 20, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

touch()
print(touch())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "0"}, False)])
def test_freed_memory_is_used_again_without_new_pages_unless_told_otherwise(environment, kept):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", KEPT]
    faults = int(subprocess.run(command, env=inherited | environment, check=True, capture_output=True).stdout)
    assert (faults < 100) is kept
