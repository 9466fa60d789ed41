"""Checks of what the metrics are given, rows and rates, and their conversion to what is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def kept_rows(scores: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return the scores ``[n]`` and targets ``[n]`` of the rows that are not ignored.

    The scores are detached and in a dtype that torch can sort; the targets are int64, 0 and 1.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`; but rows of a single class are accepted.
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
    # A wide dtype first: in uint8 an ignore_index of -100 would wrap around and match 156.
    targets = targets.to(torch.float64 if targets.is_floating_point() else torch.int64)
    keep = targets != ignore_index
    scores, targets = scores[keep], targets[keep]
    _check_values(scores, targets)
    return scores, targets.long()


def _check_column(column: Tensor, name: str) -> Tensor:
    """Return the column as ``[N]``, detached, in a dtype that can be compared; or raise."""
    if not isinstance(column, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(column).__name__}")
    if column.is_complex():
        raise TypeError(f"{name} must have a real dtype, got {column.dtype}")
    if column.ndim != 1 and not (column.ndim == 2 and column.shape[1] == 1):
        raise ValueError(f"{name} must be [N] or [N, 1], got shape {list(column.shape)}")
    column = column.detach().reshape(-1)
    # float32 holds every value of the narrower floats, and float8 itself has no comparison.
    return column.float() if column.is_floating_point() and column.itemsize < 4 else column


def _check_values(scores: Tensor, targets: Tensor) -> None:
    """Raise for a nan among the kept scores, or a kept target other than 0 and 1."""
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
    """Return whether scores and targets are both ``[N, C]`` with ``C`` above 1.

    Any other shape is taken for one column, whose checks say what is wrong with it.
    """
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
    """Return the metric of each column, stacked to ``[C, ...]``; an error names its column."""
    found = []
    for c, (own, labels) in enumerate(zip(scores.unbind(1), targets.unbind(1), strict=True)):
        try:
            found.append(metric(own, labels))
        except (TypeError, ValueError) as error:
            raise type(error)(f"in column {c}: {error}") from error
    return torch.stack(found)


def check_rates(rates: float | Sequence[float] | Tensor, name: str) -> tuple[Tensor, float]:
    """Return the rates as float64 in their shape, and their relative uncertainty, ``4 * eps``.

    The ``eps`` is that of the dtype in which they came; float64 for Python numbers and integers.

    Raises:
        TypeError: no real numbers.
        ValueError: a rate outside [0, 1], or nan.
    """
    try:
        given = (
            rates
            if isinstance(rates, Tensor)
            else torch.tensor(rates, dtype=torch.float64, device="cpu")
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be a number, or a sequence or tensor of numbers, got {rates!r}"
        ) from error
    if isinstance(rates, bool) or given.dtype == torch.bool or given.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {rates!r}")
    exact = given.double()
    wrong = exact[~((exact >= 0) & (exact <= 1))]  # and not `< 0 | > 1`, which nan would pass
    if wrong.numel():
        raise ValueError(f"{name} must be in [0, 1], got {wrong[:5].tolist()}")
    dtype = given.dtype if given.is_floating_point() else torch.float64
    return exact, 4 * torch.finfo(dtype).eps


def allowed_rows(budgets: Tensor, total: Tensor, slack: float) -> Tensor:
    """Return how many of ``total`` rows each budget allows: int64 in the shape of ``budgets``."""
    # Without the slack a product that should be whole, such as 0.29 * 100, loses a row to rounding.
    # Contiguous, or torch.searchsorted warns of its speed.
    return (budgets * total * (1 + slack)).floor().long().contiguous()
