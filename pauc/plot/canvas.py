"""What all pictures share: the axes, the colours, and the columns of several classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pauc.checks import check_targets
from pauc.metrics.inputs import only_column

__all__ = ["BAND", "COLOURS", "DASHES", "Column", "columns_of", "new_axes", "numbers", "span"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("--", "-", ":", "-.")
BAND = "0.90"  # light grey


class Column(NamedTuple):
    """One class against all others; rows that are ignored are not in it."""

    name: str  # empty if there is only one
    scores: Tensor  # [n]
    targets: Tensor  # [n] int64 of 0 and 1, both present


def new_axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the axes of a new figure."""
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def span(alpha: float, beta: float) -> str:
    """Return the band as a legend shows it."""
    return f"{alpha:g} to {beta:g}"


def numbers(values: Any) -> list[float]:
    """Return ``[K]`` plain numbers of a tensor, an array or a sequence."""
    return [float(value) for value in values]


def columns_of(
    scores: Tensor, targets: Tensor, ignore_index: int, class_names: Sequence[str] | None
) -> list[Column]:
    """Return the classes that can be drawn; warn of the others.

    Raises:
        TypeError, ValueError: as for :mod:`pauc.metrics`; targets that are no class indices; names
            of another number than the classes; or no class that can be drawn.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] == 1:
        name = "" if class_names is None else _names(class_names, 1)[0]
        return [_column(name, scores, targets, ignore_index)]
    classes = scores.shape[1]
    names = _names(class_names, classes)
    labels = _one_against_all(targets, classes, ignore_index)
    found: list[Column] = []
    missing: list[Column] = []
    for name, own, label in zip(names, scores.unbind(1), labels.unbind(1), strict=True):
        column = _column(name, own, label, ignore_index)
        (found if 0 < int(column.targets.sum()) < len(column.targets) else missing).append(column)
    if not found:
        raise ValueError("targets must hold both classes in one column at least, got none")
    if missing:
        left_out = ", ".join(column.name for column in missing)
        warnings.warn(f"not drawn, without both classes: {left_out}", UserWarning, stacklevel=3)
    return found


def _column(name: str, scores: Tensor, targets: Tensor, ignore_index: int) -> Column:
    kept = only_column(scores, targets, ignore_index)
    return Column(name, kept.scores, kept.positive.long())


def _names(class_names: Sequence[str] | None, classes: int) -> Sequence[str]:
    """Return the classes' names, by default their numbers."""
    if class_names is None:
        return [f"class {c}" for c in range(classes)]
    if len(class_names) != classes:
        raise ValueError(f"class_names must be {classes} names, got {len(class_names)}")
    return class_names


def _one_against_all(targets: Tensor, classes: int, ignore_index: int) -> Tensor:
    """Return targets ``[N, C]`` of 0, 1 and ``ignore_index``."""
    if targets.ndim == 2 and targets.shape[1] == classes:
        return targets
    targets = targets.reshape(-1)
    check_targets(targets, classes, ignore_index)
    own = (targets.unsqueeze(1) == torch.arange(classes, device=targets.device)).long()
    return torch.where(targets.unsqueeze(1) == ignore_index, ignore_index, own)
