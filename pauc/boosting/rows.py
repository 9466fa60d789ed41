"""The rows that an objective or a metric is given, checked, as tensors in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_weights
from pauc.native.boosting import marked_rows


class Rows(NamedTuple):
    """``N`` rows with a score for each of ``K`` classes; binary rows have one column."""

    scores: Tensor  # [N, K] float64
    labels: Tensor  # [N] of any real dtype: the class; 0 or 1 if there is one column
    positives: list[Tensor]  # [P] int64 of each column: its class's rows
    weight: Tensor | None  # [N] float64, contiguous


def make_rows(scores: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike | None) -> Rows:
    """Check what a caller gave, tensors or arrays.

    Raises:
        TypeError, ValueError: an argument that is no array of numbers, a wrong shape, a score that
            is not finite, a target that is no class, or a bad weight.
    """
    column = as_tensor(scores, "scores").double().resolve_neg()
    if column.ndim not in (1, 2) or column.numel() == 0:
        raise ValueError(f"scores must be [N] or [N, K] with rows, got {list(column.shape)}")
    column = column.reshape(len(column), -1)
    labels = _labels(as_tensor(targets, "targets"), len(column))
    positives = _rows_of_classes(labels, column.shape[1])
    # One number first: it is finite only if all are, and takes no array of flags.
    if not bool(column.sum().isfinite()) and not bool(column.isfinite().all()):
        bad = int((~column.isfinite()).sum())
        raise ValueError(f"scores must be finite, got {bad} of {column.numel()} that are not")
    if sample_weight is None:
        return Rows(column, labels, positives, None)
    weight = as_tensor(sample_weight, "sample_weight").double().resolve_neg().contiguous()
    if weight.shape != labels.shape:
        raise ValueError(
            f"sample_weight must be [N] with N={len(labels)}, got {list(weight.shape)}"
        )
    least, largest = weight.aminmax()  # nan where there is one
    if not (least >= 0 and largest < math.inf):
        check_weights(weight, torch.ones_like(weight, dtype=torch.bool))
    return Rows(column, labels, positives, weight)


def _labels(targets: Tensor, rows: int) -> Tensor:
    if targets.shape != (rows,) and targets.shape != (rows, 1):
        raise ValueError(
            f"targets must be [N] with a target for each of the N={rows} rows of scores, "
            f"got {list(targets.shape)}"
        )
    return targets.reshape(-1)


def _rows_of_classes(labels: Tensor, columns: int) -> list[Tensor]:
    """Return the rows of each column's class, or raise where a label is none of them."""
    if columns == 1:
        # To find rows takes longer than to look at them: once, and no other search.
        found = [marked_rows(labels.bool())]
        legal = bool((labels[found[0]] == 1).all())
    else:
        found = [marked_rows(labels == label) for label in range(columns)]
        legal = sum(map(len, found)) == len(labels)
    if not legal:
        last = max(columns - 1, 1)
        wrong = labels[
            ~torch.isin(labels.double(), torch.arange(last + 1.0, device=labels.device).double())
        ]
        cure = "" if columns > 1 else "; several classes need num_class, and scores [N, num_class]"
        raise ValueError(f"targets must be whole numbers in 0..{last}{cure}, got {_few(wrong)}")
    return found


def _few(values: Tensor) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:3].tolist())
    return f"{shown} ({len(values)} such rows)" if len(values) > 3 else shown
