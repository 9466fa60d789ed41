"""The two surrogates with their slopes: what each positive contributes, and the gradient of that.

The values are those of :mod:`pauc.surrogates`. There the graph of autograd leads from the values to
the scores; here the gradient is computed beside them, at a fraction of the operators.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import Link
from pauc.pairs import sum_link_of_parts
from pauc.selection import BandEdges
from pauc.surrogates import Positives

_BLOCK = 1 << 16  # pairs at a time, so that they stay in a processor's cache
# Up to where the matrix, in tiles, is faster than `sum_link_of_parts`, measured on a CPU.
_FEW_PAIRS = 1 << 20
_FEW_PER_SCORE = 64
_WIDEST = 30  # band, in units of tau, whose factors are exact enough
_FAR = 60  # above its lower edge, in the same units, where a link is 1
_LOW = 50  # below it, where the logistic link can still be computed so


class Slopes(NamedTuple):
    """The contributions of positives, of which the first ``L`` are live, and their gradient."""

    contribution: Tensor  # [P]
    positive: Tensor  # [L], a live positive's weight times the slope of its contribution
    # [C, B], of the weighted sum of a class's contributions, by the scores of live negatives
    negative: Tensor


def trapezoid(positives: Positives, num_live: int, knots: Tensor, tau: Tensor) -> Slopes:
    """Return the trapezoid of sigmoids of each positive, for ``knots`` ``[C, K]``."""
    if knots.shape[0] > 1:  # broadcasting does for one class
        knots, tau = knots[positives.class_index], tau[positives.class_index]
    soft = (positives.scores.unsqueeze(-1) - knots).div_(tau.unsqueeze(-1)).sigmoid_()
    live = soft[:num_live]
    slope = _integrate(live * (1 - live)) / tau[:num_live]
    nothing = slope.new_empty(knots.shape[0], 0)
    return Slopes(_integrate(soft), positives.weight[:num_live] * slope, nothing)


def _integrate(values: Tensor) -> Tensor:
    """Return the trapezoid rule over the last dimension, divided by the width."""
    if values.shape[-1] == 2:
        return values.mean(dim=-1)
    ends = (values[:, 0] + values[:, -1]) / 2
    return (ends + values[:, 1:-1].sum(dim=-1)) / (values.shape[-1] - 1)


class Negatives(NamedTuple):
    """Negatives of each class, padded."""

    scores: Tensor  # [C, B]
    real: Tensor  # [C, B] bool, what is no padding


def pairwise(
    positives: Positives,
    num_live: int,
    held: Negatives,
    live: Negatives,
    count: Tensor,
    edges: BandEdges,
    tau: Tensor,
    link: Link,
) -> Slopes:
    """Return each positive's mean link over the ``count`` ``[C]`` negatives in the band."""
    sides = positives, num_live, held, live
    pairs = len(positives.scores) * held.scores.shape[-1]
    scores = len(positives.scores) + 8 * held.scores.numel()
    exponents = None
    if pairs <= _FEW_PAIRS + _FEW_PER_SCORE * scores:
        exponents = _exponents(positives, held, live, edges, tau, link)
    if exponents is None:
        slopes = _by_graph(*sides, tau, link)
    else:
        slopes = _in_tiles(*sides, *exponents, tau, link)
    divisor = count.clamp(min=1).to(tau.dtype)
    of_positive = divisor if len(tau) == 1 else divisor[positives.class_index]
    of_live = divisor if len(tau) == 1 else of_positive[:num_live]
    return Slopes(
        slopes.contribution / of_positive,
        slopes.positive / of_live,
        slopes.negative / divisor.unsqueeze(-1),
    )


def _by_graph(
    positives: Positives,
    num_live: int,
    held: Negatives,
    live: Negatives,
    tau: Tensor,
    link: Link,
) -> Slopes:
    """Return the sums over pairs from :func:`pauc.pairs.sum_link_of_parts`."""
    wanted = not torch.is_inference_mode_enabled()  # there, nobody can ask for a gradient
    with torch.set_grad_enabled(wanted):
        own = positives.scores[:num_live].requires_grad_(wanted)
        against = live.scores.detach().requires_grad_(wanted)
        summed = sum_link_of_parts(
            torch.cat([own, positives.scores[num_live:]]),
            positives.class_index,
            num_live,
            (against, live.real.to(tau.dtype)),
            (torch.where(held.real, held.scores, 0.0), held.real.to(tau.dtype)),
            tau,
            link,
        )
        if wanted:
            own, against = torch.autograd.grad(summed, (own, against), positives.weight)
    return Slopes(summed.detach(), own, against)


def _exponents(
    positives: Positives,
    held: Negatives,
    live: Negatives,
    edges: BandEdges,
    tau: Tensor,
    link: Link,
) -> tuple[Tensor, Tensor] | None:
    """Return scores above the band's lower edge, in units of tau: of negatives, and of positives.

    The negatives' ``[C, B]`` are held and live. None where exponentials of them would not be exact.
    """
    origin, width = edges.t_beta, (edges.t_alpha - edges.t_beta) / tau
    if not bool(width.max() <= _WIDEST):
        return None
    against = torch.cat([held.scores, live.scores], dim=1)
    against = (against - origin.unsqueeze(-1)) / tau.unsqueeze(-1)
    if len(tau) > 1:
        origin, tau = origin[positives.class_index], tau[positives.class_index]
    own = (positives.scores - origin) / tau
    # There the logarithm is a straight line, and its argument overflows.
    if link == "logistic" and len(own) > 0 and not bool(own.min() >= -_LOW):
        return None
    return against, own.clamp(max=_FAR)


def _in_tiles(
    positives: Positives,
    num_live: int,
    held: Negatives,
    live: Negatives,
    against: Tensor,
    own: Tensor,
    tau: Tensor,
    link: Link,
) -> Slopes:
    """Return the sums over pairs from the matrix of pairs, a few rows of it at a time.

    ``exp(-(s_i - s_j) / tau)`` is the product of a factor for either, so that a pair costs a
    multiplication and what the link makes of it.
    """
    width = held.scores.shape[-1]
    index = None if len(tau) == 1 else positives.class_index
    # Padding has the factor of a negative that no positive exceeds, or that all do.
    padding = torch.finfo(tau.dtype).max if link == "sigmoid" else 0.0
    real = torch.cat([held.real, live.real], dim=1)
    rising, falling = torch.where(real, against.exp_(), padding), own.neg_().exp_()
    weight = positives.weight / (tau if index is None else tau[index])
    summed, slope = torch.empty_like(falling), torch.empty_like(falling[:num_live])
    slope_live = torch.zeros_like(live.scores)
    for block in _tiles(num_live, len(falling), real.shape[-1]):
        factor = falling[block].unsqueeze(-1)
        if index is None:
            pairs = rising * factor
        else:
            pairs = rising.index_select(0, index[block]).mul_(factor)
        value, steep = _link_of(pairs, link, block.stop <= num_live, width)
        torch.sum(value, dim=-1, out=summed[block])
        if block.stop <= num_live:
            torch.sum(steep, dim=-1, out=slope[block])
            steep = steep[:, width:]
        steep = steep * weight[block].unsqueeze(-1)
        if index is None:
            slope_live += steep.sum(dim=0)
        else:
            slope_live.index_add_(0, index[block], steep)
    if link == "logistic":
        number = real.sum(dim=-1).to(summed.dtype)
        summed = (number if index is None else number[index]) - summed
    return Slopes(summed, slope.mul_(weight[:num_live]), slope_live.neg_())


def _tiles(num_live: int, rows: int, width: int) -> Iterator[slice]:
    """Yield slices of the rows, of a limited number of pairs each, live ones and others apart."""
    step = max(1, _BLOCK // max(1, width))
    for first, last in ((0, num_live), (num_live, rows)):
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


def _link_of(z: Tensor, link: Link, all_columns: bool, width: int) -> tuple[Tensor, Tensor]:
    """Return what adds up to the link of ``-log z``, and its slope; that from a column on.

    The logistic link is 1 minus what is returned.
    """
    steep = z if all_columns else z[:, width:]
    if link == "sigmoid":
        value = z.add_(1).reciprocal_()
        return value, steep * (1 - steep)
    value = z.log1p().div_(math.log(2))
    return value, (1 - (steep + 1).reciprocal_()).div_(math.log(2))
