"""Exact metrics of the held-out rows for an engine's log and early stopping; higher is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pauc._public import public_in
from pauc.arrays import ArrayLike
from pauc.boosting.engines import read_call
from pauc.boosting.parameters import Parameters
from pauc.boosting.rows import make_rows
from pauc.boosting.workers import workers_now
from pauc.checks import check_band
from pauc.metrics.rates import check_rates
from pauc.metrics.roc import partial_auc, tpr_at_fpr


class BandMetric(Parameters):
    """A metric in the forms that engines call; a subclass has its name and its function.

    Raw margins and probabilities give the same, because only the order counts. Rows count alike,
    whatever their weights. With several classes it is the mean over classes, each against the
    rest.
    """

    name: str  # in the engine's log

    def _of(self, scores: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def value(self, targets: ArrayLike, scores: ArrayLike) -> float:
        """Return the metric of rows: targets ``[N]``, scores ``[N]`` or ``[N, K]``.

        In XGBoost's distributed training, of the rows of all workers.

        Raises:
            TypeError, ValueError: rows as in :func:`band_objective`, or a single class.
        """
        rows = make_rows(scores, targets, None)
        (labels, *columns), _ = workers_now().join(
            rows.labels.double(), *rows.scores.double().unbind(1)
        )
        if len(columns) == 1:
            return float(self._of(columns[0], labels))
        one_hot = labels.unsqueeze(1) == torch.arange(len(columns), device=labels.device)
        return float(self._of(torch.stack(columns, dim=1), one_hot.long()).mean())

    def __call__(self, first: Any, second: Any, sample_weight: ArrayLike | None = None) -> Any:
        """Return name and value, and for LightGBM that higher is better.

        ``(scores, data set)`` is how ``feval`` of LightGBM and ``custom_metric`` of XGBoost are
        called, ``(targets, scores)`` an ``eval_metric`` of ``LGBMClassifier.fit``. For
        ``XGBClassifier`` see :attr:`score`.
        """
        call = read_call(first, second, sample_weight)
        value = self.value(call.targets, call.scores)
        return (self.name, value) if call.engine == "xgboost" else (self.name, value, True)

    @property
    def score(self) -> Callable[..., float]:
        """The metric as a function of targets and scores, for ``XGBClassifier(eval_metric=...)``.

        XGBoost takes a metric that it does not know for a loss: stop early by
        ``xgboost.callback.EarlyStopping(..., maximize=True)``.
        """
        return _Score(self)

    # CatBoost calls these.

    def is_max_optimal(self) -> bool:
        """Return that higher is better."""
        return True

    def evaluate(
        self, approxes: Any, target: ArrayLike, weight: ArrayLike | None
    ) -> tuple[float, float]:
        """Return the value and a weight of 1."""
        del weight
        columns = [torch.as_tensor(column) for column in approxes]
        return self.value(target, torch.stack(columns, dim=1)), 1.0

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the value of :meth:`evaluate`."""
        del weight
        return error


class _Score:
    """A metric as a function with a name, which can be pickled."""

    def __init__(self, metric: BandMetric) -> None:
        self.metric = metric
        self.__name__ = metric.name

    def __call__(
        self, targets: ArrayLike, scores: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> float:
        del sample_weight
        return self.metric.value(targets, scores)


def _percent(rate: float) -> str:
    return f"{100 * rate:g}%"


@public_in("pauc.boosting")
class TPRMetric(BandMetric):
    """The best TPR within a budget of false alarms, :func:`pauc.metrics.tpr_at_fpr`.

    Args:
        budget: FPR as a fraction in [0, 1].

    Raises:
        TypeError, ValueError: a budget that is none.
    """

    def __init__(self, budget: float) -> None:
        check_rates(budget, "budget")
        self.budget = budget
        self.name = f"tpr_at_fpr_{_percent(budget)}"

    def _of(self, scores: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = tpr_at_fpr(scores, targets, self.budget)
        return found


@public_in("pauc.boosting")
class PartialAUCMetric(BandMetric):
    """The mean TPR over a band of FPR, :func:`pauc.metrics.partial_auc`.

    It scatters less than the TPR at one budget, so that early stopping by it is steadier.

    Args:
        beta, alpha: the band as FPR, ``0 <= alpha < beta <= 1``.

    Raises:
        TypeError, ValueError: a band that is none.
    """

    def __init__(self, beta: float, *, alpha: float = 0.0) -> None:
        check_band(alpha, beta)
        self.beta, self.alpha = beta, alpha
        begin = "" if alpha == 0 else f"{_percent(alpha)}_to_"
        self.name = f"partial_auc_{begin}{_percent(beta)}"

    def _of(self, scores: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = partial_auc(scores, targets, self.alpha, self.beta)
        return found
