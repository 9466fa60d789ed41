"""Which vertices of the ROC curve keep a promise, and how likely one of them does not in truth.

A vertex flags the rows with a score of at least its own, the highest scores first. A promise on the
FPR or the share of alerts is kept by all vertices up to some one, a promise on the TPR from some
one on, and a promise on the precision by any set of them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.metrics.inputs import Column, UndefinedError
from pauc.metrics.rates import allowed_rows
from pauc.metrics.vertices import Vertices
from pauc.thresholds.tails import Tail

_EPS = torch.finfo(torch.float64).eps

# How far, relative to it, a p-value may be above its level. Without this a tail of 0.1 would be too
# large for a confidence of 0.9, since 1 - 0.9 is rounded to less than 0.1.
_SLACK = 1e-9

# A precision is tested at some numbers of alerts, each by this factor above the one before. Fewer
# tests ask less of each, but lie further from the largest number that would pass.
_STEP = 1.15


class Trials(NamedTuple):
    """What a promise counts: trials, and how many of them go wrong at each vertex."""

    wrong: Tensor  # [K + 1] non-decreasing, int64, or float64 sums of weights; all of them at last
    rows: int  # how many trials there are
    largest: float | None  # the largest weight of a trial; None: trials have no weights


def last_within(
    trials: Trials, rate: float, level: float | None, name: str, slack: float = 4 * _EPS
) -> tuple[int, float]:
    """Return the last vertex at which at most ``rate`` of the trials goes wrong, and the risk.

    Args:
        trials: as they are counted.
        rate: above 0 and below 1.
        level: the chance that may remain that the truth is above ``rate``; None: the sample's own
            share counts.
        name: of the promise, for the error.
        slack: relative uncertainty of ``rate``.

    Raises:
        UndefinedError: too few trials for the level.
    """
    tail = Tail(trials.rows, rate)
    if trials.largest is None:
        allowed = _allowed(tail, level, name, slack)
        last = int(torch.searchsorted(trials.wrong, allowed, right=True)) - 1
        return last, tail.of_counts(allowed)
    if level is None:
        return _last_by_weight(trials, rate, slack), math.nan
    return _last_by_bound(trials, tail, level, name), level


def precise_vertices(
    vertices: Vertices, column: Column, precision: float, level: float | None
) -> tuple[Tensor, float]:
    """Return the vertices, ``[k]`` int64, that keep the precision, and the risk.

    With a level, the precision is tested at some numbers of alerts, which depend on the number of
    rows alone. The rows above the score at a given rank are independent draws from all rows above
    it, so that each test is exact; the level is divided by the number of tests (Bonferroni).

    Procedures that pass the level of a passed test on (Holm 1979, a fixed sequence, Wiens's
    fallback 2003) would find more, but their proofs take it for fixed which hypotheses are true.
    The precision at a rank is random, as its score is. It would be fixed for thresholds that are
    chosen before the rows are seen, which takes a scale of the scores that is known.
    """
    alerts = vertices.fp + vertices.tp
    if level is None:
        fits = (vertices.tp >= precision * (1 - 4 * _EPS) * alerts) & (alerts > 0)
        return fits.nonzero()[:, 0], math.nan
    sizes = _sizes(len(column.scores), precision, level)
    found = _vertices_at(vertices, column, sizes)
    limit = level / len(sizes) * (1 + _SLACK) if sizes else 0.0
    passed = [
        j for j, rows in found if _p_of_precision(vertices, column, precision, j, rows) <= limit
    ]
    return torch.tensor(passed, dtype=torch.int64, device="cpu"), level


def _allowed(tail: Tail, level: float | None, name: str, slack: float) -> int:
    """Return how many of the trials may go wrong."""
    if level is None:
        total = torch.tensor(tail.count, device="cpu")
        return min(
            int(
                allowed_rows(
                    torch.tensor(tail.rate, dtype=torch.float64, device="cpu"), total, slack
                )
            ),
            tail.count - 1,
        )
    limit = level * (1 + _SLACK)
    needed = math.ceil(math.log(limit) / math.log1p(-tail.rate))
    if tail.count < needed:
        raise UndefinedError(_too_few(name, needed, tail, level))
    return tail.largest_within(limit)


def _too_few(name: str, needed: int, tail: Tail, level: float) -> str:
    rows, shown = {
        "budget": ("negatives", f"budget={tail.rate}"),
        "alert_share": ("rows", f"alert_share={tail.rate}"),
        "tpr": ("positives", f"tpr={1 - tail.rate:.6g}"),
    }[name]
    return (
        f"targets must hold at least {needed} {rows} for {shown} with "
        f"confidence={1 - level:.6g}, got {tail.count}"
    )


def _last_by_weight(trials: Trials, rate: float, slack: float) -> int:
    """Return the last vertex at which the weight that goes wrong is within the rate."""
    slack += len(trials.wrong) * _EPS
    allowed = float(trials.wrong[-1]) * rate * (1 + slack)
    return int(torch.searchsorted(trials.wrong, allowed, right=True)) - 1


def _last_by_bound(trials: Trials, tail: Tail, level: float, name: str) -> int:
    """Return the last vertex whose weighted trials pass the test at the level."""
    total, largest = float(trials.wrong[-1]), trials.largest or 1.0

    def p_value(vertex: int) -> float:
        return tail.of_weights(float(trials.wrong[vertex]), total, largest)

    last = bisect_right(range(len(trials.wrong)), level * (1 + _SLACK), key=p_value) - 1
    if last < 0:
        raise UndefinedError(
            f"sample_weight must be more even, or the rows more, for {name} with "
            f"confidence={1 - level:.6g}: {tail.count} rows have the weight of "
            f"{total / largest:.1f} of the largest weight"
        )
    return last


def _sizes(rows: int, precision: float, level: float) -> list[int]:
    """Return the numbers of alerts to test, from the fewest that could pass to all rows."""
    size = math.log(level) / math.log(precision)
    sizes = []
    while size < rows:
        sizes.append(math.ceil(size))
        size = max(size * _STEP, sizes[-1] + 1)
    return sizes


def _vertices_at(vertices: Vertices, column: Column, sizes: list[int]) -> list[tuple[int, int]]:
    """Return the last vertex with at most each number of alerts, and its number of alerts."""
    if column.weight is None:
        flagged = vertices.fp + vertices.tp
    else:
        ordered = column.scores.double().sort().values
        flagged = len(ordered) - torch.searchsorted(ordered, vertices.thresholds)
        flagged[0] = 0  # a score of +inf is not flagged by the vertex that flags no row
    asked = torch.tensor(sizes, dtype=torch.int64, device=flagged.device)
    last = torch.searchsorted(flagged, asked, right=True) - 1
    places = sorted({int(j) for j in last if j > 0})
    return [(j, int(flagged[j])) for j in places]


def _p_of_precision(
    vertices: Vertices, column: Column, precision: float, vertex: int, rows: int
) -> float:
    """Return the p-value of "the precision at this vertex is below what was asked"."""
    tail, fp, tp = Tail(rows, 1 - precision), vertices.fp[vertex], vertices.tp[vertex]
    if column.weight is None:
        return tail.of_counts(int(fp))
    return tail.of_weights(float(fp), float(fp + tp), float(column.weight.max()))
