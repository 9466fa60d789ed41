"""Exact ROC metrics over a band of false-positive rates, as :mod:`pauc.metrics` describes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pauc.arrays import Answer, ArrayLike, in_kind
from pauc.checks import check_band
from pauc.metrics.band import ROCBand, area_of, band_of, check_normalize, normalized
from pauc.metrics.inputs import by_column, each_column, table_of
from pauc.metrics.rates import check_rates
from pauc.metrics.vertices import Vertices, best_tpr, least_fpr, vertices_of

__all__ = [
    "ROCBand",
    "coverage_at_budget",
    "fpr_at_tpr",
    "partial_auc",
    "roc_curve_in_band",
    "tpr_at_fpr",
]


def roc_curve_in_band(
    scores: ArrayLike,
    targets: ArrayLike,
    alpha: float = 0.0,
    beta: float = 1.0,
    *,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Answer:
    """Empirical ROC curve where ``alpha <= FPR <= beta`` (Fawcett 2006, algorithm 1).

    One vertex per distinct score (ties are one vertex), all of a vertical stretch at either edge
    included. Where no vertex lies exactly at an edge, a linearly interpolated point does, so that
    ``fpr[0] == alpha`` and ``fpr[-1] == beta`` always hold.

    The threshold of an interpolated point is that of the last vertex with a lower FPR: no threshold
    reaches the point itself, and this one stays within its FPR. The vertex that flags no row has
    threshold +inf, as in scikit-learn, even where a score is +inf and makes the next threshold +inf
    too. Integer scores beyond 2**53 are told apart, but their thresholds are rounded to float64.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        ignore_index: target of the rows to drop.

    Returns:
        ``ROCBand(fpr, tpr, thresholds)``, each ``[K]`` float64 with ``K >= 2``. Of several columns
        a list of them, since curves differ in length; an undefined one has the band's two edges,
        and nan beside them.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`.
    """
    check_band(alpha, beta)
    table = table_of(scores, targets, sample_weight, ignore_index)
    edges = table.scores.new_tensor([alpha, beta], dtype=torch.float64)
    blank = ROCBand(edges, edges * torch.nan, edges * torch.nan)
    curves = each_column(lambda own: band_of(vertices_of(own), alpha, beta), table, blank, level=3)
    answers = [ROCBand(*(in_kind(part, scores) for part in curve)) for curve in curves]
    return answers[0] if table.is_single else answers


def partial_auc(
    scores: ArrayLike,
    targets: ArrayLike,
    alpha: float = 0.0,
    beta: float = 1.0,
    *,
    normalize: Literal["none", "width", "mcclish"] = "width",
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Answer:
    """Area under the empirical ROC curve where ``alpha <= FPR <= beta``.

    The trapezoid, with a straight line across each tie, is exact: on the whole curve it is the
    Mann-Whitney statistic with ties counted half (Bamber 1975). ``normalize`` chooses what is
    returned:

    - ``"none"``: the raw area, in [0, beta - alpha];
    - ``"width"``: area / (beta - alpha), the mean TPR over the band, in [0, 1];
    - ``"mcclish"``: ``0.5 * (1 + (area - low) / (high - low))``, where ``high = beta - alpha`` and
      ``low = (beta**2 - alpha**2) / 2``, the area under the diagonal (McClish 1989). Chance is 0.5
      and a perfect ranking 1, whatever the band; worse than chance is below 0.5, and where
      ``alpha + beta > 1`` it can be below 0. With ``alpha = 0`` it is scikit-learn's
      ``roc_auc_score(max_fpr=beta)``.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        normalize: one of the three above.
        ignore_index: target of the rows to drop.

    Returns:
        0-dim float64; of several columns ``[C]``.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`.
    """
    check_normalize(normalize)
    check_band(alpha, beta)
    table = table_of(scores, targets, sample_weight, ignore_index)
    found = by_column(lambda own: area_of(vertices_of(own), alpha, beta), table)
    return in_kind(normalized(found, alpha, beta, normalize), scores)


def tpr_at_fpr(
    scores: ArrayLike,
    targets: ArrayLike,
    fpr: ArrayLike,
    *,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Answer:
    """Best TPR among the actual thresholds whose FPR does not exceed ``fpr``.

    A step value that can be deployed (Pepe 2003: sensitivity at a fixed FPR), not an interpolated
    point of the curve: thresholds are the distinct scores, and +inf, which flags no row. So a tie
    that would go over the budget is left out whole.

    ``fpr`` allows ``floor(fpr * negatives)`` false positives. It is read to within four rounding
    steps (``4 * eps``) of its dtype, so that 0.29 allows 29 of 100 negatives although
    ``0.29 * 100 < 29`` in floating point.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`.
        fpr: one or more budgets, each in [0, 1]; a tensor may live on any device.
        ignore_index: target of the rows to drop.

    Returns:
        float64 in the shape of ``fpr`` (0-dim for a float); of several columns ``[C, ...]``.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`.
    """
    budgets, slack = check_rates(fpr, "fpr")

    def measure(vertices: Vertices) -> Tensor:
        return best_tpr(vertices.tp, vertices.fp, budgets, slack)

    rows = (scores, targets, sample_weight, ignore_index)
    return _read_off(measure, rows, tuple(budgets.shape))


def fpr_at_tpr(
    scores: ArrayLike,
    targets: ArrayLike,
    tpr: ArrayLike,
    *,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Answer:
    """Least FPR among the actual thresholds whose TPR is at least ``tpr``.

    The counterpart of :func:`tpr_at_fpr`: what it costs in false alarms to catch so many positives
    (FPR95 and the like). ``tpr`` asks for ``ceil(tpr * positives)`` of the positives, and is read
    to within ``4 * eps`` of its dtype, as there.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`.
        tpr: one or more shares of the positives, each in [0, 1]; a tensor may live on any device.
        ignore_index: target of the rows to drop.

    Returns:
        float64 in the shape of ``tpr``, as for ``tpr_at_fpr``.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`.
    """
    shares, slack = check_rates(tpr, "tpr")

    def measure(vertices: Vertices) -> Tensor:
        return least_fpr(vertices.fp, vertices.tp, shares, slack)

    rows = (scores, targets, sample_weight, ignore_index)
    return _read_off(measure, rows, tuple(shares.shape))


def coverage_at_budget(
    scores: ArrayLike,
    targets: ArrayLike,
    budget: ArrayLike,
    *,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Answer:
    """Recall among the top ``budget`` share of all rows: the TPR under a budget of alerts.

    The best TPR among the actual thresholds that flag at most ``floor(budget * n)`` rows, positive
    or negative, of the ``n`` that are not ignored (recall at k, as in Manning, Raghavan and Schütze
    2008, section 8.4, with ties kept together). A tie that would go over the budget is left out
    whole, so that the value does not depend on the order of the rows; breaking the tie at random
    would find at least as many.

    ``budget`` is read to within four rounding steps (``4 * eps``) of its dtype, so that 0.29 of 100
    rows are 29 although ``0.29 * 100 < 29`` in floating point.

    Args:
        scores, targets, sample_weight: rows and columns, see :mod:`pauc.metrics`.
        budget: one or more shares of the rows, each in [0, 1]; a tensor may live on any device.
        ignore_index: target of the rows to drop.

    Returns:
        float64 in the shape of ``budget`` (0-dim for a float); of several columns ``[C, ...]``.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`.
    """
    budgets, slack = check_rates(budget, "budget")

    def measure(vertices: Vertices) -> Tensor:
        return best_tpr(vertices.tp, vertices.fp + vertices.tp, budgets, slack)

    rows = (scores, targets, sample_weight, ignore_index)
    return _read_off(measure, rows, tuple(budgets.shape))


def _read_off(
    measure: Callable[[Vertices], Tensor],
    rows: tuple[ArrayLike, ArrayLike, ArrayLike, int],
    shape: tuple[int, ...],
) -> Answer:
    """Return what is read off the curve of each column; for public functions to end with.

    Args:
        measure: from the curve to values of the given ``shape``.
        rows: scores, targets, weights and the target of the rows to drop.
    """
    table = table_of(*rows)
    found = by_column(lambda own: measure(vertices_of(own)), table, shape, level=4)
    return in_kind(found, rows[0])
