"""The empirical ROC curve as segments, one for each distinct score, and areas under parts of it.

Apart from the metrics, because :mod:`pauc.intervals` asks what each single row adds to the area.
The diagnostics of the loss use :func:`ramp_area` too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad


class Segments(NamedTuple):
    """The segments of the curve, the one of the highest score first; ``[K]`` float64 each."""

    start: Tensor  # FPR at its beginning
    end: Tensor  # FPR at its end; the same where no negative has this score
    low: Tensor  # TPR at its beginning
    high: Tensor  # TPR at its end


def places_of(scores: Tensor) -> tuple[Tensor, int]:
    """Return each row's place and the number of places ``K``, one for each distinct score.

    The place, ``[N]`` int64, is the number of distinct scores that are higher.
    """
    distinct, index = torch.unique(scores, return_inverse=True)
    return len(distinct) - 1 - index, len(distinct)


def rows_before(place: Tensor, places: int, weight: Tensor | None = None) -> Tensor:
    """Return ``[r, K + 1]``: in each resample, how many rows have a place below 0, 1, ..., K.

    Args:
        place: ``[r, n]`` int64, the places of the ``n`` rows of ``r`` resamples.
        places: ``K``, how many places there are.
        weight: ``[r, n]`` float64, what each row counts; the result is then float64, else int64.
    """
    # One count for all resamples: each has numbers of its own for its places.
    offset = places * torch.arange(len(place), device=place.device).unsqueeze(1)
    counts = torch.bincount(
        (place + offset).flatten(),
        None if weight is None else weight.flatten(),
        minlength=len(place) * places,
    )
    return pad(counts.view(len(place), places).cumsum(1), (1, 0))


def segments_of(positives: Tensor, negatives: Tensor) -> Segments:
    """Return the segments, from how many positives and negatives ``[K]`` each place has."""
    # Whole numbers are divided, so that a vertex at a round FPR lies exactly there.
    fpr, tpr = (pad(count.cumsum(0), (1, 0)) / count.sum() for count in (negatives, positives))
    return Segments(fpr[:-1], fpr[1:], tpr[:-1], tpr[1:])


def areas(segments: Segments, alpha: float, beta: float) -> Tensor:
    """Return ``[K]``: the area over the band of the ROC curve of one positive, at each place.

    That curve is 0 up to the start of the positive's segment and 1 from its end on, with a straight
    line in between. The area under the whole curve is the mean over the positives.
    """
    run = segments.end - segments.start
    return ramp_area(beta, segments.start, run) - ramp_area(alpha, segments.start, run)


def heights(segments: Segments, alpha: float, beta: float) -> Tensor:
    """Return ``[K]``: the mean TPR over each segment; outside the band, that at the nearer edge.

    0 for a segment that has no negative, and so no width: only negatives are given a height.
    """
    start, end, low, high = segments
    some = end > start
    run = torch.where(some, end - start, 1.0)
    slope = (high - low) / run
    # Where the curve is vertical at an edge, the height is that of the segment inside the band.
    at_alpha = (some & (end > alpha)).to(torch.uint8).argmax()
    at_beta = (some & (end >= beta)).to(torch.uint8).argmax()
    left, right = start.clamp(alpha, beta), end.clamp(alpha, beta)
    inside = (right - left) * (low + slope * ((left + right) / 2 - start))
    before = (alpha - start).clamp(min=0).minimum(run) * (low + slope * (alpha - start))[at_alpha]
    after = (end - beta).clamp(min=0).minimum(run) * (low + slope * (beta - start))[at_beta]
    return torch.where(some, (before + inside + after) / run, 0.0)


def ramp_area(end: float | Tensor, left: Tensor, width: Tensor) -> Tensor:
    """Return the integral up to ``end`` of a ramp from 0 at ``left`` to 1 at ``left + width``.

    The ramp stays at 1 behind that; a ``width`` of 0 is a step. The three broadcast, and ``end``
    may be a 0-dim tensor: an edge of the band that moves from call to call.
    """
    # Not `end - left`: there a compiler takes a number `end` for a constant of the graph, and
    # compiles again for the next value; in `left - end` it does not.
    along = (left - end).clamp(max=0).neg()
    on_ramp = torch.minimum(along, width)
    return on_ramp**2 / (2 * torch.where(width > 0, width, 1.0)) + (along - on_ramp)
