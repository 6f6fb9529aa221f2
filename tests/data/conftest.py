"""Data that tests of several data sets use."""

import pytest

from alexnet_jax.data.kinds import textures


@pytest.fixture
def few_textures(monkeypatch):
    monkeypatch.setattr(textures, "COUNTS", {"train": 40, "validation": 20, "test": 20})
