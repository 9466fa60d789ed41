"""Evidence that a rate is above another one: likelihood ratios, and the rates they do not exclude.

What the ratios are for, and why they may be averaged, stands in :mod:`pauc.monitor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["TILTS", "log_add", "log_ratio", "log_sum", "lower_end"]

# Odds from 1.03 to 55 times the budget's. Between two tilts the log evidence grows at least 0.83
# times as fast as with the best tilt; smaller steps were no faster in `benchmarks/monitor.py`.
TILTS = tuple(2.0**k for k in range(-5, 3))
_HALVINGS = 60  # of an interval of probabilities: more than float64 can tell apart


def log_ratio(tilt: float, rate: float, alerts: int, rows: int) -> float:
    """Return the log likelihood ratio of odds ``exp(tilt)`` times those of ``rate``."""
    return tilt * alerts - rows * math.log1p(rate * math.expm1(tilt))


def lower_end(alerts: int, rows: int, error: float) -> float:
    """Return the lowest average rate that the evidence for a higher one does not exclude.

    The evidence falls with the rate, and at the observed share it is at most 1.
    """
    limit = math.log(len(TILTS) / error)

    def excluded(rate: float) -> bool:
        return log_sum([log_ratio(tilt, rate, alerts, rows) for tilt in TILTS]) >= limit

    low, high = 0.0, alerts / rows if rows else 0.0
    if not excluded(low):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excluded(middle) else (low, middle)
    return low


def log_add(a: float, b: float) -> float:
    """Return ``log(exp(a) + exp(b))``; ``b`` may be -inf."""
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def log_sum(logs: Sequence[float]) -> float:
    """Return the log of the sum of numbers whose logs are given."""
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs))
