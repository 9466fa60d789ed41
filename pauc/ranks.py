"""Scores at given ranks among many that are in no order, for many rows at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.windows import count_true

_STEPS = 4  # of the search for bounds
_NEAR = 4  # how far beyond the ranks sought it aims at first
_MOST = 64  # candidates between the bounds


def select_ranks(
    values: Tensor,
    above: Tensor,
    below: Tensor,
    low: Tensor,
    high: Tensor,
    held: Tensor,
    guess: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the scores at the descending ranks ``above`` and ``below`` ``[R]`` in ``[R, B]``.

    ``below`` is ``above`` or one more, below ``held``, the number of finite scores, which lie
    above ``low`` and not above ``high``. ``B`` is from :func:`pauc.windows.padded_width`.
    """
    bounds = low, high, held, guess
    upper, lower, passed, reached = _bounds_near(values, above, below, *bounds)
    between = (values <= upper.unsqueeze(-1)) & (values > lower.unsqueeze(-1))
    few = reached - passed <= _MOST
    between &= few.unsqueeze(-1)
    row, column = between.nonzero(as_tuple=True)
    count = torch.where(few, reached - passed, 0)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    candidates = values.new_full((len(values), max(1, int(count.max()))), -math.inf)
    candidates[row, place] = values[row, column]
    rank = torch.stack([above, below], dim=-1) - passed.unsqueeze(-1)
    found = _in_order(candidates, rank.clamp(max=candidates.shape[1] - 1))
    if not bool(few.all()):  # ties, or outliers
        many = (~few).nonzero().squeeze(-1)
        rank = torch.stack([above, below], dim=-1)[many]
        found = found.index_copy(0, many, _in_order(values[many], rank))
    at_above, at_below = found.unbind(-1)
    return at_above, at_below


def _in_order(values: Tensor, rank: Tensor) -> Tensor:
    return values.sort(dim=-1, descending=True).values.gather(-1, rank)


def _bounds_near(
    values: Tensor,
    above: Tensor,
    below: Tensor,
    low: Tensor,
    high: Tensor,
    held: Tensor,
    guess: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return bounds ``[R]`` around the scores at the ranks, and how many scores exceed each.

    From a guess on, a few steps of interpolation come close. They aim beyond either rank in turns.
    """
    upper, lower = torch.minimum(high, values.amax(dim=-1)), low
    passed, reached = torch.zeros_like(above), held
    for step in range(_STEPS):
        near = _NEAR << step
        aim = torch.where(reached - below > above - passed, below + near, above - near)
        share = (aim - passed).clamp(min=0) / (reached - passed).clamp(min=1)
        bound = torch.lerp(upper, lower, share.to(values.dtype).clamp(max=1))
        bound = torch.where(bound > -math.inf, bound, upper)  # no use without an end below
        if step == 0 and guess is not None:
            bound = guess
        count = count_true(values > bound.unsqueeze(-1))
        is_upper, is_lower = count <= above, count > below
        upper, passed = torch.where(is_upper, bound, upper), torch.where(is_upper, count, passed)
        lower, reached = torch.where(is_lower, bound, lower), torch.where(is_lower, count, reached)
    return upper, lower, passed, reached
