"""Order statistics of masked scores, of one class or of all classes at once.

Everything here is detached and works on ``[M]`` or ``[C, M]``. Shapes depend on shapes alone,
unless a caller has counted its mask with ``read_values``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import Interpolation, Number
from pauc.devices import class_groups, may_look

# Up to this share of the columns, sorting the top costs less than selecting each level.
_SHALLOW = 1 / 8
# With more levels than this, one sort costs less than selecting each level.
_FEW_LEVELS = 4
_ENTRIES = 1 << 22  # that an accelerator puts in order at once, in some 64 MB


class MaskCount(NamedTuple):
    """How many entries of a mask count, as exactly as the caller knows it."""

    per_class: Tensor  # [] or [C] int64
    least: int  # a bound on the smallest of them; 0 is always true
    most: int  # a bound on the largest of them; the number of columns is always true


def count_mask(mask: Tensor, *, read_values: bool = False) -> MaskCount:
    """Count a mask ``[M]`` or ``[C, M]``.

    ``read_values`` makes the bounds exact, so that selection does less work; it costs a host
    synchronisation, and shapes then depend on data.
    """
    per_class = mask.sum(dim=-1)
    if not read_values:
        return MaskCount(per_class, least=0, most=mask.shape[-1])
    least, most = torch.stack(per_class.aminmax()).tolist()
    return MaskCount(per_class, least, most)


def masked_top(scores: Tensor, mask: Tensor, k: int, filler: float = -math.inf) -> Tensor:
    """Return the ``k`` largest masked scores, descending, padded with the filler, detached."""
    return scores.detach().masked_fill(~mask, filler).topk(k, dim=-1).values


def static_depth(level: Number, columns: int, bound: float | None = None) -> int:
    """Return how many of the largest scores to put in order where the count is not read.

    At least :func:`top_depth` of all columns. A compiled graph has the depth as a constant, so it
    must change rarely: a level that is a tensor has one depth, for all levels up to ``bound``; a
    number has one for each factor of four, so that a level that moves meets a handful of graphs.
    """
    if isinstance(level, Tensor):
        return top_depth(1.0 if bound is None else bound, columns)
    share = 1.0
    while share * columns > 16 and level <= share / 4:
        share /= 4
    return min(columns, math.floor(share * columns) + 2)


def top_depth(level: float, count: int) -> int:
    """Return how many of the largest of up to ``count`` scores reach FPR ``level``'s neighbours."""
    return min(max(count, 1), math.floor(level * max(count - 1, 0)) + 2)


def quantiles(
    scores: Tensor,
    mask: Tensor,
    groups: list[list[Number]],
    interpolation: Interpolation,
    count: MaskCount | None,
    bound: float | None = None,
) -> Tensor:
    """Return the scores ``[..., L]`` at the FPR levels of all groups, which ascend in each.

    A level that is a tensor is 0-dim, or ``[C, 1]``, one for each class; ``bound`` is for a last
    one that is a tensor. Where no entry counts, the scores have no meaning (but are finite, so that
    a gradient of 0 stays 0).
    """
    groups, levels = [group for group in groups if group], [q for group in groups for q in group]
    if scores.shape[-1] == 0:
        return scores.new_full((*scores.shape[:-1], len(levels)), math.nan)
    count = count_mask(mask) if count is None else count
    last = (count.per_class.unsqueeze(-1) - 1).clamp(min=0)
    # Positions count downwards from the largest score: FPR q is q (n - 1) rows below it. float64,
    # since float32 would move the position itself from about 10 million rows on.
    # The levels stay numbers: a tensor of them would be copied to an accelerator, and the host
    # would wait for it.
    wide = last.double()
    position = torch.cat([level * wide for level in levels], dim=-1)
    above = position.long()
    below = above if interpolation == "higher" else position.ceil().long()
    if not may_look(scores.device):
        # An accelerator orders many scores about as fast as few, and has a price for each call.
        depth = max(_depth(group[-1], count, scores.shape[-1], bound) for group in groups)
        high, low = _ordered(scores, mask, depth, above, below)
    else:
        sizes = [len(group) for group in groups]
        parts = zip(
            groups,
            torch.split(above, sizes, dim=-1),
            torch.split(below, sizes, dim=-1),
            strict=True,
        )
        found = [
            _neighbours(scores, mask, count, levels, high, low, bound)
            for levels, high, low in parts
        ]
        high, low = (torch.cat(side, dim=-1) for side in zip(*found, strict=True))
    return interpolate(high, low, position, last, interpolation)


def _depth(level: Number, count: MaskCount, columns: int, bound: float | None = None) -> int:
    """Return how many of the largest scores reach a level in any class."""
    nothing_known = count.least == 0 and count.most == columns
    if nothing_known or isinstance(level, Tensor):
        return static_depth(level, columns, bound)
    return top_depth(level, count.most)


def _neighbours(
    scores: Tensor,
    mask: Tensor,
    count: MaskCount,
    levels: list[Number],
    above: Tensor,
    below: Tensor,
    bound: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the scores at descending ranks ``above`` and ``below`` by what is fastest on a CPU."""
    deepest = _depth(levels[-1], count, scores.shape[-1], bound)
    # An unread level has no depth of its own, so that all levels are read off one ordered top.
    unread = any(isinstance(level, Tensor) for level in levels)
    if unread or deepest <= _SHALLOW * count.most or len(levels) > _FEW_LEVELS:
        return _ordered(scores, mask, deepest, above, below)
    pairs = [
        _select(scores, mask, count, float(level), above[..., [i]], below[..., [i]])
        for i, level in enumerate(levels)
    ]
    return torch.cat([p[0] for p in pairs], dim=-1), torch.cat([p[1] for p in pairs], dim=-1)


def _ordered(
    scores: Tensor, mask: Tensor, depth: int, above: Tensor, below: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the scores at two sets of descending ranks, read off the ordered top."""
    if scores.ndim == 2:
        groups = class_groups(scores.shape[0], scores.shape[1], _ENTRIES, scores.device)
        if len(groups) > 1:
            parts = [[t[group] for t in (scores, mask, above, below)] for group in groups]
            found = [_ordered(s, m, depth, a, b) for s, m, a, b in parts]
            return torch.cat([p[0] for p in found]), torch.cat([p[1] for p in found])
    values = masked_top(scores, mask, depth, torch.finfo(scores.dtype).min)
    high = values.gather(-1, above)
    return high, high if below is above else values.gather(-1, below)


def _select(
    scores: Tensor, mask: Tensor, count: MaskCount, level: float, above: Tensor, below: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the scores at descending ranks ``above`` and ``below``, each ``[..., 1]``.

    Classes have masks of different sizes, so the ranks differ by class. Only the ranks that some
    class may want are put in order, of the entries that reach down to the deepest of them.
    """
    if level > 0.5:  # the other end is nearer
        last = (count.per_class.unsqueeze(-1) - 1).clamp(min=0)
        low, high = _select(-scores, mask, count, 1 - level, last - below, last - above)
        return -high, -low
    depth, shallowest = _depth(level, count, scores.shape[-1]), 0
    if count.least > 0:
        shallowest = max(0, math.floor(level * (count.least - 1)) - 1)  # 1: rounding in 1 - level
    lowest = torch.finfo(scores.dtype).min
    entries = torch.where(mask, scores, lowest).topk(depth, dim=-1, sorted=False).values
    ordered = entries.topk(depth - shallowest, dim=-1, largest=False).values  # deepest first
    return ordered.gather(-1, depth - 1 - above), ordered.gather(-1, depth - 1 - below)


def interpolate(
    high: Tensor, low: Tensor, position: Tensor, last: Tensor, kind: Interpolation
) -> Tensor:
    """Return the value at descending ``position`` between its neighbours ``high >= low``."""
    if kind == "higher":
        return high
    if kind == "lower":
        return low
    if kind == "midpoint":
        return torch.lerp(high, low, 0.5)
    if kind == "linear":
        return torch.lerp(high, low, position.frac().to(high.dtype))
    # torch.quantile rounds the ascending position, half to even.
    nearest_is_high = (last - position).round() == last - position.floor()
    return torch.where(nearest_is_high, high, low)
