"""How likely a sample looks as good as it does, although the truth breaks the promise.

The p-values of :mod:`pauc.thresholds`: of counts exactly, of weighted counts by a bound.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Tail:
    """The p-values of "at most a share ``rate`` of the trials goes wrong" for ``count`` trials.

    The table of the binomial distribution is made once, and looked up for every threshold.
    """

    def __init__(self, count: int, rate: float) -> None:
        self.count, self.rate = count, rate
        self._first, self._cdf = binomial_cdf(count, rate)

    def of_counts(self, wrong: int) -> float:
        """Return ``P(Binomial(count, rate) <= wrong)``: exact where no trial has a weight."""
        place = wrong - self._first
        return 0.0 if place < 0 else float(self._cdf[min(place, len(self._cdf) - 1)])

    def largest_within(self, limit: float) -> int:
        """Return the largest count whose p-value is at most ``limit``; 0 if there is none."""
        fitting = int((self._cdf <= limit).sum())  # the tail rises with the count
        return max(self._first + fitting - 1, 0)

    def of_weights(self, wrong: float, total: float, largest: float) -> float:
        """Return the Hoeffding-Bentkus bound for trials with weights (Bates et al. 2021).

        The share that goes wrong is ``E[w x] / E[w]``, ``x`` being 1 where a trial does and else 0.
        It is above ``rate`` where ``(w (x - rate) + largest * rate) / largest``, which lies in
        [0, 1], has a mean above ``rate``. The bound of a mean by Hoeffding (1963) and that by
        Bentkus (2004) both hold; the smaller one is returned.

        Args:
            wrong: summed weight of the trials that went wrong.
            total: summed weight of all trials.
            largest: bound on the weight of any trial, of rows to come as well.
        """
        amount = max(0.0, (wrong - self.rate * total) / largest + self.rate * self.count)
        mean = amount / self.count
        if mean >= self.rate:
            return 1.0
        hoeffding = math.exp(-self.count * _divergence(mean, self.rate))
        # A whole number that was rounded to just above must not be taken for the next.
        return min(hoeffding, math.e * self.of_counts(math.ceil(amount * (1 - 1e-12))))


def _divergence(p: float, q: float) -> float:
    """Return the divergence of a coin of chance ``p`` from one of chance ``q``, ``0 <= p < q``."""
    heads = p * math.log(p / q) if p > 0 else 0.0
    return heads + (1 - p) * math.log((1 - p) / (1 - q))


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
