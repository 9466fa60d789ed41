"""The metrics of :mod:`pauc.metrics` as :class:`torchmetrics.Metric`, for training loops that log.

Needs torchmetrics: ``pip install 'torch-pauc[torchmetrics]'``.

``update(preds, target, sample_weight=None)`` takes what the functions take: scores ``[N]`` or
``[N, C]``, targets of 0, 1 and ``ignore_index`` or class indices, weights ``[N]``, tensors and
arrays; it raises as they do. Weights come with every batch or with none. The value is a float64
tensor, ``[C, ...]`` of several columns; it is nan where one of the two classes has no row (so far,
or in the one batch that ``forward`` computes).

Every class keeps the scores and targets of all rows that it is shown, since an exact curve needs
them, and gathers the rows of all ranks before it computes. With ``bits`` it keeps counts instead,
``16 * 2**bits`` bytes for each column whatever the number of rows (1 MB for 16 bits), and ranks add
theirs up. Scores that agree in the first ``bits`` bits as float32 are then a tie: for 16 bits those
within 0.4 to 0.8 % of each other. ``error_bound()`` says from the counts how far the value can be
from the exact one. Give logits: probabilities near 1 all begin with the same bits. Bins take
no weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_band, check_ignore_index, check_int
from pauc.metrics.band import area_of, check_normalize, normalized
from pauc.metrics.binned import area_error, counts_of, tpr_error, vertices_of_counts
from pauc.metrics.inputs import Table, UndefinedError, by_column, table_of
from pauc.metrics.rates import check_rates
from pauc.metrics.vertices import Vertices, best_tpr, vertices_of

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.data import dim_zero_cat
except ImportError as error:
    raise ImportError(
        "pauc.torchmetrics needs torchmetrics, which is not installed. Cure: "
        "pip install 'torch-pauc[torchmetrics]'"
    ) from error

__all__ = ["CoverageAtBudget", "PartialAUC", "TPRAtFPR"]


class _CurveMetric(Metric):
    """Keeps rows or counts; a subclass reads its value and error off the vertices of the curve."""

    _shape: tuple[int, ...] = ()  # of the value of one column
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    targets: list[Tensor]
    weights: list[Tensor]
    counts: Tensor

    def __init__(
        self, ignore_index: int, bits: int | None, num_classes: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_ignore_index(ignore_index)
        check_int("num_classes", num_classes, 1)
        self.ignore_index, self.bits, self.num_classes = ignore_index, bits, num_classes
        if bits is None:
            self.add_state("scores", default=[], dist_reduce_fx="cat")
            self.add_state("targets", default=[], dist_reduce_fx="cat")
            # Empty unless weights are given: ones would make counts sums, which are rounded.
            self.add_state("weights", default=[], dist_reduce_fx="cat")
            return
        check_int("bits", bits, 9)
        if bits > 24:
            raise ValueError(f"bits must be in 9..24, got {bits}")
        none = torch.zeros(num_classes, 2, 2**bits, dtype=torch.int64)
        self.add_state("counts", default=none, dist_reduce_fx="sum")

    def update(self, preds: ArrayLike, target: ArrayLike, sample_weight: ArrayLike = None) -> None:
        """Take in rows: scores ``[N]``, ``[N, 1]`` or ``[N, C]``, their targets and weights."""
        scores = as_tensor(preds, "scores").to(self.device)
        targets = as_tensor(target, "targets").to(self.device)
        if sample_weight is not None:
            sample_weight = as_tensor(sample_weight, "sample_weight").to(self.device)
        table = table_of(scores, targets, sample_weight, self.ignore_index)
        columns = [table.column(c) for c in range(table.scores.shape[1])]  # for its checks, too
        if self.bits is not None:
            self._check_columns(len(columns), self.num_classes)
            if sample_weight is not None:
                raise ValueError(f"sample_weight must be None with bits={self.bits}: bins count")
            self.counts += torch.stack([counts_of(column, self.bits) for column in columns])
            return
        self._check_like_before(table)
        # Ignored rows are kept: in a MetricCollection, metrics with another ignore_index may share
        # these rows, and count them.
        self.scores.append(table.scores)
        self.targets.append(targets.reshape(table.labels.shape))
        if table.weight is not None:
            self.weights.append(table.weight)

    def compute(self) -> Tensor:
        """Return the metric of all rows, float64; nan where a class has no row."""
        return self._read(self._value)

    def error_bound(self) -> Tensor:
        """Return how far the exact value can be from :meth:`compute`; 0 if all rows are kept.

        Among ranks it is of the rows of its own rank alone.
        """
        return self._read(self._error) if self.bits is not None else 0 * self.compute()

    def _read(self, of: Callable[[Vertices], Tensor]) -> Tensor:
        """Return what is read off the curve of each column, nan where there is no curve."""
        if self.bits is None:
            return self._read_rows(of)
        found = []
        for own in self.counts:
            defined = bool(own.any(1).all())
            found.append(of(vertices_of_counts(own)) if defined else self._nan())
        return found[0] if self.num_classes == 1 else torch.stack(found)

    def _read_rows(self, of: Callable[[Vertices], Tensor]) -> Tensor:
        if isinstance(self.scores, list) and not self.scores:  # before any update
            return self._nan()
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        weight = dim_zero_cat(self.weights) if len(self.weights) else None
        table = table_of(scores, targets, weight, self.ignore_index)
        try:
            return by_column(lambda column: of(vertices_of(column)), table, self._shape)
        except UndefinedError:
            return self._nan()

    def _nan(self) -> Tensor:
        return torch.full(self._shape, torch.nan, dtype=torch.float64, device=self.device)

    def _check_like_before(self, table: Table) -> None:
        if not self.scores:
            return
        self._check_columns(table.scores.shape[1], self.scores[0].shape[1])
        if (table.weight is None) == bool(self.weights):
            before = "with" if self.weights else "without"
            raise ValueError(
                f"sample_weight must come with every batch or with none, got one {before} before"
            )

    def _check_columns(self, found: int, expected: int) -> None:
        if found != expected:
            raise ValueError(f"scores must have {expected} columns as before, got {found}")

    @abstractmethod
    def _value(self, vertices: Vertices) -> Tensor:
        """Return the metric of a curve."""

    @abstractmethod
    def _error(self, vertices: Vertices) -> Tensor:
        """Return how far the exact metric can be if the vertices are those of bins."""


class TPRAtFPR(_CurveMetric):
    """:func:`pauc.metrics.tpr_at_fpr` of all rows. With ``bits`` the exact value is no lower.

    Args:
        fpr: one or more budgets in [0, 1]; the value has its shape.
        ignore_index: target of the rows to drop.
        bits: None, all rows are kept; or 9 to 24, counts in so many bins are.
        num_classes: number of columns, needed with ``bits`` alone.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        fpr: ArrayLike,
        *,
        ignore_index: int = -100,
        bits: int | None = None,
        num_classes: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(ignore_index, bits, num_classes, **kwargs)
        self.fpr, self._rates = fpr, check_rates(fpr, "fpr")
        self._shape = tuple(self._rates[0].shape)

    def _value(self, vertices: Vertices) -> Tensor:
        return best_tpr(vertices.tp, vertices.fp, *self._rates)

    def _error(self, vertices: Vertices) -> Tensor:
        return tpr_error(vertices.tp, vertices.fp, *self._rates)


class CoverageAtBudget(_CurveMetric):
    """:func:`pauc.metrics.coverage_at_budget` of all rows. With ``bits`` the exact is no lower.

    Args:
        budget: one or more shares of the rows, in [0, 1]; the value has its shape.
        ignore_index, bits, num_classes: as for :class:`TPRAtFPR`.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        budget: ArrayLike,
        *,
        ignore_index: int = -100,
        bits: int | None = None,
        num_classes: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(ignore_index, bits, num_classes, **kwargs)
        self.budget, self._rates = budget, check_rates(budget, "budget")
        self._shape = tuple(self._rates[0].shape)

    def _value(self, vertices: Vertices) -> Tensor:
        return best_tpr(vertices.tp, vertices.fp + vertices.tp, *self._rates)

    def _error(self, vertices: Vertices) -> Tensor:
        return tpr_error(vertices.tp, vertices.fp + vertices.tp, *self._rates)


class PartialAUC(_CurveMetric):
    """:func:`pauc.metrics.partial_auc` of all rows.

    Args:
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        normalize: ``"none"``, ``"width"`` or ``"mcclish"``.
        ignore_index, bits, num_classes: as for :class:`TPRAtFPR`.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self,
        alpha: float = 0.0,
        beta: float = 1.0,
        *,
        normalize: Literal["none", "width", "mcclish"] = "width",
        ignore_index: int = -100,
        bits: int | None = None,
        num_classes: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(ignore_index, bits, num_classes, **kwargs)
        check_band(alpha, beta)
        check_normalize(normalize)
        self.alpha, self.beta, self.normalize = alpha, beta, normalize

    def _value(self, vertices: Vertices) -> Tensor:
        area = area_of(vertices, self.alpha, self.beta)
        return normalized(area, self.alpha, self.beta, self.normalize)

    def _error(self, vertices: Vertices) -> Tensor:
        area = area_error(vertices, self.alpha, self.beta)
        none = torch.zeros_like(area)
        # Every normalisation is linear in the area.
        return normalized(area, self.alpha, self.beta, self.normalize) - normalized(
            none, self.alpha, self.beta, self.normalize
        )
