"""The threshold to ship: chosen on held-out rows so that false alarms stay within a budget."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc._public import public
from pauc.checks import check_number
from pauc.metrics.inputs import kept_rows

__all__ = ["OperatingPoint", "select_threshold"]

# How far, relative to it, the binomial tail may be above 1 - confidence. Without this a tail of 0.1
# would be too large for a confidence of 0.9, since 1 - 0.9 is rounded to less than 0.1.
_SLACK = 1e-9


@public
class OperatingPoint(NamedTuple):
    """A threshold and what it does, as plain numbers that can be written into a configuration."""

    threshold: float  # alert where score > threshold, strictly
    fpr: float  # share of the held-out negatives above it
    tpr: float  # share of the held-out positives above it; nan without positives
    risk: float  # bound on the chance that the true FPR is above the budget


def select_threshold(
    scores: Tensor,
    targets: Tensor,
    budget: float,
    *,
    confidence: float | None = None,
    ignore_index: int = -100,
) -> OperatingPoint:
    """Return the lowest threshold that keeps the FPR of the negatives within ``budget``.

    The rule that goes with it is **alert where score > threshold**, strictly. The threshold is the
    score of a held-out negative, so that with ``>=`` that row and all that tie with it would alert.

    Without ``confidence``, at most ``floor(budget * n)`` of the ``n`` held-out negatives alert, and
    ``tpr`` is that of :func:`pauc.metrics.tpr_at_fpr`. On new rows such a threshold is over the
    budget about every second time, as ``risk`` says.

    With ``confidence``, the true FPR is within the budget with at least this probability, over the
    draw of the held-out negatives. The number of them that alert is the largest ``k`` with
    ``P(Binomial(n, budget) <= k) <= 1 - confidence`` (Tong, Feng and Li 2018, the umbrella
    algorithm); ties can only make the FPR smaller. The guarantee holds for any score, provided that
    the held-out negatives come from the same population as the negatives to come, and took no part
    in training or in the choice of the model. Nothing is assumed of the positives.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype, of held-out rows. New rows are to be scored
            in the same precision.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1; the positives are used for ``tpr`` alone.
        budget: FPR as a fraction, above 0 and below 1, read to within ``4 * eps`` as in
            :func:`pauc.metrics.tpr_at_fpr`.
        confidence: at least 0.5 and below 1, or None.
        ignore_index: target of the rows to drop.

    Returns:
        ``OperatingPoint(threshold, fpr, tpr, risk)``. ``risk`` is ``P(Binomial(n, budget) <= k)``
        for the ``k`` held-out negatives that may alert. The threshold of integer scores beyond
        2**53 is rounded to float64: compare such scores as float64.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shapes, devices or values (see :mod:`pauc.metrics`), no negatives, or
            fewer than ``confidence`` needs. The error says how many: at 95 % they are 59, 299,
            2,995 and 29,956 for a budget of 5, 1, 0.1 and 0.01 %.
    """
    _check_share("budget", budget, 0.0)
    scores, targets = kept_rows(scores, targets, ignore_index)
    negatives, positives = scores[targets == 0], scores[targets == 1]
    count = negatives.numel()
    if count == 0:
        raise ValueError(f"targets must hold negatives, got 0 and {positives.numel()} positives")
    if confidence is None:
        slack = 1 + 4 * torch.finfo(torch.float64).eps
        allowed = min(math.floor(budget * count * slack), count - 1)
    else:
        allowed = _allowed_alerts(count, budget, confidence)
    # The score of a row, and no interpolated quantile: that may lie just below a tie, all of whose
    # rows would then alert.
    threshold = negatives.sort(descending=True).values[allowed]
    first, tail = binomial_cdf(count, budget)
    return OperatingPoint(
        threshold=float(threshold),
        fpr=int((negatives > threshold).sum()) / count,
        tpr=int((positives > threshold).sum()) / positives.numel() if len(positives) else math.nan,
        risk=float(tail[allowed - first]) if allowed >= first else 0.0,
    )


def binomial_cdf(count: int, rate: float) -> tuple[int, Tensor]:
    """Return ``first`` and ``[K]`` float64, ``P(Binomial(count, rate) <= first + i)`` at index i.

    Below ``first`` the probability is too small for float64, and behind the last index it is 1
    (Chernoff 1952), so that ``K`` is at most some ``100 sqrt(count * rate) + 600``. The
    probabilities are products of the ratios of neighbours, from the mode outwards, scaled to a sum
    of 1. The logarithm of a factorial would lose 8 digits at ``count = 1e7``.
    """
    mean = count * rate
    spread = 40 * math.sqrt(mean)
    first = max(0, math.floor(mean - spread))
    last = min(count, math.ceil(mean + spread + 600))
    mode = min(max(math.floor((count + 1) * rate), first), last)
    k = torch.arange(first + 1, last + 1, dtype=torch.float64, device="cpu")
    # log of P(k) / P(k - 1), for each k after the first
    step = ((count - k + 1) / k * (rate / (1 - rate))).log()
    upwards = step[mode - first :].cumsum(0)
    downwards = -step[: mode - first].flip(0).cumsum(0).flip(0)
    log_weight = torch.cat([downwards, step.new_zeros(1), upwards])
    return first, log_weight.softmax(0).cumsum(0)


def _allowed_alerts(count: int, budget: float, confidence: float) -> int:
    """Return the largest number of alerts among ``count`` negatives that ``confidence`` admits.

    Raises:
        TypeError: ``confidence`` is no number.
        ValueError: it is out of its range, or not reached even without an alert: too few negatives.
    """
    _check_share("confidence", confidence, 0.5)
    limit = (1 - confidence) * (1 + _SLACK)
    needed = math.ceil(math.log(limit) / math.log1p(-budget))
    if count < needed:
        raise ValueError(
            f"targets must hold at least {needed} negatives for budget={budget} with "
            f"confidence={confidence}, got {count}"
        )
    first, tail = binomial_cdf(count, budget)
    fitting = int((tail <= limit).sum())  # the tail rises with k
    return max(first + fitting - 1, 0)


def _check_share(name: str, value: object, least: float) -> None:
    """Raise unless ``value`` is a number above 0 and below 1, and at least ``least``."""
    check_number(name, value)
    if not (0 < value < 1 and value >= least):  # type: ignore[operator]
        expected = "above 0" if least == 0 else f"at least {least}"
        raise ValueError(f"{name} must be {expected} and below 1, got {value!r}")
