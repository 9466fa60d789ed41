"""The interval of a plain proportion."""

from __future__ import annotations

import math

from pauc.checks import check_int
from pauc.intervals.interval import Interval, normal_quantile


def wilson_interval(hits: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion (Wilson 1927): a rate at a threshold that was fixed before.

    The rate is a TPR where ``hits`` of ``trials`` positives alert, or an FPR where they are
    negatives. The threshold must not come from these rows, or the interval leaves out that other
    rows would have given another threshold: :func:`tpr_at_fpr_interval` is for that case.

    Args:
        hits: from 0 to ``trials``.
        trials: at least 1.
        confidence: above 0 and below 1.

    Returns:
        ``Interval(estimate, low, high)`` of floats.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """
    check_int("trials", trials, 1)
    check_int("hits", hits, 0)
    if hits > trials:
        raise ValueError(f"hits must be at most trials={trials}, got {hits}")
    z2 = normal_quantile(confidence) ** 2
    rate = hits / trials
    middle = rate + z2 / (2 * trials)
    margin = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2)))
    ends = ((middle - margin) / (1 + z2 / trials), (middle + margin) / (1 + z2 / trials))
    # At 0 hits the lower end is exactly 0, and at `trials` hits the upper end exactly 1; rounding
    # would miss them.
    low, high = max(0.0, ends[0]) if hits else 0.0, min(1.0, ends[1]) if hits < trials else 1.0
    return Interval(rate, low, high)
