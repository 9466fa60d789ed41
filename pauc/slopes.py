"""The two surrogates with their slopes: what each positive contributes, and the gradient of that.

The values are those of :mod:`pauc.surrogates`. There the graph of autograd leads from the values to
the scores; here the gradient is computed beside them, at a fraction of the operators.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pauc.config import Link
from pauc.pairs import sum_link_of_parts
from pauc.surrogates import Positives

_BLOCK = 1 << 16  # pairs at a time, so that they stay in a processor's cache
# Where pairs in blocks are faster than the scan, measured on a CPU.
_FEW_PAIRS = 1 << 20
_FEW_PER_SCORE = 64


class Slopes(NamedTuple):
    """The contributions of positives, of which the first ``L`` are live, and their gradient."""

    contribution: Tensor  # [P]
    positive: Tensor  # [L], a live positive's weight times the slope of its contribution
    # [C, B], of the weighted sum of a class's contributions, by the scores of live negatives
    negative: Tensor | None


def trapezoid(positives: Positives, num_live: int, knots: Tensor, tau: Tensor) -> Slopes:
    """Return the trapezoid of sigmoids of each positive, for ``knots`` ``[C, K]``."""
    if knots.shape[0] > 1:  # broadcasting does for one class
        knots, tau = knots[positives.class_index], tau[positives.class_index]
    soft = (positives.scores.unsqueeze(-1) - knots).div_(tau.unsqueeze(-1)).sigmoid_()
    live = soft[:num_live]
    slope = _integrate(live * (1 - live)) / tau[:num_live]
    return Slopes(_integrate(soft), positives.weight[:num_live] * slope, None)


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
    tau: Tensor,
    link: Link,
) -> Slopes:
    """Return each positive's mean link over the ``count`` ``[C]`` negatives, held and live."""
    pairs = len(positives.scores) * held.scores.shape[-1]
    scores = len(positives.scores) + 8 * held.scores.numel()
    few = pairs <= _FEW_PAIRS + _FEW_PER_SCORE * scores
    slopes = (_in_blocks if few else _by_scan)(positives, num_live, held, live, tau, link)
    divisor = count.clamp(min=1).to(tau.dtype)
    of_positive = divisor
    if len(tau) > 1:
        of_positive = divisor[positives.class_index]
    assert slopes.negative is not None
    return Slopes(
        slopes.contribution / of_positive,
        slopes.positive / of_positive[: num_live if len(tau) > 1 else 1],
        slopes.negative / divisor.unsqueeze(-1),
    )


def _by_scan(
    positives: Positives,
    num_live: int,
    held: Negatives,
    live: Negatives,
    tau: Tensor,
    link: Link,
) -> Slopes:
    """Return the sums over pairs from :func:`pauc.pairs.sum_link_of_parts`."""
    with torch.enable_grad():
        own = positives.scores[:num_live].requires_grad_()
        against = live.scores.detach().requires_grad_()
        summed = sum_link_of_parts(
            torch.cat([own, positives.scores[num_live:]]),
            positives.class_index,
            num_live,
            (against, live.real.to(tau.dtype)),
            (held.scores, held.real.to(tau.dtype)),
            tau,
            link,
        )
        slopes = torch.autograd.grad(summed, (own, against), positives.weight)
    return Slopes(summed.detach(), *slopes)


def _in_blocks(
    positives: Positives,
    num_live: int,
    held: Negatives,
    live: Negatives,
    tau: Tensor,
    link: Link,
) -> Slopes:
    """Return the sums over pairs from the matrix of pairs, a few rows of it at a time."""
    num_classes, width = len(tau), held.scores.shape[-1]
    # Where the link and its slope are 0, or a constant that is taken off below.
    nowhere = math.inf if link == "sigmoid" else -math.inf
    real = torch.cat([held.real, live.real], dim=1)
    scores = torch.where(real, torch.cat([held.scores, live.scores], dim=1), nowhere)
    summed = torch.empty_like(positives.scores)
    slope = torch.empty_like(positives.scores[:num_live])
    against = torch.zeros_like(live.scores)
    rows = max(1, _BLOCK // max(1, scores.shape[-1]))
    ends = [*range(rows, num_live, rows), num_live, *range(num_live + rows, len(summed), rows)]
    start = 0
    for end in [*ends, len(summed)]:
        block = slice(start, end)
        start = end
        index = positives.class_index[block]
        negatives = scores if num_classes == 1 else scores.index_select(0, index)
        scale = tau if num_classes == 1 else tau.index_select(0, index)
        u = (positives.scores[block].unsqueeze(-1) - negatives).div_(scale.unsqueeze(-1))
        value, steepness = _link_of(u, link, end <= num_live, width)
        torch.sum(value, dim=-1, out=summed[block])
        if end <= num_live:
            torch.sum(steepness, dim=-1, out=slope[block])
            slope[block].div_(scale)
            steepness = steepness[:, width:]
        weighted = steepness * (positives.weight[block] / scale).unsqueeze(-1)
        if num_classes == 1:
            against -= weighted.sum(dim=0)
        else:
            against.index_add_(0, index, weighted, alpha=-1)
    if link == "logistic":
        number = real.sum(dim=-1).to(summed.dtype)
        summed += number if num_classes == 1 else number[positives.class_index]
    return Slopes(summed, positives.weight[:num_live] * slope, against)


def _link_of(u: Tensor, link: Link, all_columns: bool, width: int) -> tuple[Tensor, Tensor]:
    """Return the link of ``u``, up to a constant, and its slope: all columns, or from a width on."""
    of_slope = u if all_columns else u[:, width:]
    if link == "sigmoid":
        value = u.sigmoid_()
        return value, of_slope * (1 - of_slope)
    value = logsigmoid(u).div_(math.log(2))
    return value, of_slope.neg().sigmoid_().div_(math.log(2))
