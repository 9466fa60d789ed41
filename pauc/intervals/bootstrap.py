"""The interval of any metric, by calling it on resamples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor, in_kind, same_device
from pauc.checks import check_ignore_index
from pauc.intervals.interval import Interval
from pauc.intervals.resamples import check_resamples, draws, with_percentiles
from pauc.metrics.inputs import (
    UndefinedError,
    checked_labels,
    checked_weights,
)


def bootstrap_interval(
    metric: Callable[..., Any],
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int | torch.Generator = 0,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Interval:
    """Percentile interval of any metric by the stratified bootstrap (Efron 1979).

    Rows of each class (positives and negatives, or each class index) are drawn with replacement, as
    many as there are. Rows with several labels each, ``[N, C]``, have no classes: they are drawn
    from all rows. The ends are the order statistics ``k`` and ``n_resamples + 1 - k`` of the
    metric's values, ``k = floor((n_resamples + 1) (1 - confidence) / 2)`` (Davison and Hinkley
    1997, section 5.3).

    ``scores`` may have several columns: the difference of two models on the same rows is
    ``lambda s, t: tpr_at_fpr(s[:, 1], t, 0.005) - tpr_at_fpr(s[:, 0], t, 0.005)``.

    Args:
        metric: ``metric(scores, targets)`` gives a tensor or an array of any shape, or a number. It
            is called ``n_resamples + 1`` times: with tensors if the scores are one, else with NumPy
            arrays; always with as many rows as are not ignored. With weights,
            ``metric(scores, targets, sample_weight=...)``. A resample on which it is nan, or lacks
            a class, is left out; ``n_resamples`` in the formula above does not count it.
        scores: ``[N, ...]``, any shape and dtype that the metric takes.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1, or of class indices where the scores have several
            columns; or ``[N, C]`` of 0, 1 and ``ignore_index``.
        confidence: above 0 and below 1.
        n_resamples: at least ``2 / (1 - confidence) - 1``.
        seed: an integer, for the same draws in every call on the same kind of device; or a
            generator, whose state moves on and on whose device the draws are made.
        sample_weight: ``[N]`` or ``[N, 1]``; a drawn row brings its weight along.
        ignore_index: target of the rows to drop; entries of ``[N, C]`` are the metric's to drop.

    Returns:
        ``Interval(estimate, low, high)`` in the shape of the metric, float64.

    Raises:
        TypeError, ValueError: a bad argument, and whatever the metric raises.
    """
    check_resamples(n_resamples, confidence)
    rows = _rows_of(scores, targets, sample_weight, ignore_index)

    def measure(chosen: Tensor) -> Tensor:
        parts = [in_kind(part[chosen], scores) for part in (rows.scores, rows.targets)]
        if rows.weight is None:
            return as_tensor(metric(*parts), "metric").double()
        weight = in_kind(rows.weight[chosen], scores)
        return as_tensor(metric(*parts, sample_weight=weight), "metric").double()

    estimate = measure(torch.cat(rows.strata).sort().values)
    values = [
        _measured_quietly(measure, draw, estimate)
        for several in draws(rows.strata, n_resamples, seed)
        for draw in several
    ]
    parts = with_percentiles(estimate, torch.stack(values), confidence)
    return Interval(*(in_kind(part, scores) for part in parts))


class _Rows(NamedTuple):
    """What a resample is drawn from."""

    scores: Tensor  # [N, ...]
    targets: Tensor  # [N] int64, or [N, C]
    weight: Tensor | None  # [N] float64
    strata: list[Tensor]  # numbers of the rows to draw from, int64


def _rows_of(
    scores: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike, ignore_index: int
) -> _Rows:
    """Return the checked rows with their strata."""
    check_ignore_index(ignore_index)
    given = {"scores": scores, "targets": targets, "sample_weight": sample_weight}
    scores, targets, weight = same_device(given, optional="sample_weight")
    if scores.ndim == 0 or targets.ndim not in (1, 2) or len(scores) != len(targets):
        raise ValueError(
            "scores must be [N, ...] and targets [N], [N, 1] or [N, C] with the same number of "
            f"rows, got {list(scores.shape)} and {list(targets.shape)}"
        )
    targets = targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    one_column = targets.ndim == 2 or scores[:1].numel() == 1
    targets = checked_labels(targets, 1 if one_column else 2**31, ignore_index)
    present = targets != ignore_index
    if weight is not None:
        weight = checked_weights(weight, present)
    return _Rows(scores, targets.long(), weight, _strata(targets, present))


def _strata(targets: Tensor, present: Tensor) -> list[Tensor]:
    """Return the numbers of the rows of each class, the highest first; or of all rows."""
    if targets.ndim == 2:
        return [torch.arange(len(targets), device=targets.device)]
    classes = torch.unique(targets[present]).flip(0)
    if len(classes) < 2:
        raise UndefinedError(
            "targets must hold both classes once ignored rows are dropped, "
            f"got {int((targets == 1).sum())} positives and {int((targets == 0).sum())} negatives"
        )
    return [(targets == label).nonzero()[:, 0] for label in classes]


def _measured_quietly(
    measure: Callable[[Tensor], Tensor], chosen: Tensor, estimate: Tensor
) -> Tensor:
    """Return the metric of a resample, or nan where that lacks a class, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "undefined, and so nan", UserWarning)
        try:
            return measure(chosen)
        except UndefinedError:
            return torch.full_like(estimate, torch.nan)
