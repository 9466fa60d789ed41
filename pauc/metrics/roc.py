"""Exact ROC metrics over a band of false-positive rates, as :mod:`pauc.metrics` describes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc._public import public_in
from pauc.checks import check_band
from pauc.metrics.inputs import (
    allowed_rows,
    by_column,
    check_both_classes,
    check_rates,
    have_columns,
    kept_rows,
)

__all__ = ["ROCBand", "coverage_at_budget", "partial_auc", "roc_curve_in_band", "tpr_at_fpr"]


@public_in("pauc.metrics")
class ROCBand(NamedTuple):
    """Points of an empirical ROC curve, the lowest FPR first; each field is ``[K]`` float64."""

    fpr: Tensor  # non-decreasing, share of the negatives with score >= threshold
    tpr: Tensor  # non-decreasing, share of the positives with score >= threshold
    thresholds: Tensor  # non-increasing


class _Vertices(NamedTuple):
    """Cumulative counts at each distinct score; vertex 0 flags no row."""

    thresholds: Tensor  # [K + 1] float64, +inf first, then the distinct scores downwards
    fp: Tensor  # [K + 1] int64, negatives with score >= threshold
    tp: Tensor  # [K + 1] int64, positives with score >= threshold


def roc_curve_in_band(
    scores: Tensor,
    targets: Tensor,
    alpha: float = 0.0,
    beta: float = 1.0,
    *,
    ignore_index: int = -100,
) -> ROCBand:
    """Empirical ROC curve where ``alpha <= FPR <= beta`` (Fawcett 2006, algorithm 1).

    One vertex per distinct score (ties are one vertex), all of a vertical stretch at either edge
    included. Where no vertex lies exactly at an edge, a linearly interpolated point does, so that
    ``fpr[0] == alpha`` and ``fpr[-1] == beta`` always hold.

    The threshold of an interpolated point is that of the last vertex with a lower FPR: no threshold
    reaches the point itself, and this one stays within its FPR. The vertex that flags no row has
    threshold +inf, as in scikit-learn, even where a score is +inf and makes the next threshold +inf
    too. Integer scores beyond 2**53 are told apart, but their thresholds are rounded to float64.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        ignore_index: target of the rows to drop.

    Returns:
        ``ROCBand(fpr, tpr, thresholds)``, each ``[K]`` float64 with ``K >= 2``.

    Raises:
        TypeError, ValueError: see the module's docstring.
    """
    check_band(alpha, beta)
    curve = _roc(_vertices(scores, targets, ignore_index))
    inside = (curve.fpr >= alpha) & (curve.fpr <= beta)
    pieces = (_edge(curve, alpha), (column[inside] for column in curve), _edge(curve, beta))
    return ROCBand(*(torch.cat(columns) for columns in zip(*pieces, strict=True)))


def partial_auc(
    scores: Tensor,
    targets: Tensor,
    alpha: float = 0.0,
    beta: float = 1.0,
    *,
    normalize: Literal["none", "width", "mcclish"] = "width",
    ignore_index: int = -100,
) -> Tensor:
    """Area under the empirical ROC curve where ``alpha <= FPR <= beta``.

    The trapezoid over blocks of tied scores is exact: on the whole curve it is the Mann-Whitney
    statistic with ties counted half (Bamber 1975). ``normalize`` says what becomes of the area:

    - ``"none"``: the raw area, in [0, beta - alpha];
    - ``"width"``: area / (beta - alpha), the mean TPR over the band, in [0, 1];
    - ``"mcclish"``: ``0.5 * (1 + (area - low) / (high - low))``, where ``high = beta - alpha`` and
      ``low = (beta**2 - alpha**2) / 2``, the area under the diagonal (McClish 1989). Chance is 0.5
      and a perfect ranking 1, whatever the band; worse than chance is below 0.5, and where
      ``alpha + beta > 1`` it can be below 0. With ``alpha = 0`` it is scikit-learn's
      ``roc_auc_score(max_fpr=beta)``.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype; multi-label ``[N, C]``.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1; multi-label ``[N, C]``.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        normalize: one of the three above.
        ignore_index: target of the rows to drop.

    Returns:
        0-dim float64; multi-label ``[C]``.

    Raises:
        TypeError, ValueError: see the module's docstring.
    """
    check_normalize(normalize)
    if have_columns(scores, targets):
        return by_column(
            partial(
                partial_auc, alpha=alpha, beta=beta, normalize=normalize, ignore_index=ignore_index
            ),
            scores,
            targets,
        )
    curve = roc_curve_in_band(scores, targets, alpha, beta, ignore_index=ignore_index)
    return normalized(torch.trapezoid(curve.tpr, curve.fpr), alpha, beta, normalize)


def check_normalize(normalize: str) -> None:
    """Raise unless the name of a normalisation is known."""
    if normalize not in ("none", "width", "mcclish"):
        raise ValueError(f"normalize must be 'none', 'width' or 'mcclish', got {normalize!r}")


def normalized(area: Tensor, alpha: float, beta: float, normalize: str) -> Tensor:
    """Return what becomes of a raw area over the band, as :func:`partial_auc` says."""
    if normalize == "none":
        return area
    mean_tpr = area / (beta - alpha)
    if normalize == "width":
        return mean_tpr
    # McClish's low and high, both divided by the width, which would cancel badly in a narrow band.
    chance = (alpha + beta) / 2
    return 0.5 * (1 + (mean_tpr - chance) / (1 - chance))


def tpr_at_fpr(
    scores: Tensor,
    targets: Tensor,
    fpr: float | Sequence[float] | Tensor,
    *,
    ignore_index: int = -100,
) -> Tensor:
    """Best TPR among the actual thresholds whose FPR does not exceed ``fpr``.

    A step value that can be deployed (Pepe 2003: sensitivity at a fixed FPR), not an interpolated
    point of the curve: thresholds are the distinct scores, and +inf, which flags no row. So a tie
    that would go over the budget is left out whole.

    ``fpr`` allows ``floor(fpr * negatives)`` false positives. It is read to within four rounding
    steps (``4 * eps``) of its dtype, so that 0.29 allows 29 of 100 negatives although
    ``0.29 * 100 < 29`` in floating point.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype; multi-label ``[N, C]``.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1; multi-label ``[N, C]``.
        fpr: one or more budgets, each in [0, 1]; a tensor may live on any device.
        ignore_index: target of the rows to drop.

    Returns:
        float64 in the shape of ``fpr`` (0-dim for a float), on the scores' device; multi-label
        ``[C, ...]``.

    Raises:
        TypeError, ValueError: see the module's docstring.
    """
    if have_columns(scores, targets):
        return by_column(partial(tpr_at_fpr, fpr=fpr, ignore_index=ignore_index), scores, targets)
    budgets, slack = check_rates(fpr, "fpr")
    vertices = _vertices(scores, targets, ignore_index)
    return _best_tpr(vertices, vertices.fp, budgets, slack)


def coverage_at_budget(
    scores: Tensor,
    targets: Tensor,
    budget: float | Sequence[float] | Tensor,
    *,
    ignore_index: int = -100,
) -> Tensor:
    """Recall among the top ``budget`` share of all rows: the TPR under a budget of alerts.

    The best TPR among the actual thresholds that flag at most ``floor(budget * n)`` rows, positive
    or negative, of the ``n`` that are not ignored (recall at k, as in Manning, Raghavan and Schütze
    2008, section 8.4, with ties kept together). A tie that would go over the budget is left out
    whole, so that the value does not depend on the order of the rows; breaking the tie at random
    would find at least as many.

    ``budget`` is read to within four rounding steps (``4 * eps``) of its dtype, so that 0.29 of 100
    rows are 29 although ``0.29 * 100 < 29`` in floating point.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype; multi-label ``[N, C]``.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1; multi-label ``[N, C]``.
        budget: one or more shares of the rows, each in [0, 1]; a tensor may live on any device.
        ignore_index: target of the rows to drop.

    Returns:
        float64 in the shape of ``budget`` (0-dim for a float), on the scores' device; multi-label
        ``[C, ...]``.

    Raises:
        TypeError, ValueError: see the module's docstring.
    """
    if have_columns(scores, targets):
        return by_column(
            partial(coverage_at_budget, budget=budget, ignore_index=ignore_index), scores, targets
        )
    budgets, slack = check_rates(budget, "budget")
    vertices = _vertices(scores, targets, ignore_index)
    return _best_tpr(vertices, vertices.fp + vertices.tp, budgets, slack)


def _vertices(scores: Tensor, targets: Tensor, ignore_index: int) -> _Vertices:
    """Count false and true positives at every distinct score; all metrics start here."""
    scores, targets = kept_rows(scores, targets, ignore_index)
    check_both_classes(targets)
    ordered, order = scores.sort(descending=True)
    closes_tie = torch.ones_like(ordered, dtype=torch.bool)
    closes_tie[:-1] = ordered[1:] != ordered[:-1]
    last = closes_tie.nonzero()[:, 0]
    tp = targets[order].cumsum(0)[last]
    fp = last + 1 - tp
    thresholds = pad(ordered[last].double(), (1, 0), value=math.inf)
    return _Vertices(thresholds, pad(fp, (1, 0)), pad(tp, (1, 0)))


def _roc(vertices: _Vertices) -> ROCBand:
    fp, tp = vertices.fp.double(), vertices.tp.double()
    return ROCBand(fp / fp[-1], tp / tp[-1], vertices.thresholds)


def _edge(curve: ROCBand, fpr: float) -> ROCBand:
    """Return the curve's interpolated point at ``fpr``, or no point where a vertex lies there."""
    at = curve.fpr.new_tensor([fpr])
    right = torch.searchsorted(curve.fpr, at)  # first vertex with FPR >= fpr: the last has FPR 1
    if curve.fpr[right] == at:
        return ROCBand(at[:0], at[:0], at[:0])
    left = right - 1  # exists: vertex 0 has FPR 0
    share = (at - curve.fpr[left]) / (curve.fpr[right] - curve.fpr[left])
    tpr = torch.lerp(curve.tpr[left], curve.tpr[right], share)
    return ROCBand(at, tpr, curve.thresholds[left])


def _best_tpr(vertices: _Vertices, cost: Tensor, budgets: Tensor, slack: float) -> Tensor:
    """Return the TPR of the last vertex whose ``cost`` (rows, non-decreasing) fits each budget."""
    allowed = allowed_rows(budgets.to(cost.device), cost[-1], slack)
    last = torch.searchsorted(cost, allowed, right=True) - 1  # vertex 0 costs 0 and always fits
    return vertices.tp[last].double() / vertices.tp[-1]
