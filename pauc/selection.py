"""Order statistics of masked scores: the band's edges and the yardstick of the temperature.

Everything here is detached, works on ``[M]`` or ``[C, M]`` at once, and has shapes that depend on
shapes alone, never on data.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import Interpolation, TauScale, check_band, check_choice, check_int

# Up to this share of the columns, sorting the top costs less than selecting each level.
_SHALLOW = 1 / 8
# With more levels than this, one sort costs less than selecting each level.
_FEW_LEVELS = 4

_INTERPOLATIONS = ("linear", "lower", "higher", "nearest", "midpoint")
_SCALES = ("iqr", "band", "unit")


class BandEdges(NamedTuple):
    """Thresholds of a band of FPR; ``[]`` and ``[K]`` for one class, ``[C]`` and ``[C, K]``."""

    t_alpha: Tensor  # score at FPR alpha, the upper edge
    t_beta: Tensor  # score at FPR beta, the lower edge
    knots: Tensor  # scores at K evenly spaced FPRs from alpha to beta, in descending order


def band_edges(
    scores: Tensor,
    mask: Tensor,
    alpha: float,
    beta: float,
    *,
    n_knots: int = 2,
    interpolation: Interpolation = "higher",
    count: Tensor | None = None,
) -> BandEdges:
    """Return the score thresholds of the FPR band ``[alpha, beta]``, detached.

    With ``n`` reference rows sorted upwards, the threshold of FPR ``q`` sits at position
    ``(1 - q) (n - 1)``; FPR 0 is the largest score.

    Args:
        scores: ``[M]`` or ``[C, M]``, floating.
        mask: bool of the same shape: the reference set, usually the iid negatives.
        alpha, beta: the band as fractions, ``0 <= alpha < beta <= 1``.
        n_knots: thresholds to return, at least 2.
        interpolation: between order statistics, as in :func:`torch.quantile`.
        count: ``mask.sum(-1)`` where the caller has it already.

    Returns:
        Thresholds in the dtype of ``scores``; nan for a class without reference rows.

    Raises:
        TypeError, ValueError: an option out of its range, or a mask of another shape.
    """
    check_band(alpha, beta)
    check_int("n_knots", n_knots, 2)
    check_choice("interpolation", interpolation, _INTERPOLATIONS)
    _check_mask(scores, mask)
    inner = [alpha + (beta - alpha) * k / (n_knots - 1) for k in range(1, n_knots - 1)]
    knots = _quantiles(scores.detach(), mask, [alpha, *inner, beta], interpolation, count)
    return BandEdges(t_alpha=knots[..., 0], t_beta=knots[..., -1], knots=knots)


def robust_scale(
    scores: Tensor,
    mask: Tensor,
    kind: TauScale = "iqr",
    *,
    edges: BandEdges | None = None,
    interpolation: Interpolation = "higher",
    count: Tensor | None = None,
) -> Tensor:
    """Return the dispersion of the reference scores, the unit of the temperature, detached.

    Args:
        scores: ``[M]`` or ``[C, M]``, floating.
        mask: bool of the same shape: the reference set.
        kind: ``"iqr"``: the 75 % minus the 25 % quantile; ``"band"``: ``t_alpha - t_beta`` of
            ``edges``; ``"unit"``: 1.
        edges: needed for ``"band"`` only.
        interpolation, count: of the quartiles, as in :func:`band_edges`.

    Returns:
        ``[]`` or ``[C]``; exactly 0 where the spread is within rounding of its two quantiles, nan
        where there are no reference rows (``"unit"``: always 1).

    Raises:
        TypeError, ValueError: an unknown kind, a mask of another shape, ``"band"`` without edges.
    """
    check_choice("kind", kind, _SCALES)
    check_choice("interpolation", interpolation, _INTERPOLATIONS)
    _check_mask(scores, mask)
    if kind == "unit":
        return scores.new_ones(scores.shape[:-1])
    if kind == "iqr":
        quartiles = _quantiles(scores.detach(), mask, [0.25, 0.75], interpolation, count)
        upper, lower = quartiles.unbind(-1)
    elif edges is None:
        raise ValueError('robust_scale(kind="band") needs edges=band_edges(...), got None')
    else:
        upper, lower = edges.t_alpha, edges.t_beta
    spread = upper - lower
    # Relative, so that the verdict is the same for logits of any magnitude.
    rounding = 4 * torch.finfo(spread.dtype).eps * torch.maximum(upper.abs(), lower.abs())
    return torch.where(spread <= rounding, 0.0, spread)


def masked_top(scores: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return values and columns of the ``k`` largest masked scores, descending, -inf as padding."""
    top = torch.where(mask, scores.detach(), -math.inf).topk(k, dim=-1)
    return top.values, top.indices


def top_depth(level: float, columns: int) -> int:
    """Return how many of the largest scores reach FPR ``level``'s neighbours in any mask."""
    return min(columns, math.floor(level * (columns - 1)) + 2)


def _check_mask(scores: Tensor, mask: Tensor) -> None:
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool with the shape of scores {tuple(scores.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )


def _quantiles(
    scores: Tensor,
    mask: Tensor,
    levels: list[float],
    interpolation: Interpolation,
    count: Tensor | None,
) -> Tensor:
    """Return the scores ``[..., L]`` at the FPR ``levels``, which ascend."""
    if scores.shape[-1] == 0:
        return scores.new_full((*scores.shape[:-1], len(levels)), math.nan)
    columns = scores.shape[-1]
    count = (mask.sum(dim=-1) if count is None else count).unsqueeze(-1)
    last = (count - 1).clamp(min=0)
    # Positions count downwards from the largest score: FPR q is q (n - 1) rows below it. float64,
    # since float32 would move the position itself from about 10 million rows on.
    position = torch.tensor(levels, dtype=torch.float64, device=scores.device) * last
    above, below = position.floor().long(), position.ceil().long()

    if top_depth(levels[-1], columns) <= _SHALLOW * columns or len(levels) > _FEW_LEVELS:
        values, _ = masked_top(scores, mask, top_depth(levels[-1], columns))
        high, low = values.gather(-1, above), values.gather(-1, below)
    else:
        absent_rank = (~mask).cumsum(dim=-1, dtype=torch.int32)
        pairs = [
            _select(scores, mask, absent_rank, level, above[..., [i]], below[..., [i]], last)
            for i, level in enumerate(levels)
        ]
        high = torch.cat([pair[0] for pair in pairs], dim=-1)
        low = torch.cat([pair[1] for pair in pairs], dim=-1)
    quantile = _interpolate(high, low, position, last, interpolation)
    return torch.where(count > 0, quantile, math.nan)


def _select(
    scores: Tensor,
    mask: Tensor,
    absent_rank: Tensor,
    level: float,
    above: Tensor,
    below: Tensor,
    last: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the scores at descending ranks ``above`` and ``below``, each ``[..., 1]``.

    The ranks differ by class since the mask does, while `topk` wants one k. So some of the absent
    entries are placed beyond the near end, as many as bring the wanted rank of every class to the
    same place, and the others beyond the far end.
    """
    columns = scores.shape[-1]
    from_top = level <= 0.5  # the nearer end is the cheaper one
    near, far = (math.inf, -math.inf) if from_top else (-math.inf, math.inf)
    if from_top:
        first, second = above, below
        place = math.floor(level * (columns - 1))
    else:
        first, second = last - below, last - above
        place = columns - 1 - math.ceil(level * (columns - 1))
    near_count = (place - first).to(absent_rank.dtype)
    padding = torch.where(absent_rank <= near_count, near, far).to(scores.dtype)
    k = min(place + 2, columns)
    extreme = torch.where(mask, scores, padding).topk(k, largest=from_top, sorted=False).values
    deepest = extreme.topk(min(2, k), largest=not from_top).values  # ranks place + 1 and place
    first_value = deepest[..., -1:]
    second_value = torch.where(second > first, deepest[..., :1], first_value)
    return (first_value, second_value) if from_top else (second_value, first_value)


def _interpolate(
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
