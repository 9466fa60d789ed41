"""Order statistics of the rows of all ranks, exactly, found by counting digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.config import Interpolation
from pauc.core.quantiles import interpolate, masked_top, top_depth
from pauc.distributed.ranks import Ranks

_DIGIT = 8  # bits that a round of selection fixes: 1 KiB of counts for each rank sought
_SHALLOW = 1 / 8  # up to this share of the columns, the top alone is searched for the edges


def quantiles_of_all(
    scores: Tensor,
    mask: Tensor,
    count: Tensor,
    groups: list[list[float]],
    kind: Interpolation,
    ranks: Ranks,
) -> Tensor:
    """Return the scores ``[C, L]`` at FPR levels, those of all ``groups`` side by side.

    As :func:`pauc.band_edges`, of all ranks' masked rows, which are ``count``.
    """
    last = (count.unsqueeze(-1) - 1).clamp(min=0)
    most, parts, positions = int(count.max()), [], []
    for levels in filter(None, groups):
        position = torch.cat([level * last.double() for level in levels], dim=-1)
        # Of `higher` and `lower`, one of the two neighbours is never looked at.
        above, below = position.floor().long(), position.ceil().long()
        sought = {"higher": above, "lower": below}.get(kind, torch.cat([above, below], dim=-1))
        depth = top_depth(levels[-1], most)
        candidates, real = scores, mask
        if depth <= _SHALLOW * scores.shape[-1]:
            # What is among all ranks' `depth` largest is among its own rank's.
            candidates = masked_top(scores, mask, depth)
            real = torch.arange(depth, device=mask.device) < mask.sum(dim=-1, keepdim=True)
        parts.append((candidates, real, sought))
        positions.append(position)
    found = []
    for position, values in zip(positions, select(parts, ranks), strict=True):
        both = values.repeat(1, 2) if kind in ("higher", "lower") else values
        high, low = both.chunk(2, dim=-1)
        found.append(interpolate(high, low, position, last, kind))
    return torch.where(count.unsqueeze(-1) > 0, torch.cat(found, dim=-1), math.nan)


def select(parts: list[tuple[Tensor, Tensor, Tensor]], ranks: Ranks) -> list[Tensor]:
    """Return the masked scores of all ranks at descending ranks, exactly.

    Counts how many scores begin with which digits, the most significant one first: 4 sums over
    ranks for float32, 8 for float64, whose size depends on how much is sought and not on the rows.

    Args:
        parts: ``(scores [C, M], mask [C, M], sought [C, R])`` each, sharing the rounds; ``sought``
            are ranks among all scores of the part, 0 for the largest, below their number.
        ranks: of which each brings its own scores.
    """
    keys = [_sortable(scores) for scores, _, _ in parts]
    bits = 8 * keys[0].element_size()
    left = torch.cat([sought for _, _, sought in parts], dim=-1)
    widths = [sought.shape[-1] for _, _, sought in parts]
    prefix = torch.zeros_like(left)
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        of_part = torch.split(prefix, widths, dim=-1)
        counts = ranks.sum(
            torch.cat(
                [
                    _count_digits(key, mask, begins, shift)
                    for key, (_, mask, _), begins in zip(keys, parts, of_part, strict=True)
                ],
                dim=1,
            )
        )
        downwards = counts.flip(-1).long()
        reached = downwards.cumsum(dim=-1)
        place = (reached <= left.unsqueeze(-1)).sum(dim=-1).clamp(max=(1 << _DIGIT) - 1)
        passed = (reached - downwards).gather(-1, place.unsqueeze(-1)).squeeze(-1)
        left = left - passed
        prefix = (prefix << _DIGIT) | ((1 << _DIGIT) - 1 - place)
    return list(torch.split(_from_sortable(prefix, parts[0][0].dtype), widths, dim=-1))


def _count_digits(key: Tensor, mask: Tensor, prefix: Tensor, shift: int) -> Tensor:
    """Return ``[C, R, 256]`` int32: the next digits of the keys that begin with a prefix."""
    digit = ((key >> shift) & ((1 << _DIGIT) - 1)).long()
    known = 8 * key.element_size() - shift - _DIGIT
    begins = (key >> (shift + _DIGIT)) & ((1 << known) - 1) if known else torch.zeros_like(key)
    counts = torch.zeros(*prefix.shape, 1 << _DIGIT, dtype=torch.int32, device=key.device)
    for r in range(prefix.shape[-1]):
        match = mask & (begins == prefix[:, r : r + 1])
        counts[:, r].scatter_add_(1, digit, match.int())
    return counts


def _sortable(scores: Tensor) -> Tensor:
    """Return integers whose bits, read without a sign, are in the order of the scores."""
    kind = torch.int64 if scores.dtype == torch.float64 else torch.int32
    bits, lowest = scores.contiguous().view(kind), torch.iinfo(kind).min
    return torch.where(bits < 0, lowest - bits, bits) ^ lowest


def _from_sortable(key: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the scores of keys in int64, the inverse of :func:`_sortable`."""
    kind = torch.int64 if dtype == torch.float64 else torch.int32
    lowest = torch.iinfo(kind).min
    signed = key ^ lowest if kind == torch.int64 else key + lowest
    return torch.where(signed < 0, lowest - signed, signed).to(kind).view(dtype)
