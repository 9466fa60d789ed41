"""Far pairs as series: sums of powers of ``exp(-distance)``, carried from block to block by a scan.

Apart from :mod:`pauc.pairs.blocks`, which cuts the negatives into blocks: nothing here compares a
positive with a negative one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.pairs.links import DEGREE


class Flank(NamedTuple):
    """Blocks in descending order, and positives that lie below some of them."""

    gap: Tensor  # [C, n, b], how far a negative is above the lowest of its block, in `tau`
    counts: Tensor  # [C, n, b]
    drop: Tensor  # [C, n - 1], from the lowest of a block to that of the next, in `tau`
    last: Tensor  # [P] int64, the last block above a positive, among those of all classes
    z: Tensor  # [P], exp(-distance) to the lowest of that block; 0 where none is above


def make_flank(
    x: Tensor, index: Tensor, block: Tensor, y: Tensor, counts: Tensor, tau: Tensor
) -> Flank:
    """Return the flank of positives ``x [P]`` and blocks of negatives ``y [C, n, b]``.

    Args:
        index: ``[P]``, the class of each positive.
        block: ``[P]``, how many whole blocks of its class are above it.
        counts: ``[C, n, b]``, how often each negative counts.
        tau: ``[C]``, width of the link.
    """
    # Only differences of neighbouring scores are formed, so that a far outlier costs no digits.
    lowest = y[..., -1]
    last = index * y.shape[1] + (block - 1).clamp(min=0)
    distance = (lowest.flatten()[last] - x) / tau[index]
    return Flank(
        gap=(y - lowest.unsqueeze(-1)) / tau.reshape(-1, 1, 1),
        counts=counts,
        drop=(lowest[:, :-1] - lowest[:, 1:]) / tau.unsqueeze(-1),
        last=last,
        z=torch.where(block > 0, torch.exp(-distance), 0.0),
    )


def at_positives(flank: Flank, *series: list[float]) -> list[Tensor]:
    """Return ``[P]`` for each series: ``sum_k series_k sum_j counts_j exp(-k distance)`` above."""
    z, power, per_block = torch.exp(-flank.gap), flank.counts, []
    for _ in range(DEGREE):
        power = power * z
        per_block.append(power.sum(dim=-1))
    carried = _scan(torch.stack(per_block), flank.drop).flatten(1).index_select(1, flank.last)
    return [_horner(carried, flank.z, coefficients) for coefficients in series]


def at_negatives(flank: Flank, weight: Tensor, *series: list[float]) -> list[Tensor]:
    """Return ``[C, n, b]`` for each series: the transpose, summed over weighted positives."""
    classes, blocks, _ = flank.gap.shape
    per_block = weight.new_zeros(DEGREE, classes * blocks)
    for power in per_block:
        weight = weight * flank.z
        power.index_add_(0, flank.last, weight)
    upwards = per_block.reshape(DEGREE, classes, blocks).flip(-1)
    carried = _scan(upwards, flank.drop.flip(-1)).flip(-1)
    carried, z = carried.unsqueeze(-1), torch.exp(-flank.gap)
    return [_horner(carried, z, coefficients) for coefficients in series]


def _scan(per_block: Tensor, drop: Tensor) -> Tensor:
    """Return ``[degree, C, n]``: ``sum_{l <= j} per_block_l exp(-k (drop_l + ... + drop_(j-1)))``.

    By doubling: after each pass a block has summed twice as many predecessors. Every exponent is
    negative, so nothing overflows, and terms of one sign are added, so nothing cancels.
    """
    reach, decay = 1, _powers(torch.exp(-drop))
    while reach < per_block.shape[-1]:
        carried = per_block[..., :-reach] * decay
        per_block = torch.cat([per_block[..., :reach], per_block[..., reach:] + carried], dim=-1)
        decay = decay[..., reach:] * decay[..., :-reach]
        reach *= 2
    return per_block


def _powers(z: Tensor) -> Tensor:
    """Return ``z ** k`` for ``k = 1 ... degree`` as a first dimension."""
    powers = z.unsqueeze(0)
    while len(powers) < DEGREE:
        powers = torch.cat([powers, powers * powers[-1:]])
    return powers


def _horner(factors: Tensor, z: Tensor, coefficients: list[float]) -> Tensor:
    """Return ``sum_k coefficients_k factors_k z ** k``.

    The coefficients stay Python numbers: a tensor of them would be copied to an accelerator, which
    makes the host wait.
    """
    total = torch.zeros_like(z)
    for coefficient, factor in zip(reversed(coefficients), reversed(factors.unbind()), strict=True):
        total = total.add(factor, alpha=coefficient).mul_(z)
    return total
