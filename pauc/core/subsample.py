"""A random part of a large pool, and what each of its rows stands for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.core.pool import Pool
from pauc.core.queue import is_multilabel


class Subsample(NamedTuple):
    """What of the pool enters the surrogate, and how many rows or places each stands for.

    A multiplicity is the inverse of the chance to be kept; 0 is padding.
    """

    columns: Tensor  # [K] int64, of the negatives
    multiplicity: Tensor  # [K]
    places: Tensor  # [L] int64, of the positives, in the pool's `numerator_weight`
    place_multiplicity: Tensor  # [L]


def subsample(pool: Pool, max_pool_size: int, step: Tensor) -> Subsample:
    """Return at most ``max_pool_size`` columns, drawn at random within each target's rows.

    Every observed target keeps a quota, the places that remain are shared out in proportion to its
    further rows, and within a target each row has the same chance. So the sums over kept rows,
    each times its multiplicity, are unbiased (Horvitz and Thompson, 1952), and since targets are
    drawn independently, so are sums over pairs of a positive and a negative.

    Multi-label, a row has many targets. Then that many columns are drawn for the negatives, each
    with the same chance, and independently as many places of positives, with a quota a class.

    The draw is a hash of ``step`` and the column, not a global generator: the same state gives the
    same draw, on any device and on every rank.
    """
    dtype, num_classes = pool.scores.dtype, pool.scores.shape[0]
    if is_multilabel(pool.targets):
        rows = pool.absent.all(dim=0).long()  # absent rows sort last
        positive = torch.where(pool.other.reshape(-1), num_classes, pool.own_class())
        drawn = _draw(rows, 1, max_pool_size, 2 * step, dtype)
        places = _draw(positive, num_classes, max_pool_size, 2 * step + 1, dtype)
        return Subsample(*drawn, *places)
    num_strata = max(num_classes, 2)
    stratum = torch.where(pool.other, num_strata - 1, pool.own_class())  # binary: 1 is negative
    stratum = torch.where(pool.absent, num_strata, stratum)
    drawn = _draw(stratum, num_strata, max_pool_size, step, dtype)
    return Subsample(*drawn, *drawn)


def _draw(
    stratum: Tensor, num_strata: int, count: int, key: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return at most ``count`` of the entries below ``num_strata``, and their multiplicity."""
    count = min(count, stratum.shape[0])
    sizes = torch.zeros(num_strata + 1, dtype=torch.int64, device=stratum.device)
    sizes = sizes.index_add(0, stratum, torch.ones_like(stratum))
    sizes = torch.where(torch.arange(num_strata + 1, device=sizes.device) < num_strata, sizes, 0)
    kept = _allocate(sizes, count)

    shuffled = _hash(key, stratum.shape[0], stratum.device).argsort()
    order = shuffled[stratum[shuffled].argsort(stable=True)]
    ordered = stratum[order]
    start = sizes.cumsum(0) - sizes
    rank = torch.arange(order.shape[0], device=order.device) - start[ordered]
    chosen = rank < kept[ordered]
    # Chosen entries first, in a static number of places.
    first = (~chosen).to(torch.uint8).argsort(stable=True)[:count]
    multiplicity = sizes.to(dtype) / kept.clamp(min=1).to(dtype)
    return order[first], torch.where(chosen[first], multiplicity[ordered[first]], 0.0)


def _allocate(sizes: Tensor, places: int) -> Tensor:
    """Return how many rows of each stratum are kept: a quota, the rest in proportion."""
    quota = max(1, places // (2 * (sizes.shape[0] - 1)))
    base = sizes.clamp(max=quota)
    further = sizes - base
    spare = (places - base.sum()).clamp(min=0)
    share = spare.double() * further.double() / further.sum().clamp(min=1).double()
    return base + torch.minimum(share.floor().long(), further)


def _hash(step: Tensor, count: int, device: torch.device) -> Tensor:
    """Return ``[count]`` pseudo-random int64, one per column (the mixer of splitmix64)."""
    x = (
        torch.arange(1, count + 1, device=device) * -7046029254386353131
        + step * 2685821657736338717
    )
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        # Right shifts of int64 carry the sign; masking makes them logical.
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
