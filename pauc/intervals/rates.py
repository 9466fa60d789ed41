"""Bootstrap intervals of a rate at a budget, from one sort instead of one a resample."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pauc.arrays import ArrayLike
from pauc.intervals.interval import Interval, interval_in_kind
from pauc.intervals.resamples import check_resamples, draws, with_percentiles
from pauc.metrics.curve import places_of, rows_before
from pauc.metrics.inputs import Column, by_column, table_of
from pauc.metrics.rates import check_rates
from pauc.metrics.vertices import best_tpr, least_fpr, vertices_of

# From false and true positives ``[r, K + 1]`` at each vertex to the rates ``[r, ...]``.
Reading = Callable[[Tensor, Tensor], Tensor]


def tpr_at_fpr_interval(
    scores: ArrayLike,
    targets: ArrayLike,
    fpr: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | torch.Generator = 0,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Interval:
    """Percentile bootstrap interval of :func:`pauc.metrics.tpr_at_fpr`.

    The numbers are those of :func:`bootstrap_interval`, from one sort instead of one a resample.
    The threshold is chosen anew in each resample, so that its uncertainty counts. The rate at a
    threshold that was fixed before is a simple proportion: see :func:`wilson_interval`.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`. A drawn row
            brings its weight along.
        fpr, ignore_index: as for ``tpr_at_fpr``.
        confidence, n_resamples, seed: as for ``bootstrap_interval``; each column draws anew from
            the same ``seed``.

    Returns:
        ``Interval(estimate, low, high)`` in the shape of ``fpr``, float64; of several columns
        ``[C, ...]``.

    Raises:
        TypeError, ValueError: as for these two functions.
    """
    check_resamples(n_resamples, confidence)
    budgets, slack = check_rates(fpr, "fpr")

    def read(fp: Tensor, tp: Tensor) -> Tensor:
        return best_tpr(tp, fp, budgets, slack)

    measure = _measure(read, n_resamples, seed, confidence)
    rows = (scores, targets, sample_weight, ignore_index)
    return _interval(measure, rows, tuple(budgets.shape))


def fpr_at_tpr_interval(
    scores: ArrayLike,
    targets: ArrayLike,
    tpr: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | torch.Generator = 0,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Interval:
    """Percentile bootstrap interval of :func:`pauc.metrics.fpr_at_tpr`.

    All is as for :func:`tpr_at_fpr_interval`, but for the rate that is given and the one that is
    measured.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`.
        tpr, ignore_index: as for ``fpr_at_tpr``.
        confidence, n_resamples, seed: as for ``bootstrap_interval``.

    Returns:
        ``Interval(estimate, low, high)`` in the shape of ``tpr``, float64; of several columns
        ``[C, ...]``.

    Raises:
        TypeError, ValueError: as for these two functions.
    """
    check_resamples(n_resamples, confidence)
    shares, slack = check_rates(tpr, "tpr")

    def read(fp: Tensor, tp: Tensor) -> Tensor:
        return least_fpr(fp, tp, shares, slack)

    measure = _measure(read, n_resamples, seed, confidence)
    rows = (scores, targets, sample_weight, ignore_index)
    return _interval(measure, rows, tuple(shares.shape))


def _interval(
    measure: Callable[[Column], Tensor],
    rows: tuple[ArrayLike, ArrayLike, ArrayLike, int],
    shape: tuple[int, ...],
) -> Interval:
    """Return the interval from the estimate and the ends of each column, ``[3, *shape]``."""
    table = table_of(*rows)
    found = by_column(measure, table, (3, *shape), level=4)
    return interval_in_kind(found, table, rows[0])


def _measure(
    read: Reading, n_resamples: int, seed: int | torch.Generator, confidence: float
) -> Callable[[Column], Tensor]:
    """Return the function from a column to the estimate and the ends, ``[3, ...]``."""

    def measure(column: Column) -> Tensor:
        vertices = vertices_of(column)
        estimate = read(vertices.fp, vertices.tp)
        values = estimate.new_empty(n_resamples, *estimate.shape)
        # One array for all values: a small result of each chunk, kept between the large scratch
        # arrays, would keep the heap from shrinking when these are freed.
        done = 0
        for fp, tp in _resampled(column, n_resamples, seed):
            values[done : done + len(fp)] = read(fp, tp)
            done += len(fp)
        return with_percentiles(estimate, values, confidence)

    return measure


def _resampled(
    column: Column, n_resamples: int, seed: int | torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield false and true positives ``[r, K + 1]`` at each vertex of ``r`` resamples at a time."""
    place, places = places_of(column.scores)
    classes = [(column.positive == label).nonzero()[:, 0] for label in (True, False)]
    positives = len(classes[0])
    for drawn in draws(classes, n_resamples, seed):
        tp, fp = (
            rows_before(place[rows], places, None if column.weight is None else column.weight[rows])
            for rows in (drawn[:, :positives], drawn[:, positives:])
        )
        yield fp, tp
