"""What a metric is given, checked once: columns of scores with labels and weights of their rows.

Every way to write labels (0 and 1, class indices, one-hot, several labels a row) becomes one binary
:class:`Column` for each column of the scores here, so that a metric knows columns alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, same_device
from pauc.checks import check_ignore_index, check_weights

Found = TypeVar("Found")


class UndefinedError(ValueError):
    """The rows of a column do not define the metric: a TPR without positives, say."""


class Column(NamedTuple):
    """The rows of one column that count: neither ignored nor of weight 0."""

    scores: Tensor  # [n], in a dtype that torch can sort, without nan
    positive: Tensor  # [n] bool
    weight: Tensor | None  # [n] float64 above 0; None: every row counts once


class Table(NamedTuple):
    """All rows as they were given, with shapes checked; :meth:`column` checks the values."""

    scores: Tensor  # [N, C]
    labels: Tensor  # [N, C] of 0, 1 and ignore_index; or [N, 1] of class indices if C > 1
    weight: Tensor | None  # [N] float64
    ignore_index: int

    @property
    def is_single(self) -> bool:
        """Whether there is one column, whose answer has no dimension for columns."""
        return self.scores.shape[1] == 1

    def column(self, c: int) -> Column:
        """Return column ``c`` as a binary problem.

        Raises:
            ValueError: a nan among the scores of the rows that count.
        """
        by_index = self.labels.shape[1] < self.scores.shape[1]
        labels = self.labels[:, 0 if by_index else c]
        keep = labels != self.ignore_index
        if self.weight is not None:
            keep &= self.weight > 0
        column = Column(self.scores[:, c], labels == (c if by_index else 1), self.weight)
        if not bool(keep.all()):  # a copy of ten million rows is worth the question
            column = Column(*(None if part is None else part[keep] for part in column))  # type: ignore[arg-type]
        nans = int(column.scores.isnan().sum())
        if nans:
            raise ValueError(f"scores must not be nan, got {nans} nan in {len(keep)} rows")
        return column


def table_of(
    scores: ArrayLike, targets: ArrayLike, sample_weight: ArrayLike, ignore_index: int
) -> Table:
    """Return the table of what a caller gave.

    Raises:
        TypeError, ValueError: see :mod:`pauc.metrics`; but a single class is accepted.
    """
    check_ignore_index(ignore_index)
    given = {"scores": scores, "targets": targets, "sample_weight": sample_weight}
    scores, targets, weight = same_device(given, optional="sample_weight")
    if scores.ndim not in (1, 2) or (scores.ndim == 2 and scores.shape[1] == 0):
        raise ValueError(f"scores must be [N] or [N, C], got shape {list(scores.shape)}")
    scores = scores.unsqueeze(1) if scores.ndim == 1 else scores
    labels = _labels(targets, scores, ignore_index)
    if weight is not None:
        weight = checked_weights(weight, labels != ignore_index)
    return Table(scores, labels, weight, ignore_index)


def by_column(
    measure: Callable[[Column], Tensor],
    table: Table,
    shape: tuple[int, ...] = (),
    *,
    level: int = 3,
) -> Tensor:
    """Return the measure of the only column; of several, all of them stacked, ``[C, ...]``.

    Of several, an undefined one is nan in the given ``shape``, with a warning that is shown at the
    line ``level`` calls up; a single one raises.
    """
    blank = torch.full(shape, torch.nan, dtype=torch.float64, device=table.scores.device)
    found = each_column(measure, table, blank, level=level + 1)
    return found[0] if table.is_single else torch.stack(found)


def each_column(
    measure: Callable[[Column], Found], table: Table, blank: Found, *, level: int = 4
) -> list[Found]:
    """Return the measure of each column, as :func:`by_column` has it; an error names its column.

    The warning is shown at the line ``level`` calls up.
    """
    if table.is_single:
        return [measure(table.column(0))]
    found, undefined = [], {}
    for c in range(table.scores.shape[1]):
        try:
            found.append(measure(table.column(c)))
        except UndefinedError as error:
            undefined[c] = str(error)
            found.append(blank)
        except (TypeError, ValueError) as error:
            raise type(error)(f"in column {c}: {error}") from error
    if undefined:
        shown = "; ".join(f"column {c}: {reason}" for c, reason in list(undefined.items())[:3])
        warnings.warn(
            f"undefined, and so nan, in {len(undefined)} of {len(found)} columns. {shown}",
            UserWarning,
            stacklevel=level,
        )
    return found


def only_column(scores: ArrayLike, targets: ArrayLike, ignore_index: int) -> Column:
    """Return the rows that count of scores ``[N]`` or ``[N, 1]``.

    Raises:
        TypeError, ValueError: as for :func:`table_of`; scores of several columns.
    """
    table = table_of(scores, targets, None, ignore_index)
    if not table.is_single:
        raise ValueError(f"scores must be [N] or [N, 1], got shape {list(table.scores.shape)}")
    return table.column(0)


def check_both_classes(positive: Tensor) -> None:
    """Raise :class:`UndefinedError` unless ``positive [n]`` bool holds both values."""
    positives = int(positive.sum())
    negatives = positive.numel() - positives
    if not positives or not negatives:
        raise UndefinedError(
            "targets must hold both classes once ignored rows are dropped, "
            f"got {positives} positives and {negatives} negatives"
        )


def _labels(targets: Tensor, scores: Tensor, ignore_index: int) -> Tensor:
    """Return the labels ``[N, C]``, or ``[N, 1]`` of class indices; raise for other shapes."""
    if targets.ndim == 1:
        targets = targets.unsqueeze(1)
    rows, columns = scores.shape
    if targets.ndim != 2 or targets.shape[1] not in (1, columns):
        expected = "[N] or [N, 1]" if columns == 1 else f"[N], [N, 1] or [N, C] = [N, {columns}]"
        raise ValueError(f"targets must be {expected}, got shape {list(targets.shape)}")
    if len(targets) != rows:
        raise ValueError(
            f"scores and targets must have the same number of rows, got {rows} and {len(targets)}"
        )
    return checked_labels(targets, 1 if targets.shape[1] == columns else columns - 1, ignore_index)


def checked_labels(targets: Tensor, largest: int, ignore_index: int) -> Tensor:
    """Return the labels in a dtype that holds ``ignore_index``.

    Raises:
        ValueError: a label that is neither a whole number in 0..``largest`` nor ``ignore_index``.
    """
    if targets.dtype == torch.bool:
        return targets  # 0 and 1 alone, in an eighth of the memory
    # A wide dtype first: in uint8 an ignore_index of -100 would wrap around and match 156.
    targets = targets if targets.is_floating_point() else targets.to(torch.int64)
    legal = (targets >= 0) & (targets <= largest)
    if targets.is_floating_point():
        legal &= targets == targets.floor()
    wrong = targets[~legal & (targets != ignore_index)]
    if wrong.numel():
        expected = "0, 1" if largest == 1 else f"a class index in 0..{largest}"
        raise ValueError(f"targets must be {expected} or ignore_index, got {wrong[:5].tolist()}")
    return targets


def checked_weights(weight: Tensor, present: Tensor) -> Tensor:
    """Return the weights as float64 ``[N]``; raise unless they fit the present rows."""
    if weight.shape not in (present.shape[:1], (len(present), 1)):
        raise ValueError(
            f"sample_weight must be [N] or [N, 1] with N = {len(present)}, "
            f"got shape {list(weight.shape)}"
        )
    weight = weight.reshape(-1).double()
    check_weights(weight, present)
    kept = present.any(dim=1) if present.ndim == 2 else present
    if weight[kept].sum() == torch.inf:
        raise ValueError("sample_weight must have a finite sum, got weights that add up to inf")
    return weight
