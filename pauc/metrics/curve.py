"""The empirical ROC curve as blocks of tied rows, which :mod:`pauc.intervals` takes apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Blocks(NamedTuple):
    """The segments of the curve, one for each distinct score, the highest first; ``[K]`` each."""

    start: Tensor  # FPR at its beginning
    end: Tensor  # FPR at its end; the same where no negative has this score
    low: Tensor  # TPR at its beginning
    high: Tensor  # TPR at its end


def places_of(scores: Tensor) -> tuple[Tensor, int]:
    """Return for each row how many distinct scores are higher, and how many there are."""
    distinct, index = torch.unique(scores, return_inverse=True)
    return len(distinct) - 1 - index, len(distinct)


def rows_before(place: Tensor, places: int) -> Tensor:
    """Return ``[r, K + 1]``: of each resample ``[r, n]``, how many rows come before a place."""
    offset = places * torch.arange(len(place), device=place.device).unsqueeze(1)
    counts = torch.bincount((place + offset).flatten(), minlength=len(place) * places)
    return pad(counts.view(len(place), places).cumsum(1), (1, 0))


def blocks_of(positives: Tensor, negatives: Tensor) -> Blocks:
    """Return the blocks of so many positives and negatives ``[K]`` at each distinct score."""
    # Whole numbers are divided, so that a vertex at a round FPR lies exactly there.
    fpr, tpr = (pad(count.cumsum(0), (1, 0)) / count.sum() for count in (negatives, positives))
    return Blocks(fpr[:-1], fpr[1:], tpr[:-1], tpr[1:])


def areas(blocks: Blocks, alpha: float, beta: float) -> Tensor:
    """Return ``[K]``: what a positive adds to the area, from its FPR to the band's upper edge."""
    run = blocks.end - blocks.start
    return ramp_area(beta, blocks.start, run) - ramp_area(alpha, blocks.start, run)


def heights(blocks: Blocks, alpha: float, beta: float) -> Tensor:
    """Return ``[K]``: the mean height of the curve over a block, beyond the band that at its edge.

    0 for a block without negatives, for which nothing asks.
    """
    start, end, low, high = blocks
    some = end > start
    run = torch.where(some, end - start, 1.0)
    slope = (high - low) / run
    # Where the curve is vertical at an edge, the side that is inside the band.
    at_alpha = (some & (end > alpha)).to(torch.uint8).argmax()
    at_beta = (some & (end >= beta)).to(torch.uint8).argmax()
    left, right = start.clamp(alpha, beta), end.clamp(alpha, beta)
    inside = (right - left) * (low + slope * ((left + right) / 2 - start))
    before = (alpha - start).clamp(min=0).minimum(run) * (low + slope * (alpha - start))[at_alpha]
    after = (end - beta).clamp(min=0).minimum(run) * (low + slope * (beta - start))[at_beta]
    return torch.where(some, (before + inside + after) / run, 0.0)


def ramp_area(end: float | Tensor, left: Tensor, width: Tensor) -> Tensor:
    """Return the integral up to ``end`` of a ramp from 0 at ``left`` to 1 at ``left + width``.

    The three broadcast; so does the result. A ``width`` of 0 is a step. ``end`` may be a 0-dim
    tensor: an edge of the band that moves from call to call.
    """
    # Not `end - left`: there a compiler takes a number `end` for a constant of the graph, and
    # compiles again for the next value; in `left - end` it does not.
    along = (left - end).clamp(max=0).neg()
    on_ramp = torch.minimum(along, width)
    return on_ramp**2 / (2 * torch.where(width > 0, width, 1.0)) + (along - on_ramp)
