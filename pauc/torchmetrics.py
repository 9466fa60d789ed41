"""The metrics of :mod:`pauc.metrics` as :class:`torchmetrics.Metric`, for training loops that log.

Needs torchmetrics: ``pip install 'torch-pauc[torchmetrics]'``.

Every class keeps the scores and targets of all rows that it is shown, since an exact curve needs
them, and gathers the rows of all ranks before it computes. ``update(preds, target)`` takes what the
functions take, raw scores ``[N]`` or ``[N, 1]`` and targets of 0, 1 and ``ignore_index``, and
raises as they do. The value is float64; it is nan where one of the two classes has no row (so far,
or in the one batch that ``forward`` computes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pauc.checks import check_band
from pauc.metrics.inputs import check_rates, kept_rows
from pauc.metrics.roc import check_normalize, coverage_at_budget, partial_auc, tpr_at_fpr

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.data import dim_zero_cat
except ImportError as error:
    raise ImportError(
        "pauc.torchmetrics needs torchmetrics, which is not installed. Cure: "
        "pip install 'torch-pauc[torchmetrics]'"
    ) from error

__all__ = ["CoverageAtBudget", "PartialAUC", "TPRAtFPR"]

Rates = float | Sequence[float] | Tensor


class _RowMetric(Metric):
    """Keeps scores and targets; a subclass names the function of :mod:`pauc.metrics` to compute."""

    _function: ClassVar[Callable[..., Tensor]]
    _options: ClassVar[tuple[str, ...]]  # keywords of the function, and the attributes with values
    _shape: tuple[int, ...] = ()  # of the value
    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self, ignore_index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_index = ignore_index
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in rows: scores ``[N]`` or ``[N, 1]``, targets likewise."""
        kept_rows(preds, target, self.ignore_index)
        # Ignored rows are kept: in a MetricCollection, metrics with another ignore_index may share
        # these rows, and count them.
        self.scores.append(preds.detach().reshape(-1))
        self.targets.append(target.detach().reshape(-1))

    def compute(self) -> Tensor:
        """Return the metric of all rows, float64; nan where a class has no row."""
        if isinstance(self.scores, list) and not self.scores:  # before any update
            return torch.full(self._shape, torch.nan, dtype=torch.float64, device=self.device)
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        _, kept = kept_rows(scores, targets, self.ignore_index)
        if not (kept == 0).any() or not (kept == 1).any():
            return torch.full(self._shape, torch.nan, dtype=torch.float64, device=kept.device)
        options = {name: getattr(self, name) for name in self._options}
        return self._function(scores, targets, **options, ignore_index=self.ignore_index)


def _shape_of(rates: Rates, name: str) -> tuple[int, ...]:
    """Return the shape of one or more rates, which are checked."""
    return tuple(check_rates(rates, name)[0].shape)


class TPRAtFPR(_RowMetric):
    """:func:`pauc.metrics.tpr_at_fpr` of all rows.

    Args:
        fpr: one or more budgets in [0, 1]; the value has its shape.
        ignore_index: target of the rows to drop.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    _function, _options = staticmethod(tpr_at_fpr), ("fpr",)

    def __init__(self, fpr: Rates, *, ignore_index: int = -100, **kwargs: Any) -> None:
        super().__init__(ignore_index, **kwargs)
        self.fpr, self._shape = fpr, _shape_of(fpr, "fpr")


class CoverageAtBudget(_RowMetric):
    """:func:`pauc.metrics.coverage_at_budget` of all rows.

    Args:
        budget: one or more shares of the rows, in [0, 1]; the value has its shape.
        ignore_index: target of the rows to drop.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    _function, _options = staticmethod(coverage_at_budget), ("budget",)

    def __init__(self, budget: Rates, *, ignore_index: int = -100, **kwargs: Any) -> None:
        super().__init__(ignore_index, **kwargs)
        self.budget, self._shape = budget, _shape_of(budget, "budget")


class PartialAUC(_RowMetric):
    """:func:`pauc.metrics.partial_auc` of all rows.

    Args:
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        normalize: ``"none"``, ``"width"`` or ``"mcclish"``.
        ignore_index: target of the rows to drop.
        **kwargs: of :class:`torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    _function, _options = staticmethod(partial_auc), ("alpha", "beta", "normalize")

    def __init__(
        self,
        alpha: float = 0.0,
        beta: float = 1.0,
        *,
        normalize: Literal["none", "width", "mcclish"] = "width",
        ignore_index: int = -100,
        **kwargs: Any,
    ) -> None:
        super().__init__(ignore_index, **kwargs)
        check_band(alpha, beta)
        check_normalize(normalize)
        self.alpha, self.beta, self.normalize = alpha, beta, normalize
