"""What progress logs where there is no terminal."""

import itertools
import types

import pytest

from alexnet_jax.runtime import progress


@pytest.mark.parametrize(
    ("total", "done", "line"),
    [
        (1_281_167, 72_000, "preparing: 72,000 of 1,281,167 images, 1,200 images/s, 16:47 left"),
        (400, 30, "preparing: 30 of 400 images, 0.50 images/s, 12:20 left"),
        (400, 0, "preparing: 0 of 400 images, 0.00 images/s, ? left"),
    ],
)
def test_a_line_has_the_rate_and_the_time_left(total, done, line, monkeypatch):
    minutes = itertools.count(0, 60)
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(minutes)))
    lines = []
    with progress.Progress(total, "image", "preparing", lines.append) as bar:
        bar.reach(done)
    assert lines == [line]
    with progress.Progress(total, "image", "preparing", lines.append, show=False) as bar:
        bar.reach(done, log=True)
    assert lines == [line]
