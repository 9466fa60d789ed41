"""The objective and the metrics as objects: parameters, pickles, the forms of a call."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone

from pauc.boosting import BandObjective, PartialAUCMetric, TPRMetric, band_objective
from pauc.metrics import partial_auc, tpr_at_fpr


def data(classes: int = 1, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(count, classes))
    targets = rng.integers(0, max(classes, 2), count)
    return (scores[:, 0] if classes == 1 else scores), targets


class DataSet:
    """As LightGBM and XGBoost have it; the test says of which module it is."""

    def __init__(self, label: Any, weight: Any = None, **params: Any) -> None:
        self.label, self.weight, self.params = label, weight, params

    def get_label(self) -> Any:
        return self.label

    def get_weight(self) -> Any:
        return self.weight


OBJECTIVE = BandObjective(0.05, alpha=0.001, bce_weight=0.5, max_step=7)
OBJECTS = [OBJECTIVE, TPRMetric(0.005), PartialAUCMetric(0.02, alpha=0.001)]


@pytest.mark.parametrize("given", OBJECTS, ids=lambda given: type(given).__name__)
def test_objects_can_be_pickled_cloned_and_shown(given: Any) -> None:
    for copy in (pickle.loads(pickle.dumps(given)), clone(given), eval(repr(given))):
        assert type(copy) is type(given)
        assert copy is not given
        assert copy == given
        assert hash(copy) == hash(given)
        assert vars(copy) == vars(given)
    address = f"cpauc.boosting\n{type(given).__name__}\n"
    assert address.encode() in pickle.dumps(given, protocol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"beta": 0}, "alpha < beta"), ({"beta": 0.1, "max_step": -1}, "max_step must be above 0")],
)
def test_a_bad_option_is_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BandObjective(**wrong)


@pytest.mark.parametrize("classes", [1, 3])
def test_every_form_of_a_call_is_the_function(classes: int) -> None:
    scores, targets = data(classes)
    weight = np.linspace(0.5, 2, len(targets))
    options = vars(OBJECTIVE)
    plain = band_objective(scores, targets, **options)
    weighted = band_objective(scores, targets, sample_weight=weight, **options)
    found = {
        "data set": (OBJECTIVE(scores, DataSet(targets)), plain),
        "no weights, as XGBoost has it": (OBJECTIVE(scores, DataSet(targets, weight[:0])), plain),
        "data set with weights": (OBJECTIVE(scores, DataSet(targets, weight)), weighted),
        "targets first": (OBJECTIVE(targets, scores), plain),
        "three arguments": (OBJECTIVE(targets, scores, weight), weighted),
        "by name": (OBJECTIVE(targets, scores, sample_weight=weight), weighted),
        "tensors": (OBJECTIVE(torch.tensor(targets), torch.tensor(scores)), plain),
    }
    for name, (one, other) in found.items():
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(np.asarray(a), b), name


def test_rows_of_several_machines_are_refused() -> None:
    part = DataSet(np.array([0, 1]), num_machines=2)
    type(part).__module__ = "lightgbm.basic"
    with pytest.raises(NotImplementedError, match="num_machines=2"):
        OBJECTIVE(np.zeros(2), part)
    type(part).__module__ = __name__
    with pytest.raises(TypeError, match="data set must have labels"):
        OBJECTIVE(np.zeros(2), DataSet(None))


def test_catboost_is_told_why_not() -> None:
    with pytest.raises(NotImplementedError, match="blocks of 1,000 rows"):
        OBJECTIVE.calc_ders_range([np.zeros(2)], np.zeros(2), None)


@pytest.mark.parametrize(
    ("budget", "rows", "positives", "beta"),
    [(0.005, 350_000, 5000, 0.02), (0.0001, 100_100, 100, 0.05), (0.01, 100, 10, 1.0)],
)
def test_the_recipe(budget: float, rows: int, positives: int, beta: float) -> None:
    objective = BandObjective.for_budget(budget, rows=rows, positives=positives)
    assert objective == BandObjective(beta)
    assert objective != BandObjective(beta, link="sigmoid")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"budget": 0.0}, r"budget must be a fraction in \(0, 1\]"),
        ({"rows": 1}, "rows must be an integer of at least 2"),
        ({"positives": 0}, "positives must be an integer of at least 1"),
        ({"positives": 10}, "positives must be fewer than rows=10"),
    ],
)
def test_the_recipe_names_what_is_wrong(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BandObjective.for_budget(**{"budget": 0.1, "rows": 10, "positives": 2, **wrong})


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (TPRMetric(0.005), "tpr_at_fpr_0.5%"),
        (TPRMetric(0.29), "tpr_at_fpr_29%"),
        (TPRMetric(1e-5), "tpr_at_fpr_0.001%"),
        (PartialAUCMetric(0.02), "partial_auc_2%"),
        (PartialAUCMetric(0.02, alpha=0.001), "partial_auc_0.1%_to_2%"),
    ],
)
def test_names_in_a_log(metric: Any, name: str) -> None:
    assert metric.name == metric.score.__name__ == name
    scores, targets = data()
    assert metric(targets, scores)[0] == name


def test_metrics_are_those_of_the_library_in_every_form() -> None:
    scores, targets = data()
    rows = torch.tensor(scores), torch.tensor(targets)
    for metric, expected in (
        (TPRMetric(0.05), float(tpr_at_fpr(*rows, 0.05))),
        (PartialAUCMetric(0.1, alpha=0.01), float(partial_auc(*rows, 0.01, 0.1))),
    ):
        of_xgboost = type("DMatrix", (DataSet,), {"__module__": "xgboost.core"})
        of_lightgbm = type("Dataset", (DataSet,), {"__module__": "lightgbm.basic"})
        probabilities = 1 / (1 + np.exp(-scores))
        assert metric(targets, scores) == (metric.name, expected, True)
        assert metric(targets, probabilities, np.ones(300)) == (metric.name, expected, True)
        assert metric(scores, of_lightgbm(targets)) == (metric.name, expected, True)
        assert metric(scores, of_xgboost(targets)) == (metric.name, expected)
        assert metric.score(targets, scores) == expected
        assert metric.score(targets, scores, sample_weight=np.ones(300)) == expected
        assert pickle.loads(pickle.dumps(metric.score))(targets, scores) == expected
        assert metric.evaluate([scores], targets, None) == (expected, 1.0)
        assert metric.is_max_optimal()
        assert metric.get_final_error(expected, 1.0) == expected


def test_a_metric_of_classes_is_the_mean_over_them() -> None:
    scores, targets = data(3)
    metric = TPRMetric(0.05)
    alone = [metric.value(targets == c, scores[:, c]) for c in range(3)]
    assert metric.value(targets, scores) == pytest.approx(np.mean(alone))
    assert metric.evaluate(list(scores.T), targets, None)[0] == pytest.approx(np.mean(alone))


def test_bad_metrics_and_rows_are_named() -> None:
    with pytest.raises(ValueError, match="budget must be in"):
        TPRMetric(1.5)
    with pytest.raises(ValueError, match="alpha < beta"):
        PartialAUCMetric(0.0)
    with pytest.raises(ValueError, match="both classes"):
        TPRMetric(0.1).value(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="scores must be finite"):
        TPRMetric(0.1).value(np.array([0, 1]), np.array([np.nan, 0]))


def test_an_exchange_with_other_workers_tells_of_their_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No worker waits for one that has refused its rows."""
    from pauc.boosting import objective
    from pauc.boosting.workers import XGBoostWorkers

    workers = XGBoostWorkers.__new__(XGBoostWorkers)
    workers.rank, workers.size = 0, 2

    def allreduce(values: np.ndarray, _: Any) -> np.ndarray:
        return values + 1  # the other worker has failed

    workers._collective = SimpleNamespace(allreduce=allreduce, Op=SimpleNamespace(SUM=0))
    monkeypatch.setattr(objective, "workers_now", lambda: workers)
    scores, targets = data()
    with pytest.raises(RuntimeError, match="1 of 2 workers refused their rows"):
        OBJECTIVE(targets, scores)
    with pytest.raises(ValueError, match="targets must be"):
        OBJECTIVE(targets + 5, scores)
