"""Progress with the time left: a bar on a terminal, otherwise a log line every half minute."""

import sys
import time
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

from alexnet_jax.runtime.text import printable

EVERY = 30  # seconds between two lines


class Progress:
    """Progress through `total` items of a kind ('image'). As a context manager, it removes its bar at the end."""

    def __init__(self, total: int, unit: str, description: str, log: Callable[[str], None], show: bool = True):
        """`log` prints a line. Processes other than the first pass `show=False`, which prints nothing."""
        self._total, self._unit, self._description, self._log = total, unit, description, log
        self._began = self._logged = time.monotonic()
        show_bar = show and sys.stderr.isatty()
        self._log_lines = show and not show_bar
        self._bar = tqdm(
            total=total, desc=printable(description), unit=unit, leave=False, smoothing=0.05, disable=not show_bar
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def reach(self, done: int, log: bool = False) -> None:
        """Shows that `done` items are done: on the bar, or by a log line if one is due or `log` is set."""
        self._bar.update(done - self._bar.n)
        now = time.monotonic()
        if self._log_lines and (log or now - self._logged > EVERY):
            self._logged = now
            rate = done / max(now - self._began, 1e-9)
            speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
            left = time_left(self._total - done, rate)
            self._log(
                f"{self._description}: {done:,} of {self._total:,} {self._unit}s, {speed} {self._unit}s/s, {left}"
            )


def time_left(items: float, rate: float) -> str:
    """How long `items` take at a rate in items per second, as '01:30 left'."""
    return f"{tqdm.format_interval(items / rate)} left" if rate else "? left"
