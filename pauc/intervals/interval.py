"""An interval, as every function here returns it, and the checks of a confidence."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

from torch import Tensor

from pauc._public import public_in
from pauc.arrays import Answer, ArrayLike, in_kind
from pauc.checks import check_number
from pauc.metrics.inputs import Table


@public_in("pauc.intervals")
class Interval(NamedTuple):
    """An estimate and its confidence interval; each field is float64 in the metric's shape."""

    estimate: Answer  # the metric of the sample
    low: Answer  # lower end of the interval
    high: Answer  # upper end of the interval


def interval_in_kind(parts: Tensor, table: Table, scores: ArrayLike) -> Interval:
    """Return the interval from its parts, ``[3, ...]``, or ``[C, 3, ...]`` of several columns."""
    own = parts.unbind(0 if table.is_single else 1)
    return Interval(*(in_kind(part, scores) for part in own))


def normal_quantile(confidence: float) -> float:
    """Return how many standard errors hold ``confidence`` on both sides together."""
    return NormalDist().inv_cdf((1 + check_confidence(confidence)) / 2)


def check_confidence(confidence: float) -> float:
    """Return the confidence; raise unless it is a number above 0 and below 1."""
    check_number("confidence", confidence)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence!r}")
    return confidence
