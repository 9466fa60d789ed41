"""The empirical ROC curve as cumulative counts at each distinct score; all metrics start here."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.metrics.inputs import Column, check_both_classes
from pauc.metrics.rates import allowed_rows, needed_rows


class Vertices(NamedTuple):
    """Rows or weight at or above each distinct score; vertex 0 flags no row."""

    thresholds: Tensor  # [K + 1] float64, +inf first, then the distinct scores downwards
    fp: Tensor  # [K + 1] negatives with score >= threshold: int64, or float64 if they have weights
    tp: Tensor  # [K + 1] positives with score >= threshold, in the same dtype


def vertices_of(column: Column) -> Vertices:
    """Count false and true positives at every distinct score.

    Raises:
        UndefinedError: a class is missing.
    """
    check_both_classes(column.positive)
    return count_vertices(column)


def count_vertices(column: Column) -> Vertices:
    """Count as :func:`vertices_of`, also where a class is missing."""
    ordered, order = column.scores.sort(descending=True)
    closes_tie = torch.ones_like(ordered, dtype=torch.bool)
    closes_tie[:-1] = ordered[1:] != ordered[:-1]
    last = closes_tie.nonzero()[:, 0]
    thresholds = pad(ordered[last].double(), (1, 0), value=torch.inf)
    positive = column.positive[order]
    weight = None if column.weight is None else column.weight[order]
    del order, closes_tie, ordered  # of ten million rows 130 MB, before as much again is made
    if weight is None:
        tp = positive.cumsum(0)[last]
        return Vertices(thresholds, pad(last + 1 - tp, (1, 0)), pad(tp, (1, 0)))
    fp, tp = (torch.where(own, weight, 0.0).cumsum(0)[last] for own in (~positive, positive))
    return Vertices(thresholds, pad(fp, (1, 0)), pad(tp, (1, 0)))


def best_tpr(tp: Tensor, cost: Tensor, budgets: Tensor, slack: float) -> Tensor:
    """Return the TPR of the last vertex whose cost fits each budget, ``[..., *budgets.shape]``.

    Args:
        tp: ``[..., K + 1]``, true positives at each vertex of one or more curves.
        cost: ``[..., K + 1]``, non-decreasing; what it is at the end is the whole.
        budgets: shares of the whole, float64.
        slack: their relative uncertainty.
    """
    allowed = allowed_rows(budgets.flatten().to(cost.device), cost[..., -1:], _slack(slack, cost))
    last = torch.searchsorted(cost, allowed, right=True) - 1  # vertex 0 costs 0 and always fits
    return _share_at(last, tp).view((*tp.shape[:-1], *budgets.shape))


def least_fpr(fp: Tensor, tp: Tensor, shares: Tensor, slack: float) -> Tensor:
    """Return the FPR of the first vertex that finds at least each share of the positives.

    Args and shapes are those of :func:`best_tpr`.
    """
    needed = needed_rows(shares.flatten().to(tp.device), tp[..., -1:], _slack(slack, tp))
    return _share_at(torch.searchsorted(tp, needed), fp).view((*fp.shape[:-1], *shares.shape))


def _share_at(vertex: Tensor, counts: Tensor) -> Tensor:
    """Return the counts at some vertices ``[..., B]`` as shares of the last count."""
    return counts.gather(-1, vertex).double() / counts[..., -1:]


def _slack(slack: float, cost: Tensor) -> float:
    """Return the slack of a rate, with the rounding of a sum of weights on top of it."""
    rounding = cost.shape[-1] * torch.finfo(torch.float64).eps
    return slack + rounding if cost.is_floating_point() else slack
