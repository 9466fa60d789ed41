"""The rows that an objective or a metric is given, checked, as tensors in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_weights


class Rows(NamedTuple):
    """``N`` rows with a score for each of ``K`` classes; binary rows have one column."""

    scores: Tensor  # [N, K] float64
    labels: Tensor  # [N] of any real dtype: the class; 0 or 1 if there is one column
    weight: Tensor | None  # [N] float64


def make_rows(scores: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None) -> Rows:
    """Check what a caller gave, tensors or arrays.

    Raises:
        TypeError, ValueError: an argument that is no array of numbers, a wrong shape, a score that
            is not finite, a target that is no class, or a bad weight.
    """
    column = as_tensor(scores, "scores").double()
    if column.ndim not in (1, 2) or column.numel() == 0:
        raise ValueError(f"scores must be [N] or [N, K] with rows, got {list(column.shape)}")
    column = column.reshape(len(column), -1)
    labels = _labels(as_tensor(targets, "targets"), column)
    # One number first: it is finite only if all are, and takes no array of flags.
    if not bool(column.sum().isfinite()) and not bool(column.isfinite().all()):
        bad = int((~column.isfinite()).sum())
        raise ValueError(f"scores must be finite, got {bad} of {column.numel()} that are not")
    if sample_weight is None:
        return Rows(column, labels, None)
    weight = as_tensor(sample_weight, "sample_weight").double()
    if weight.shape != labels.shape:
        raise ValueError(
            f"sample_weight must be [N] with N={len(labels)}, got {list(weight.shape)}"
        )
    check_weights(weight, torch.ones_like(weight, dtype=torch.bool))
    return Rows(column, labels, weight)


def _labels(targets: Tensor, scores: Tensor) -> Tensor:
    """Return the targets ``[N]``, all of them classes of the scores; or raise."""
    rows, columns = scores.shape
    if targets.shape != (rows,) and targets.shape != (rows, 1):
        raise ValueError(
            f"targets must be [N] with a target for each of the N={rows} rows of scores, "
            f"got {list(targets.shape)}"
        )
    targets = targets.reshape(-1)
    last = max(columns - 1, 1)
    # Zeros are what is not counted: one pass over the rows less.
    legal = rows - int(targets.count_nonzero())
    legal += sum(int((targets == label).count_nonzero()) for label in range(1, last + 1))
    if legal < rows:
        wrong = targets[
            ~torch.isin(targets.double(), torch.arange(last + 1.0).to(targets.device).double())
        ]
        cure = "" if columns > 1 else "; several classes need num_class, and scores [N, num_class]"
        raise ValueError(f"targets must be whole numbers in 0..{last}{cure}, got {_few(wrong)}")
    return targets


def _few(values: Tensor) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:3].tolist())
    return f"{shown} ({len(values)} such rows)" if len(values) > 3 else shown
