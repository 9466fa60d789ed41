"""Means over seeds and paired differences, with percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

RESAMPLES = 10_000


class Estimate(NamedTuple):
    mean: float
    low: float  # 95 % interval; of few seeds it is too narrow, of one it is a point
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        if self.n == 1:  # an interval of one seed is none
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


BySeed = Mapping[int, float]


def estimate(values: BySeed) -> Estimate:
    ordered = torch.tensor([values[seed] for seed in sorted(values)], dtype=torch.float64)
    n = len(ordered)
    picks = torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(0))
    means = ordered[picks].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(ordered.mean().item(), low, high, n)


def difference(values: BySeed, baseline: BySeed) -> Estimate | None:
    """Over the seeds that both have: the same rows and the same first weights."""
    common = values.keys() & baseline.keys()
    return estimate({seed: values[seed] - baseline[seed] for seed in common}) if common else None
