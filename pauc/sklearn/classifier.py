"""A classifier with a threshold by budget, around any other."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.model_selection import StratifiedShuffleSplit, check_cv
from sklearn.utils import get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, column_or_1d

from pauc._public import public_in
from pauc.sklearn.scorers import RESPONSES
from pauc.thresholds.select import select_threshold


@public_in("pauc.sklearn")
class BudgetClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """A binary classifier whose threshold keeps a budget, in the manner of scikit-learn's own.

    Like ``TunedThresholdClassifierCV`` it fits a classifier, and chooses the threshold of its
    scores; but by :func:`pauc.select_threshold`, for a budget, and with a promise if ``confidence``
    is given. ``predict`` gives the positive label where ``score >= threshold``.

    There is no ``predict_proba``: ``predict`` would contradict its larger probability. The
    probabilities are those of ``estimator_``, and ``decision_function`` is at least 0 where
    ``predict`` gives the positive label.

    Args:
        estimator: a binary classifier with ``decision_function`` or ``predict_proba``: a pipeline,
            LightGBM, skorch. It is cloned, unless ``cv="prefit"``.
        budget, alert_share, precision, tpr, confidence: as for ``select_threshold``. A ``budget``
            of None promises no FPR.
        cv: which rows the threshold is chosen on. ``"prefit"``: all rows given to ``fit``, which
            must not have trained the estimator. A share of the rows, above 0 and below 1: they are
            held out, the estimator is fitted on the others, and stays so. None (5 folds), a number
            of folds or a splitter: each row is scored by the fold that did not train on it, and
            the estimator is then fitted on all rows. Scores of the folds and of the last fit differ
            a little in scale, so that no promise can be made: ``confidence`` needs one of the first
            two.
        pos_label: label of the positives; None: the larger of the two, as sorted.
        random_state: of the split by share.
        n_jobs: how many folds to fit at a time.

    Attributes:
        estimator_: the fitted classifier.
        operating_point_: the :class:`pauc.OperatingPoint`, its rates on the rows of the choice.
        threshold_: its threshold, of the scores of ``estimator_`` for the positive label.
    """

    def __init__(
        self,
        estimator: Any,
        budget: float | None = 0.05,
        *,
        alert_share: float | None = None,
        precision: float | None = None,
        tpr: float | None = None,
        confidence: float | None = None,
        cv: Any = None,
        pos_label: Any = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.budget = budget
        self.alert_share = alert_share
        self.precision = precision
        self.tpr = tpr
        self.confidence = confidence
        self.cv = cv
        self.pos_label = pos_label
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, **params: Any) -> BudgetClassifier:
        """Fit the estimator, and choose the threshold.

        Args:
            X: rows, of any kind that the estimator takes.
            y: ``[N]`` labels, two of them.
            **params: for the estimator's ``fit``; what has ``N`` rows is split with the rows. A
                ``sample_weight`` weighs the threshold, too.

        Raises:
            ValueError: labels that are not binary, a ``confidence`` with several folds, or what
                ``select_threshold`` raises.
        """
        X, y = indexable(X, y)
        y = column_or_1d(y, warn=True)
        kind = type_of_target(y, input_name="y", raise_unknown=True)
        if kind != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}."
            )
        if get_config()["enable_metadata_routing"]:
            fit_params = process_routing(self, "fit", **params).estimator.fit
        else:
            fit_params = params
        scores, rows = self._fit_and_score(X, y, fit_params)
        weight = params.get("sample_weight")
        self.operating_point_ = select_threshold(
            scores,
            (y == self._positive())[rows],
            self.budget,
            alert_share=self.alert_share,
            precision=self.precision,
            tpr=self.tpr,
            confidence=self.confidence,
            sample_weight=None if weight is None else np.asarray(weight)[rows],
        )
        self.threshold_ = self.operating_point_.threshold
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        return self

    @property
    def classes_(self) -> Any:
        """``[2]``: the labels, sorted."""
        return self.estimator_.classes_

    def decision_function(self, X: Any) -> Any:
        """Return ``[N]`` float64: scores less the threshold, at least 0 where positive."""
        check_is_fitted(self, "estimator_")
        scores = self._scores_of(self.estimator_, X)
        return scores.astype(np.float64) - self.threshold_

    def predict(self, X: Any) -> Any:
        """Return ``[N]`` labels: the positive one where ``score >= threshold_``."""
        alerts = self.decision_function(X) >= 0
        positive = self._positive()
        (negative,) = self.classes_[self.classes_ != positive]
        return np.where(alerts, positive, negative).astype(self.classes_.dtype)

    def get_metadata_routing(self) -> Any:
        """Return which parameters of ``fit`` go to the estimator, see scikit-learn's user guide."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def _fit_and_score(self, X: Any, y: Any, params: dict[str, Any]) -> tuple[Any, Any]:
        """Set ``estimator_``; return scores of rows it has not seen, and the numbers of these."""
        self._response()  # an error comes before anything is fitted
        every = np.arange(len(y))
        if isinstance(self.cv, str) and self.cv == "prefit":
            check_is_fitted(self.estimator)
            self.estimator_ = self.estimator
            return self._scores_of(self.estimator_, X), every
        self.estimator_ = clone(self.estimator)
        if isinstance(self.cv, float):
            split = StratifiedShuffleSplit(1, test_size=self.cv, random_state=self.random_state)
            train, held_out = next(split.split(np.zeros(len(y)), y))
            scores = self._scores_of_others(self.estimator_, X, y, params, train, held_out)
            return scores, held_out
        if self.confidence is not None:
            raise ValueError(
                "confidence needs scores of the classifier that is shipped, on rows that it has "
                f"not seen: cv must be 'prefit' or a share to hold out, got {self.cv!r}"
            )
        self.estimator_.fit(X, y, **params)
        return self._scores_of_folds(X, y, params), every

    def _scores_of_folds(self, X: Any, y: Any, params: dict[str, Any]) -> Any:
        """Return the scores ``[N]``, each by a model of the folds that the row is not in."""
        # Not `cross_val_predict`: it turns labels into integers, which not every classifier takes.
        folds = list(check_cv(self.cv, y, classifier=True).split(X, y))
        rows = np.concatenate([test for _, test in folds])
        if not np.array_equal(np.sort(rows), np.arange(len(y))):
            raise ValueError(f"cv must put every row into one test fold, got {self.cv!r}")
        found = Parallel(n_jobs=self.n_jobs)(
            delayed(self._scores_of_others)(clone(self.estimator), X, y, params, train, test)
            for train, test in folds
        )
        return np.concatenate(found)[np.argsort(rows)]

    def _scores_of_others(
        self, model: Any, X: Any, y: Any, params: dict[str, Any], train: Any, test: Any
    ) -> Any:
        """Fit the model on some rows, and return its scores of others."""
        own = {name: _rows(value, train, len(y)) for name, value in params.items()}
        model.fit(_rows(X, train, len(y)), y[train], **own)
        return self._scores_of(model, _rows(X, test, len(y)))

    def _response(self) -> str:
        """Return the name of the method that gives the scores."""
        for name in RESPONSES:
            if hasattr(self.estimator, name):
                return name
        raise TypeError(
            f"estimator must have one of {RESPONSES}, got {type(self.estimator).__name__}"
        )

    def _positive(self) -> Any:
        """Return the label of the positives."""
        if self.pos_label is None:
            return self.classes_[-1]
        if self.pos_label not in self.classes_:
            raise ValueError(f"pos_label must be one of {self.classes_}, got {self.pos_label!r}")
        return self.pos_label

    def _scores_of(self, model: Any, X: Any) -> Any:
        """Return the scores ``[N]`` of a fitted model, higher for the positive label."""
        place = int(np.flatnonzero(self.classes_ == self._positive())[0])
        response = np.asarray(getattr(model, self._response())(X))
        if response.ndim == 2 and response.shape[1] == 2:
            return response[:, place]
        return response.reshape(-1) * (1 if place == 1 else -1)


def _rows(values: Any, rows: Any, count: int) -> Any:
    """Return some rows of whatever has ``count`` of them, and anything else as it is."""
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if hasattr(values, "shape"):
        return values[rows] if values.shape[:1] == (count,) else values
    if isinstance(values, (list, tuple)) and len(values) == count:
        return [values[row] for row in rows]
    return values
