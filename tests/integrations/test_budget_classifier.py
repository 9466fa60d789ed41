"""`BudgetClassifier` around the classifiers of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score

from pauc.sklearn import BudgetClassifier, budget_scorers, tpr_at_fpr_scorer

X, Y = make_classification(3000, n_features=6, n_informative=4, weights=[0.8], random_state=0)


def lightgbm() -> Any:
    lightgbm = pytest.importorskip("lightgbm")
    return lightgbm.LGBMClassifier(n_estimators=20, num_leaves=7, n_jobs=1, verbose=-1)


def skorch() -> Any:
    """Probabilities in float32, and a `fit` that takes float32 alone."""
    skorch = pytest.importorskip("skorch")
    torch.manual_seed(0)
    return skorch.NeuralNetBinaryClassifier(
        torch.nn.Linear(6, 1), max_epochs=10, lr=0.1, verbose=0, train_split=None
    )


def rows_for(model: Any) -> tuple[Any, Any]:
    return (
        (X, Y) if "LGBM" in type(model).__name__ else (X.astype(np.float32), Y.astype(np.float32))
    )


def scores_of(model: Any, rows: Any) -> Any:
    if hasattr(model, "decision_function"):
        return model.decision_function(rows)
    return model.predict_proba(rows)[:, 1]


@pytest.mark.parametrize("make", [lightgbm, skorch])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_other_classifiers_keep_the_budget_by_share_by_folds_and_fitted(make: Any) -> None:
    rows, labels = rows_for(make())
    options: dict[str, Any] = {"budget": 0.05, "confidence": 0.9}
    by_share = BudgetClassifier(make(), **options, cv=0.4, random_state=0).fit(rows, labels)
    fitted = make().fit(rows[:1000], labels[:1000])
    prefit = BudgetClassifier(fitted, **options, cv="prefit").fit(rows[1000:], labels[1000:])
    by_folds = BudgetClassifier(make(), 0.05, cv=3).fit(rows, labels)
    for found in (by_share, prefit, by_folds):
        assert 0 < found.operating_point_.fpr <= 0.05
        scores = scores_of(found.estimator_, rows)
        assert (found.predict(rows) == (scores >= found.threshold_)).all()
        assert (found.predict(rows) == (scores > found.threshold_)).all()
        assert found.operating_point_.tpr > 0.3


def test_a_search_over_trees_by_the_budget() -> None:
    search = GridSearchCV(
        lightgbm(), {"num_leaves": [3, 15]}, scoring=budget_scorers(0.05), refit="partial_auc", cv=3
    )
    assert search.fit(X, Y).cv_results_["mean_test_tpr_at_fpr"].min() > 0.3
    found = cross_val_score(lightgbm(), X, Y, scoring=tpr_at_fpr_scorer(0.05), cv=3)
    assert (found > 0.3).all()
