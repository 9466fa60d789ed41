"""Scorers of the metrics at a budget, for ``scoring=`` of scikit-learn."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from sklearn.metrics import make_scorer

from pauc.metrics.band import check_normalize
from pauc.metrics.roc import partial_auc, tpr_at_fpr

# A decision function first: probabilities near 1 are rounded into ties, where the budget lies.
RESPONSES = ("decision_function", "predict_proba")


def tpr_at_fpr_scorer(fpr: float, *, pos_label: Any = None) -> Any:
    """Return a scorer of :func:`pauc.metrics.tpr_at_fpr`, for ``scoring=`` of scikit-learn.

    Args:
        fpr: the budget, in [0, 1].
        pos_label: label of the positives; None: the larger of the two, as sorted.

    Returns:
        A scorer for binary classifiers with ``decision_function`` or ``predict_proba``. It takes
        ``sample_weight``.
    """
    return _scorer(_tpr_at_fpr, pos_label, fpr=fpr)


def partial_auc_scorer(
    alpha: float = 0.0,
    beta: float = 1.0,
    *,
    normalize: Literal["none", "width", "mcclish"] = "width",
    pos_label: Any = None,
) -> Any:
    """Return a scorer of :func:`pauc.metrics.partial_auc`, as :func:`tpr_at_fpr_scorer` does.

    Args:
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        normalize: as for ``partial_auc``.
        pos_label: as for ``tpr_at_fpr_scorer``.
    """
    check_normalize(normalize)
    return _scorer(_partial_auc, pos_label, alpha=alpha, beta=beta, normalize=normalize)


def budget_scorers(budget: float, *, pos_label: Any = None) -> dict[str, Any]:
    """Return scorers by name: ``"tpr_at_fpr"`` at the budget, ``"partial_auc"`` from 0 up to it.

    ``GridSearchCV(model, grid, scoring=budget_scorers(0.005), refit="partial_auc")`` chooses by the
    area, which scatters less, and reports both.
    """
    return {
        "tpr_at_fpr": tpr_at_fpr_scorer(budget, pos_label=pos_label),
        "partial_auc": partial_auc_scorer(0.0, budget, pos_label=pos_label),
    }


def _scorer(function: Any, pos_label: Any, **options: Any) -> Any:
    """Return a scorer; scikit-learn asks it for the column of ``pos_label`` if that is given."""
    if pos_label is not None:
        options["pos_label"] = pos_label
    return make_scorer(function, response_method=RESPONSES, **options)


# Functions of a module, so that a scorer can be pickled and sent to workers.
def _tpr_at_fpr(
    y_true: Any, y_score: Any, *, fpr: float, pos_label: Any = None, sample_weight: Any = None
) -> float:
    positive = _is_positive(y_true, y_score, pos_label)
    return float(tpr_at_fpr(np.asarray(y_score), positive, fpr, sample_weight=sample_weight))


def _partial_auc(
    y_true: Any, y_score: Any, *, pos_label: Any = None, sample_weight: Any = None, **options: Any
) -> float:
    positive = _is_positive(y_true, y_score, pos_label)
    return float(partial_auc(np.asarray(y_score), positive, sample_weight=sample_weight, **options))


def _is_positive(y_true: Any, y_score: Any, pos_label: Any) -> Any:
    """Return ``[N]`` bool; raise unless the problem is binary."""
    labels = np.asarray(y_true)
    classes = np.unique(labels)
    if len(classes) > 2 or np.ndim(y_score) != 1:
        raise ValueError(
            "the scorer is for binary classifiers, with one score a row and two labels, got scores "
            f"{list(np.shape(y_score))} and {len(classes)} labels"
        )
    return labels == (classes[-1] if pos_label is None else pos_label)
