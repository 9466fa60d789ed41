"""The interval of the partial AUC in closed form."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pauc.arrays import ArrayLike
from pauc.checks import check_band
from pauc.intervals.interval import Interval, interval_in_kind, normal_quantile
from pauc.metrics.band import check_normalize, normalized
from pauc.metrics.curve import areas, heights, places_of, segments_of
from pauc.metrics.inputs import Column, UndefinedError, by_column, check_both_classes, table_of


def partial_auc_interval(
    scores: ArrayLike,
    targets: ArrayLike,
    alpha: float = 0.0,
    beta: float = 1.0,
    *,
    normalize: Literal["none", "width", "mcclish"] = "width",
    confidence: float = 0.95,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Interval:
    """Analytic interval of :func:`pauc.metrics.partial_auc`, symmetric on the logit scale.

    The variance is ``var_i(A_i) / positives + var_j(B_j) / negatives``. ``A_i`` is what a positive
    adds to the area: the part of the band that lies above its FPR. ``B_j`` is the height of the
    curve at the negative's own FPR, which outside the band counts as that at the nearer edge. This
    is the limit process of the empirical curve (Hsieh and Turnbull 1996), uncertain thresholds
    included, integrated over the band. Over the whole curve it is the variance of DeLong, DeLong
    and Clarke-Pearson (1988). The ends are those of the mean TPR over the band on the logit scale
    (Pepe 2003, section 5.2), so that they stay within the metric's range.

    With weights each of the two is the variance of a weighted mean, ``n / (n - 1) *
    sum(w**2 (x - mean)**2) / sum(w)**2`` (the ratio estimator of Hájek 1971), the weights being
    drawn with the rows.

    In simulation (``benchmarks/intervals.py``) 95 % intervals held the truth in 95 to 96 % of the
    samples, but in 91 to 92 % where 200 positives met 10 negatives in the band. A ranking without
    any mistake in the band has no variance to see: the interval is then a point, and too narrow.

    Args:
        scores, targets, sample_weight, alpha, beta, normalize, ignore_index: as for
            ``partial_auc``.
        confidence: above 0 and below 1.

    Returns:
        ``Interval(estimate, low, high)``, 0-dim float64; of several columns ``[C]``.

    Raises:
        TypeError, ValueError: as for ``partial_auc``; fewer than 2 positives or 2 negatives.
    """
    z = normal_quantile(confidence)
    check_band(alpha, beta)
    check_normalize(normalize)

    def measure(column: Column) -> Tensor:
        ends = _mean_tpr_and_ends(column, alpha, beta, z)
        return normalized(ends * (beta - alpha), alpha, beta, normalize)

    table = table_of(scores, targets, sample_weight, ignore_index)
    return interval_in_kind(by_column(measure, table, (3,)), table, scores)


def _mean_tpr_and_ends(column: Column, alpha: float, beta: float, z: float) -> Tensor:
    """Return the mean TPR over the band, and what lies ``z`` standard errors to either side."""
    check_both_classes(column.positive)
    place, places = places_of(column.scores)
    positives, negatives = (
        _class_at_places(column, place, places, own) for own in (column.positive, ~column.positive)
    )
    segments = segments_of(positives[1], negatives[1])
    width = beta - alpha
    mean, variance = _mean_variance(areas(segments, alpha, beta) / width, *positives)
    _, of_negatives = _mean_variance(heights(segments, alpha, beta) / width, *negatives)
    # d logit(x) = dx / (x (1 - x))
    error = (variance + of_negatives).sqrt() / (mean * (1 - mean))
    margin = torch.where((mean > 0) & (mean < 1), z * error, 0.0)
    low, high = (mean.logit() - margin).sigmoid(), (mean.logit() + margin).sigmoid()
    # There and back again on the logit scale, rounding can pass the mean.
    return torch.stack([mean, low.minimum(mean), high.maximum(mean)])


def _class_at_places(
    column: Column, place: Tensor, places: int, own: Tensor
) -> tuple[int, Tensor, Tensor]:
    """Return the rows of a class, and at each place the sums of their weights and the squares."""
    rows = int(own.sum())
    if rows < 2:
        positives = int(column.positive.sum())
        raise UndefinedError(
            "targets must hold at least 2 positives and 2 negatives, got "
            f"{positives} and {len(own) - positives}"
        )
    at = place[own]
    if column.weight is None:
        counts = torch.bincount(at, minlength=places).double()
        return rows, counts, counts
    weight = column.weight[own]
    first, second = (torch.bincount(at, w, minlength=places) for w in (weight, weight**2))
    return rows, first, second


def _mean_variance(
    values: Tensor, rows: int, weight: Tensor, squares: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of a sample and the estimated variance of that mean, both 0-dim.

    The sample has ``rows`` rows; those with the value ``values[k]`` have weights with the sum
    ``weight[k]`` and the sum of squares ``squares[k]``.
    """
    total = weight.sum()
    mean = (weight * values).sum() / total
    return mean, rows / (rows - 1) * (squares * (values - mean) ** 2).sum() / total**2
