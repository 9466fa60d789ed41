"""`pauc.sklearn`: scorers against the metrics, the classifier against a plain loop, and ties."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sklearn = pytest.importorskip("sklearn")

from sklearn.datasets import make_classification  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import (  # noqa: E402
    FixedThresholdClassifier,
    GridSearchCV,
    ShuffleSplit,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

from pauc import select_threshold  # noqa: E402
from pauc.metrics import partial_auc, tpr_at_fpr  # noqa: E402
from pauc.sklearn import (  # noqa: E402
    BudgetClassifier,
    budget_scorers,
    partial_auc_scorer,
    tpr_at_fpr_scorer,
)

X, Y = make_classification(
    1200, n_features=6, n_informative=4, weights=[0.8], class_sep=0.8, random_state=0
)
WORDS = np.array(["fine", "fraud"])[Y]
MODEL = LogisticRegression()


def fpr_of(predicted: Any, labels: Any) -> float:
    return float(predicted[labels == 0].mean())


# --- scorers


def test_scorers_give_what_the_metrics_give() -> None:
    fitted = LogisticRegression().fit(X[:800], Y[:800])
    scores, labels = fitted.decision_function(X[800:]), Y[800:]
    assert tpr_at_fpr_scorer(0.05)(fitted, X[800:], labels) == tpr_at_fpr(scores, labels, 0.05)
    found = partial_auc_scorer(0.0, 0.1, normalize="mcclish")(fitted, X[800:], labels)
    assert found == partial_auc(scores, labels, 0.0, 0.1, normalize="mcclish")
    weight = np.random.default_rng(0).random(400)
    found = tpr_at_fpr_scorer(0.05)(fitted, X[800:], labels, sample_weight=weight)
    assert found == tpr_at_fpr(scores, labels, 0.05, sample_weight=weight)
    forest = RandomForestClassifier(20, random_state=0).fit(X[:800], Y[:800])
    expected = tpr_at_fpr(forest.predict_proba(X[800:])[:, 1], labels, 0.05)
    assert tpr_at_fpr_scorer(0.05)(forest, X[800:], labels) == expected


def test_scorers_know_the_positive_label() -> None:
    fitted = LogisticRegression().fit(X[:800], WORDS[:800])
    scores, labels = fitted.decision_function(X[800:]), Y[800:]
    scorer = tpr_at_fpr_scorer(0.05)
    assert scorer(fitted, X[800:], WORDS[800:]) == tpr_at_fpr(scores, labels, 0.05)
    other = tpr_at_fpr_scorer(0.05, pos_label="fine")
    assert other(fitted, X[800:], WORDS[800:]) == tpr_at_fpr(-scores, 1 - labels, 0.05)


def test_scorers_in_a_search() -> None:
    found = cross_val_score(MODEL, X, Y, scoring=tpr_at_fpr_scorer(0.05))
    assert len(found) == 5
    assert ((found > 0.05) & (found < 1)).all()
    scorers = pickle.loads(pickle.dumps(budget_scorers(0.05)))
    search = GridSearchCV(MODEL, {"C": [1e-4, 1.0]}, scoring=scorers, refit="partial_auc")
    results = search.fit(X, Y).cv_results_
    assert {"mean_test_tpr_at_fpr", "mean_test_partial_auc"} <= set(results)
    assert search.best_index_ == np.argmax(results["mean_test_partial_auc"])


def test_scorers_refuse_what_is_not_binary() -> None:
    labels = np.arange(1200) % 3
    with pytest.raises(ValueError, match=r"for binary classifiers, .* \[1200, 3\] and 3 labels"):
        tpr_at_fpr_scorer(0.05)(LogisticRegression().fit(X, labels), X, labels)
    with pytest.raises(ValueError, match="normalize must be"):
        partial_auc_scorer(normalize="Width")  # type: ignore[arg-type]


# --- the classifier


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"cv": 0.3, "random_state": 0}], ids=["folds", "share"])
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_no_fault(options: dict[str, Any]) -> None:
    """All of scikit-learn's checks, and none excused."""
    check_estimator(BudgetClassifier(LogisticRegression(), **options))


def test_folds_choose_on_scores_that_trained_nothing() -> None:
    found = BudgetClassifier(MODEL, 0.05, cv=4).fit(X, Y)
    scores = cross_val_predict(MODEL, X, Y, cv=4, method="decision_function")
    assert found.operating_point_ == select_threshold(scores, Y, 0.05)
    plain = LogisticRegression().fit(X, Y)
    assert (found.estimator_.coef_ == plain.coef_).all()
    expected = plain.decision_function(X) >= found.threshold_
    assert (found.predict(X) == expected).all()
    assert ((found.decision_function(X) >= 0) == expected).all()
    assert found.n_features_in_ == 6
    assert found.classes_.tolist() == [0, 1]


def test_a_share_is_held_out_and_the_fitted_model_stays() -> None:
    found = BudgetClassifier(MODEL, 0.05, confidence=0.9, cv=0.4, random_state=1).fit(X, Y)
    assert found.operating_point_.risk <= 0.1
    assert not (found.estimator_.coef_ == LogisticRegression().fit(X, Y).coef_).all()
    again = BudgetClassifier(MODEL, 0.05, confidence=0.9, cv=0.4, random_state=1).fit(X, Y)
    assert again.threshold_ == found.threshold_


def test_prefit_takes_the_estimator_as_it_is() -> None:
    fitted = RandomForestClassifier(30, random_state=0).fit(X[:600], WORDS[:600])
    found = BudgetClassifier(fitted, 0.05, confidence=0.95, cv="prefit").fit(X[600:], WORDS[600:])
    assert found.estimator_ is fitted
    scores = fitted.predict_proba(X[600:])[:, 1]
    assert found.operating_point_ == select_threshold(scores, Y[600:], 0.05, confidence=0.95)
    words = np.where(scores >= found.threshold_, "fraud", "fine")
    assert found.predict(X[600:]).tolist() == words.tolist()
    other = BudgetClassifier(fitted, 0.1, cv="prefit", pos_label="fine").fit(X[600:], WORDS[600:])
    predicted = other.predict(X[600:])
    assert (predicted[WORDS[600:] == "fraud"] == "fine").mean() == other.operating_point_.fpr <= 0.1


def test_other_promises_pipelines_frames_and_weights() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    labels = pandas.Series(Y, index=np.random.default_rng(0).permutation(1200))
    pipeline = make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=4, random_state=0))
    options: dict[str, Any] = {"budget": None, "alert_share": 0.1, "confidence": 0.9, "cv": 0.5}
    found = BudgetClassifier(pipeline, **options, random_state=0).fit(frame, labels)
    assert 0 < found.operating_point_.alert_share <= 0.1
    assert found.predict(frame).mean() <= 0.15
    assert found.feature_names_in_.tolist() == list("abcdef")
    weight = np.where(Y == 1, 5.0, np.arange(1200) % 2)
    weighted = BudgetClassifier(MODEL, 0.05, cv=4).fit(X, Y, sample_weight=weight)
    scores = cross_val_predict(
        MODEL, X, Y, cv=4, method="decision_function", params={"sample_weight": weight}
    )
    assert weighted.threshold_ == select_threshold(scores, Y, 0.05, sample_weight=weight).threshold
    shared = BudgetClassifier(MODEL, cv=0.3, random_state=0).fit(X, Y, sample_weight=weight)
    assert shared.operating_point_.fpr <= 0.05


def test_weights_by_metadata_routing() -> None:
    weight = np.where(Y == 1, 5.0, np.arange(1200) % 2)
    plain = BudgetClassifier(MODEL, cv=3).fit(X, Y, sample_weight=weight)
    with sklearn.config_context(enable_metadata_routing=True):
        model = LogisticRegression().set_fit_request(sample_weight=True)
        routed = BudgetClassifier(model, cv=3).fit(X, Y, sample_weight=weight)
        inside = cross_val_score(
            BudgetClassifier(model, cv=3), X, Y, params={"sample_weight": weight}, cv=3
        )
    assert routed.threshold_ == plain.threshold_
    assert (routed.estimator_.coef_ == plain.estimator_.coef_).all()
    assert (inside > 0.5).all()


def test_it_can_be_searched_cloned_and_pickled() -> None:
    search = GridSearchCV(
        BudgetClassifier(MODEL, cv=3),
        {"estimator__C": [0.01, 1.0], "budget": [0.02, 0.1]},
        scoring=tpr_at_fpr_scorer(0.05),
        cv=3,
    )
    best = search.fit(X, Y).best_estimator_
    again = pickle.loads(pickle.dumps(best))
    assert (again.predict(X) == best.predict(X)).all()
    assert sklearn.base.clone(best).get_params()["budget"] == best.budget


@pytest.mark.parametrize(
    ("options", "labels", "error", "message"),
    [
        ({"confidence": 0.9}, Y, ValueError, r"cv must be 'prefit' or a share .* got None"),
        ({"budget": None}, Y, TypeError, r"at least one of budget, alert_share"),
        ({"budget": 2.0}, Y, ValueError, r"budget must be above 0 and below 1"),
        ({"pos_label": 7}, Y, ValueError, r"pos_label must be one of \[0 1\], got 7"),
        ({}, np.arange(1200) % 3, ValueError, r"Only binary classification .* multiclass"),
        ({"cv": "prefit"}, Y, sklearn.exceptions.NotFittedError, r"not fitted yet"),
        ({"cv": ShuffleSplit(2)}, Y, ValueError, r"cv must put every row into one test fold"),
        ({"estimator": StandardScaler()}, Y, TypeError, r"estimator must have one of"),
    ],
)
def test_bad_arguments(options: Any, labels: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        BudgetClassifier(**{"estimator": LogisticRegression(), **options}).fit(X, labels)


def test_without_scikit_learn_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "pauc.sklearn")
    with pytest.raises(ImportError, match=r"pip install 'torch-pauc\[sklearn\]'"):
        importlib.import_module("pauc.sklearn")


# --- ties


class Given(LogisticRegression):
    """Gives the first feature as the probability, ties and all."""

    def fit(self, features: Any, labels: Any) -> Given:
        self.classes_ = np.unique(labels)
        self.coef_ = np.zeros((1, 1))
        self.intercept_ = np.zeros(1)
        self.n_features_in_ = features.shape[1]
        return self

    def decision_function(self, features: Any) -> Any:
        return features[:, 0]

    def predict_proba(self, features: Any) -> Any:
        return np.stack([1 - features[:, 0], features[:, 0]], axis=1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([np.float64, np.float32]))
def test_a_threshold_keeps_its_budget_in_scikit_learn_on_tied_scores(
    seed: int, levels: int, dtype: Any
) -> None:
    """Its `FixedThresholdClassifier` flags `>=`: of a tie at the threshold it flags every row."""
    drawn = np.random.default_rng(seed)
    labels = np.array([0, 1] * 2 + list(drawn.integers(0, 2, 150)))
    scores = ((drawn.random(154) + labels / 2) / 1.5 * levels).round() / levels
    features = scores.astype(dtype)[:, None]
    model = Given().fit(features, labels)
    point = select_threshold(features[:, 0], labels, 0.05)
    fixed = FixedThresholdClassifier(
        model, threshold=point.threshold, response_method="predict_proba"
    ).fit(features, labels)
    assert fpr_of(fixed.predict(features), labels) == point.fpr <= 0.05
    assert (point.predict(features[:, 0]) == fixed.predict(features)).all()
    assert (fixed.predict(features) == (features[:, 0] > point.threshold)).all()
    assert point.tpr == tpr_at_fpr(features[:, 0], labels, 0.05)
    ours = BudgetClassifier(model, 0.05, cv="prefit").fit(features, labels)
    assert (ours.predict(features) == fixed.predict(features)).all()


def test_the_score_of_a_row_would_break_the_budget() -> None:
    """What the test above can see: the highest score that must not alert, flagged by `>=`."""
    _, features, _, labels = train_test_split(np.round(X[:, :1]), Y, random_state=0)
    point = select_threshold(features[:, 0], labels, 0.05)
    tied = features[features < point.threshold].max()
    assert fpr_of(features[:, 0] >= tied, labels) > 0.05 >= fpr_of(point.predict(features), labels)
