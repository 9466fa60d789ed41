"""Resamples of rows, and the percentiles of what is measured on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pauc.checks import check_int
from pauc.intervals.interval import check_confidence

# Entries of each scratch array: as many resamples are drawn at a time as fit (8 MB of float64), but
# at least one, whatever its size.
_CHUNK = 1 << 20

# For a product that should be whole and is rounded to just below.
_SLACK = 1e-9


def draws(
    strata: Sequence[Tensor], n_resamples: int, seed: int | torch.Generator
) -> Iterator[Tensor]:
    """Yield the row numbers of ``r`` resamples at a time, ``[r, n]`` int64, in the strata's order.

    Each stratum gives its row numbers; as many of them are drawn, with replacement, as it has.
    """
    device, sizes = strata[0].device, [len(rows) for rows in strata]
    generator = seed
    if not isinstance(generator, torch.Generator):
        check_int("seed", seed)
        generator = torch.Generator(device=device).manual_seed(int(generator))
    left, chunk = n_resamples, max(1, _CHUNK // sum(sizes))
    while left > 0:
        shape = (min(left, chunk), sum(sizes))
        uniform = torch.rand(
            shape, generator=generator, device=generator.device, dtype=torch.float64
        )
        parts = torch.split(uniform.to(device), sizes, dim=1)
        # The product stays below the number of rows, since the uniform is at most 1 - 2**-53.
        drawn = [rows[(part * len(rows)).long()] for rows, part in zip(strata, parts, strict=True)]
        yield torch.cat(drawn, dim=1)
        left -= shape[0]


def check_resamples(n_resamples: int, confidence: float) -> None:
    """Raise unless both are of the right kind, and the resamples enough for the confidence."""
    check_int("n_resamples", n_resamples, 1)
    tail = (1 - check_confidence(confidence)) / 2
    if (n_resamples + 1) * tail * (1 + _SLACK) < 1:
        raise ValueError(
            f"n_resamples must be at least {math.ceil((1 - _SLACK) / tail) - 1} for "
            f"confidence={confidence}, got {n_resamples}"
        )


def with_percentiles(estimate: Tensor, values: Tensor, confidence: float) -> Tensor:
    """Return ``[3, ...]``: the estimate, and the ends from the values ``[B, ...]`` of resamples.

    The ends are the ``k``-th smallest and the ``k``-th largest value, with
    ``k = floor((B + 1) (1 - confidence) / 2)``. Values that are nan are left out, and not counted
    in ``B``; an end is nan where too few are left.
    """
    ordered = values.sort(dim=0).values  # nan is last
    count = (~ordered.isnan()).sum(0, keepdim=True)
    rank = ((count + 1) * ((1 - confidence) / 2) * (1 + _SLACK)).floor().long()
    low = ordered.gather(0, (rank - 1).clamp(min=0))
    high = ordered.gather(0, (count - rank).clamp(0, len(ordered) - 1))
    ends = torch.cat([low, high]).masked_fill(rank == 0, torch.nan)
    return torch.cat([estimate.unsqueeze(0), ends])
