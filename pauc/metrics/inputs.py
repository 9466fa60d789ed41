"""What the metrics are given: the rows that count, their columns, and rates that mean rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def kept_rows(scores: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the kept scores ``[n]``, in a dtype that can be sorted, and targets ``[n]`` int64.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`; one class alone is no error here.
    """
    scores, targets = _check_column(scores, "scores"), _check_column(targets, "targets")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index must be an int, got {ignore_index!r}")
    if scores.shape != targets.shape:
        raise ValueError(
            "scores and targets must have the same number of rows, "
            f"got {scores.shape[0]} and {targets.shape[0]}"
        )
    if scores.device != targets.device:
        raise ValueError(
            f"targets must be on the scores' device, {scores.device}, got {targets.device}"
        )
    # uint8 targets would wrap ignore_index: torch holds that uint8 156 equals -100.
    targets = targets.to(torch.float64 if targets.is_floating_point() else torch.int64)
    keep = targets != ignore_index
    scores, targets = scores[keep], targets[keep]
    _check_values(scores, targets)
    return scores, targets.long()


def _check_column(column: Tensor, name: str) -> Tensor:
    if not isinstance(column, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(column).__name__}")
    if column.is_complex():
        raise TypeError(f"{name} must have a real dtype, got {column.dtype}")
    if column.ndim != 1 and not (column.ndim == 2 and column.shape[1] == 1):
        raise ValueError(f"{name} must be [N] or [N, 1], got shape {list(column.shape)}")
    column = column.detach().reshape(-1)
    # Exact, and torch can sort it: float8 has no comparison.
    return column.float() if column.is_floating_point() and column.itemsize < 4 else column


def _check_values(scores: Tensor, targets: Tensor) -> None:
    nans = int(scores.isnan().sum())
    if nans:
        raise ValueError(f"scores must not be nan, got {nans} nan in {scores.numel()} rows")
    wrong = targets[(targets != 0) & (targets != 1)]
    if wrong.numel():
        raise ValueError(f"targets must be 0, 1 or ignore_index, got {wrong[:5].tolist()}")


def check_both_classes(targets: Tensor) -> None:
    """Raise unless the kept targets hold a positive and a negative."""
    positives = int(targets.sum())
    negatives = targets.numel() - positives
    if not positives or not negatives:
        raise ValueError(
            "targets must hold both classes once ignored rows are dropped, "
            f"got {positives} positives and {negatives} negatives"
        )


def have_columns(scores: Tensor, targets: Tensor) -> bool:
    """Return whether both are the same ``[N, C]``; anything else is for the checks of a column."""
    return (
        isinstance(scores, Tensor)
        and isinstance(targets, Tensor)
        and scores.ndim == 2
        and scores.shape[1] > 1
        and scores.shape == targets.shape
    )


def by_column(
    metric: Callable[[Tensor, Tensor], Tensor], scores: Tensor, targets: Tensor
) -> Tensor:
    """Return ``[C, ...]``: the metric of each column; an error says of which."""
    found = []
    for c, (own, labels) in enumerate(zip(scores.unbind(1), targets.unbind(1), strict=True)):
        try:
            found.append(metric(own, labels))
        except (TypeError, ValueError) as error:
            raise type(error)(f"in column {c}: {error}") from error
    return torch.stack(found)


def check_rates(rates: float | Sequence[float] | Tensor, name: str) -> tuple[Tensor, float]:
    """Return the rates as float64 and their relative uncertainty, from the dtype they came in."""
    try:
        given = rates if isinstance(rates, Tensor) else torch.tensor(rates, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a number, or a sequence or tensor of numbers, got {rates!r}"
        ) from error
    if isinstance(rates, bool) or given.dtype == torch.bool or given.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {rates!r}")
    exact = given.double()
    wrong = exact[~((exact >= 0) & (exact <= 1))]  # so written, nan is wrong
    if wrong.numel():
        raise ValueError(f"{name} must be in [0, 1], got {wrong[:5].tolist()}")
    dtype = given.dtype if given.is_floating_point() else torch.float64
    return exact, 4 * torch.finfo(dtype).eps


def allowed_rows(budgets: Tensor, total: Tensor, slack: float) -> Tensor:
    """Return how many of ``total`` rows each budget allows, int64, contiguous."""
    # Without the slack a product that should be whole, such as 0.29 * 100, loses a row to rounding.
    return (budgets * total * (1 + slack)).floor().long().contiguous()
