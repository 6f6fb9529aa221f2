"""Weights that several tests write and damage."""

import numpy as np
import pytest

from alexnet_jax.weights.weights import dotted, unchanged
from tests.fixtures.weight_files import some_weights


@pytest.fixture(scope="module")
def whole():
    return some_weights("two_gpu")


@pytest.fixture(scope="module")
def tensors(whole):
    arrays = whole.arrays(unchanged, dotted) | {"mean": whole.mean}
    return {name: np.ascontiguousarray(x) for name, x in arrays.items()}
