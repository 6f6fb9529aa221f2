"""Means and differences of errors over seeds, their 95 % confidence intervals, and how the pages write them."""

import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.stats

SUPPORTED, CONTRADICTED, NOT_DECIDED, NOT_RUN = "supported", "contradicted", "not decided", "not run"

Interval = tuple[float, float, float]  # an estimate and the limits of its interval, which are NaN if it has none


def difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """mean(a) − mean(b) of independent samples [A] and [B], by Welch's t-test."""
    estimate = a.mean() - b.mean()
    if min(len(a), len(b)) < 2 or min(np.ptp(a), np.ptp(b)) < 1e-9:
        return estimate, np.nan, np.nan
    return (estimate, *scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95))


def paired_difference(a: np.ndarray, b: np.ndarray) -> Interval:
    """mean(a − b) of paired samples, both [N], by Student's t-test."""
    if len(a) < 2 or np.ptp(a - b) < 1e-9:
        return np.mean(a - b), np.nan, np.nan
    return (np.mean(a - b), *scipy.stats.ttest_rel(a, b).confidence_interval(0.95))


def verdict(differences: Iterable[Interval]) -> str:
    """The verdict on a claim that every difference is positive."""
    differences = list(differences)
    if all(low > 0 for _, low, _ in differences):
        return SUPPORTED
    return CONTRADICTED if any(high < 0 for _, _, high in differences) else NOT_DECIDED


def percent(fraction: float, digits: int = 1) -> str:
    return f"{100 * fraction:.{digits}f}"


def signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def interval(estimate: float, low: float, high: float) -> str:
    """In percentage points, for example +1.4 (+0.2 to +2.6)."""
    return signed(estimate) + (f" ({signed(low)} to {signed(high)})" if np.isfinite(low) else " (no interval)")


def mean_and_deviation(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean, and the sample standard deviation; NaN of too few values."""
    return (
        statistics.mean(values) if len(values) else math.nan,
        statistics.stdev(values) if len(values) > 1 else math.nan,
    )


def mean_percent(fractions: Sequence[float] | np.ndarray, digits: int = 1) -> str:
    """The mean and, of several, the standard deviation in percent, for example 40.1 ± 0.8; empty if there is none."""
    numbers = [percent(x, digits) for x in mean_and_deviation(fractions) if not math.isnan(x)]
    return " ± ".join(numbers)
