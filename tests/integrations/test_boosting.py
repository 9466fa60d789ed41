"""The objective and the metrics in LightGBM, XGBoost and CatBoost themselves.

Runs where the extra `boosting` is installed, and is skipped elsewhere; `.ci/run` installs it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from pauc.boosting import BandObjective, PartialAUCMetric, TPRMetric, band_objective, log_odds

lightgbm = pytest.importorskip("lightgbm", reason="needs pip install '.[boosting]'")
xgboost = pytest.importorskip("xgboost", reason="needs pip install '.[boosting]'")

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
LGB = {"num_leaves": 7, "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
XGB = {"max_depth": 3, "nthread": 1}
FITTED = {"n_estimators": 5, "n_jobs": 1}
OBJECTIVE = BandObjective(0.2)


def table(classes: int = 2, rows: int = 1500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 4))
    score = features[:, 0] + features[:, 1] ** 2 / 2 + rng.normal(size=rows) / 2
    cuts = [1.8] if classes == 2 else [0.0, 1.8]
    return features, np.digitize(score, cuts)


class Watched(BandObjective):
    """It remembers what it was called with, for the tests alone."""

    calls: list[tuple[Any, Any, Any]] = []  # noqa: RUF012 - engines copy an objective

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> Any:
        self.calls.append((first, second, sample_weight))
        return super().__call__(first, second, sample_weight)


@pytest.fixture
def watched() -> BandObjective:
    Watched.calls.clear()
    return Watched(0.2)


def softened(raw: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-raw))


# --- the objective


def test_a_tree_of_lightgbm_has_the_leaves_that_the_derivatives_say() -> None:
    """One round without shrinkage: each leaf's value is minus the quotient of its sums."""
    features, targets = table()
    start = log_odds(targets)
    data = lightgbm.Dataset(features, targets, init_score=np.full(len(targets), start))
    settings = {**LGB, "objective": OBJECTIVE, "learning_rate": 1.0, "lambda_l2": 0.0}
    booster = lightgbm.train(settings, data, 1)
    raw, leaf = booster.predict(features), booster.predict(features, pred_leaf=True).ravel()
    options = vars(OBJECTIVE)
    gradient, hessian = band_objective(np.full(len(targets), start), targets, **options)
    for index in np.unique(leaf):
        rows = leaf == index
        assert raw[rows] == pytest.approx(-gradient[rows].sum() / hessian[rows].sum(), rel=1e-4)


def test_a_tree_of_xgboost_has_the_leaves_that_the_derivatives_say() -> None:
    features, targets = table()
    start = log_odds(targets)
    data = xgboost.DMatrix(features, targets, nthread=1)
    settings = {**XGB, "eta": 1.0, "lambda": 0.0, "base_score": start}
    booster = xgboost.train(settings, data, 1, obj=OBJECTIVE)
    raw, leaf = booster.predict(data, output_margin=True), booster.predict(data, pred_leaf=True)
    options = vars(OBJECTIVE)
    gradient, hessian = band_objective(np.full(len(targets), start), targets, **options)
    for index in np.unique(leaf):
        rows = leaf == index
        step = -gradient[rows].sum() / hessian[rows].sum()
        assert raw[rows] == pytest.approx(start + step, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_lightgbm_trains_alike_by_both_interfaces(
    classes: int, weighted: bool, watched: BandObjective
) -> None:
    features, targets = table(classes)
    weight = np.linspace(0.5, 2, len(targets)) if weighted else None
    number = {"num_class": 3} if classes == 3 else {}
    data = lightgbm.Dataset(features, targets, weight=weight)
    booster = lightgbm.train({**LGB, **number, "objective": watched}, data, 5)
    model = lightgbm.LGBMClassifier(
        **FITTED, num_leaves=7, min_child_samples=5, verbose=-1, objective=clone(watched)
    ).fit(features, targets, sample_weight=weight)
    raw = booster.predict(features)
    assert raw.shape == ((1500,) if classes == 2 else (1500, 3))
    assert np.array_equal(raw, model.predict(features, raw_score=True))
    shapes = {np.shape(first)[1:] for first, second, _ in watched.calls if second is not None}
    assert shapes <= {(), (3,)}
    if weighted:
        plain = lightgbm.train(
            {**LGB, **number, "objective": watched}, lightgbm.Dataset(features, targets), 5
        )
        assert not np.allclose(raw, plain.predict(features))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_xgboost_trains_alike_by_both_interfaces(classes: int, weighted: bool) -> None:
    features, targets = table(classes)
    weight = np.linspace(0.5, 2, len(targets)) if weighted else None
    number = {"num_class": 3} if classes == 3 else {}
    data = xgboost.DMatrix(features, targets, weight=weight, nthread=1)
    # XGBClassifier reads base_score as a probability, xgboost.train as a margin.
    settings = {**XGB, **number, "base_score": 0.0 if classes == 2 else 0.5}
    booster = xgboost.train(settings, data, 5, obj=OBJECTIVE)
    model = xgboost.XGBClassifier(**FITTED, max_depth=3, objective=OBJECTIVE, base_score=0.5).fit(
        features, targets, sample_weight=weight
    )
    raw = booster.predict(data, output_margin=True)
    assert raw.shape == ((1500,) if classes == 2 else (1500, 3))
    assert np.allclose(raw, model.predict(features, output_margin=True), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_order_of_classes_is_not_mixed_up(classes: int) -> None:
    """Each class' column ranks its own rows: a transposed gradient would rank at random."""
    features, targets = table(classes)
    number = {"num_class": 3} if classes == 3 else {}
    of_lightgbm = lightgbm.train(
        {**LGB, **number, "objective": OBJECTIVE}, lightgbm.Dataset(features, targets), 20
    ).predict(features)
    data = xgboost.DMatrix(features, targets, nthread=1)
    of_xgboost = xgboost.train({**XGB, **number}, data, 20, obj=OBJECTIVE).predict(
        data, output_margin=True
    )
    for raw in (of_lightgbm, of_xgboost):
        if classes == 2:
            assert TPRMetric(0.05).value(targets, raw) > 0.8
            continue
        for c in range(3):
            assert TPRMetric(0.2).value(targets == c, raw[:, c]) > 0.6


def test_starting_scores_are_the_engines_own_and_prediction_has_them_back() -> None:
    features, targets = table()
    start = log_odds(targets)
    data = lightgbm.Dataset(features, targets, init_score=np.full(len(targets), start))
    raw = lightgbm.train({**LGB, "objective": OBJECTIVE}, data, 30).predict(features)
    fitted = lightgbm.LGBMClassifier(
        n_estimators=30, n_jobs=1, num_leaves=7, min_child_samples=5, verbose=-1,
        objective=OBJECTIVE,
    ).fit(features, targets, init_score=np.full(len(targets), start))  # fmt: skip
    assert np.array_equal(raw, fitted.predict(features, raw_score=True))
    matrix = xgboost.DMatrix(features, targets, nthread=1)
    settings = {**XGB, "base_score": start}
    margin = xgboost.train(settings, matrix, 30, obj=OBJECTIVE).predict(matrix, output_margin=True)
    classifier = xgboost.XGBClassifier(
        n_estimators=30, n_jobs=1, max_depth=3, objective=OBJECTIVE, base_score=targets.mean()
    ).fit(features, targets)
    assert classifier.predict_proba(features)[:, 1] == pytest.approx(softened(margin), abs=1e-5)
    # The log-loss beside the pairs keeps the mean probability near the share of positives.
    for probability in (softened(start + raw), softened(margin)):
        assert probability.mean() == pytest.approx(targets.mean(), rel=0.3)
    several = log_odds(table(3)[1], num_class=3)
    vector = xgboost.train(
        {**XGB, "num_class": 3, "base_score": several.tolist(), "eta": 0.0},
        xgboost.DMatrix(features, table(3)[1], nthread=1), 1, obj=OBJECTIVE,
    ).predict(matrix, output_margin=True)  # fmt: skip
    assert vector[0] == pytest.approx(several, rel=1e-5)


def test_scikit_learn_chooses_among_objectives() -> None:
    features, targets = table()

    def score(model: Any, rows: np.ndarray, labels: np.ndarray) -> float:
        raw = {"raw_score": True} if hasattr(model, "booster_") else {"output_margin": True}
        return TPRMetric(0.05).value(labels, model.predict(rows, **raw))

    objectives = [BandObjective(0.02), BandObjective(0.5), BandObjective(0.02, link="sigmoid")]
    for model in (
        lightgbm.LGBMClassifier(**FITTED, verbose=-1),
        xgboost.XGBClassifier(**FITTED),
    ):
        search = GridSearchCV(model, {"objective": objectives}, cv=2, scoring=score)
        search.fit(features, targets)
        assert len(set(search.cv_results_["mean_test_score"])) == 3
        assert search.best_estimator_.objective in objectives
        assert clone(search.best_estimator_).objective == search.best_estimator_.objective


def test_bad_rows_are_named_through_the_engines() -> None:
    features, targets = table(3)
    for train in (
        lambda: lightgbm.train(
            {**LGB, "objective": OBJECTIVE}, lightgbm.Dataset(features, targets), 1
        ),
        lambda: xgboost.train(XGB, xgboost.DMatrix(features, targets), 1, obj=OBJECTIVE),
    ):
        with pytest.raises(ValueError, match="several classes need num_class"):
            train()


IN_CATBOOST = """
import numpy as np, catboost
from pauc.boosting import BandObjective
options = {"loss_function": BandObjective(0.05), "eval_metric": "Logloss", "iterations": 1}
model = catboost.CatBoost({**options, "verbose": False, "allow_writing_files": False})
model.fit(np.random.default_rng(0).normal(size=(100, 2)), np.arange(100) % 2)
"""


def test_catboost_is_told_why_not() -> None:
    """In a process of its own, since CatBoost unwinds the error past Python's own counters."""
    pytest.importorskip("catboost")
    ran = subprocess.run(
        [sys.executable, "-c", IN_CATBOOST], capture_output=True, text=True, timeout=300
    )
    assert ran.returncode != 0
    assert "blocks of 1,000 rows" in ran.stderr


# --- metrics and early stopping


METRIC = PartialAUCMetric(0.05)


def rounds_until_the_best(values: list[float], patience: int) -> int:
    """The round, from 1 on, that is the best of those that early stopping sees."""
    best = 0
    for k, value in enumerate(values):
        if value > values[best]:
            best = k
        elif k - best >= patience:
            break
    return best + 1


@pytest.fixture
def held_out() -> tuple[np.ndarray, np.ndarray]:
    return table(rows=800, seed=1)


def held_out_of_lightgbm(held_out: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """The keywords for held-out rows: LightGBM 4.7 has renamed them."""
    if "eval_X" in signature(lightgbm.LGBMClassifier.fit).parameters:
        return {"eval_X": held_out[0], "eval_y": held_out[1]}
    return {"eval_set": [held_out]}


def test_lightgbm_stops_early_and_logs(
    held_out: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    features, targets = table()
    data = lightgbm.Dataset(features, targets)
    settings = {**LGB, "objective": OBJECTIVE, "learning_rate": 0.3}
    log: dict[str, Any] = {}
    booster = lightgbm.train(
        {**settings, "verbose": 1}, data, 200,
        valid_sets=[data.create_valid(*held_out)], valid_names=["validation"],
        feval=[METRIC, TPRMetric(0.005)],
        callbacks=[
            lightgbm.early_stopping(5, first_metric_only=True),
            lightgbm.log_evaluation(1),
            lightgbm.record_evaluation(log),
        ],
    )  # fmt: skip
    values = log["validation"][METRIC.name]
    assert booster.best_iteration == rounds_until_the_best(values, 5) < 195
    assert len(values) == booster.best_iteration + 5
    best = METRIC.value(held_out[1], booster.predict(held_out[0]))
    assert best == pytest.approx(max(values)) == pytest.approx(values[booster.best_iteration - 1])
    assert "validation's partial_auc_5%: 0." in capsys.readouterr().out
    model = lightgbm.LGBMClassifier(
        n_estimators=200, n_jobs=1, num_leaves=7, min_child_samples=5, learning_rate=0.3,
        objective=OBJECTIVE, metric="None", verbose=-1,
    ).fit(
        features, targets, **held_out_of_lightgbm(held_out), eval_metric=METRIC,
        callbacks=[lightgbm.early_stopping(5, verbose=False)],
    )  # fmt: skip
    assert model.best_iteration_ == booster.best_iteration
    assert model.evals_result_["valid_0"][METRIC.name] == values


def test_xgboost_stops_early_and_logs(
    held_out: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    features, targets = table()
    stop = xgboost.callback.EarlyStopping(
        rounds=5, metric_name=METRIC.name, maximize=True, save_best=True
    )
    log: dict[str, Any] = {}
    settings = {**XGB, "disable_default_eval_metric": 1, "base_score": 0.0}
    booster = xgboost.train(
        settings, xgboost.DMatrix(features, targets), 200, obj=OBJECTIVE,
        evals=[(xgboost.DMatrix(*held_out), "validation")], custom_metric=METRIC,
        evals_result=log, callbacks=[stop], verbose_eval=True,
    )  # fmt: skip
    values = log["validation"][METRIC.name]
    best = rounds_until_the_best(values, 5)
    assert booster.best_iteration + 1 == best == booster.num_boosted_rounds() < 195
    assert len(values) == best + 5
    assert "validation-partial_auc_5%:0." in capsys.readouterr().out
    model = xgboost.XGBClassifier(
        n_estimators=200, n_jobs=1, max_depth=3, objective=OBJECTIVE, eval_metric=METRIC.score,
        callbacks=[xgboost.callback.EarlyStopping(rounds=5, maximize=True)],
    ).fit(features, targets, eval_set=[held_out], verbose=False)  # fmt: skip
    assert model.best_iteration == booster.best_iteration
    assert model.evals_result()["validation_0"][METRIC.name] == pytest.approx(values, abs=1e-6)


def test_catboost_stops_early_and_logs(
    held_out: tuple[np.ndarray, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    catboost = pytest.importorskip("catboost")
    with pytest.warns(UserWarning, match="numba"):
        model = catboost.CatBoostClassifier(
            iterations=200, learning_rate=0.3, depth=3, thread_count=1, random_seed=0,
            loss_function="Logloss", eval_metric=METRIC, allow_writing_files=False,
        ).fit(*table(), eval_set=held_out, early_stopping_rounds=5)  # fmt: skip
    values = model.evals_result_["validation"]["PartialAUCMetric"]
    best = rounds_until_the_best(values, 5)
    assert model.best_iteration_ + 1 == best < 195
    assert METRIC.value(held_out[1], model.predict_proba(held_out[0])[:, 1]) == pytest.approx(
        max(values)
    )
    assert "bestTest" in capsys.readouterr().out


# --- beyond one process


DISTRIBUTED = """
import sys, warnings
import numpy as np
warnings.simplefilter("ignore")
import dask.array as da
import xgboost
from xgboost import dask as dxgb
from dask.distributed import Client, LocalCluster
from pauc.boosting import BandObjective, PartialAUCMetric


class Recorded(BandObjective):
    def __call__(self, first, second, sample_weight=None):
        found = super().__call__(first, second, sample_weight)
        rank = xgboost.collective.get_rank()
        rows = second.get_label(), second.get_weight(), first, *found
        files = len(__import__("glob").glob(f"{FOLDER}/{rank}-*"))
        np.savez(f"{FOLDER}/{rank}-{files}.npz", *rows)
        return found
"""


def test_xgboosts_workers_have_the_gradient_of_one_process(tmp_path: Path) -> None:
    """Each round of two workers: their rows together, given to the function at once."""
    pytest.importorskip("dask.distributed")
    script = tmp_path / "train.py"
    script.write_text(DISTRIBUTED.replace("{FOLDER}", str(tmp_path)) + TRAINING)
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    parts = {path.name: np.load(path) for path in tmp_path.glob("*.npz")}
    assert len(parts) == 2 * 4
    for k in range(4):
        both = [list(parts[f"{rank}-{k}.npz"].values()) for rank in (0, 1)]
        label, weight, scores, gradient, hessian = (
            np.concatenate(pair) for pair in zip(*both, strict=True)
        )
        assert len(label) == 4000
        sizes = {len(part[0]) for part in both}
        assert len(sizes) == 2  # unequal shares
        expected = band_objective(scores, label, beta=0.05, sample_weight=weight)
        assert gradient == pytest.approx(expected[0], rel=1e-9, abs=1e-11)
        assert hessian == pytest.approx(expected[1], rel=1e-6, abs=1e-8)
        assert not np.allclose(
            gradient[: len(both[0][0])],
            band_objective(*[part[: len(both[0][0])] for part in (scores, label)], beta=0.05)[0],
        )
    # The metric is that of all rows, and the workers agree on it, round by round.
    logged, exact = (float(number) for number in ran.stdout.split()[-2:])
    assert logged == pytest.approx(exact, abs=1e-6)


TRAINING = """

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 4))
    targets = (features[:, 0] + rng.normal(size=4000) > 1.5).astype(float)
    weight = rng.exponential(size=4000)
    # The second part has few positives, and all of the band's top.
    features[2500:, 0] += 0.5
    metric = PartialAUCMetric(0.05)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True,
                      dashboard_address=None) as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        chunks = (2500, 1500)
        parts = [da.from_array(part, chunks=(chunks, *part.shape[1:]))
                 for part in (features, targets, weight)]
        data = dxgb.DaskDMatrix(client, parts[0], parts[1], weight=parts[2])
        out = dxgb.train(client, {"max_depth": 3, "disable_default_eval_metric": 1,
                         "base_score": 0.0}, data, 4, obj=Recorded(0.05),
                         evals=[(data, "train")], custom_metric=metric)
        raw = out["booster"].predict(xgboost.DMatrix(features), output_margin=True)
        print(out["history"]["train"][metric.name][-1], metric.value(targets, raw))
"""


# --- the example and the page


def test_the_page_s_blocks_run_as_pasted() -> None:
    page = Path(__file__).parents[2] / "docs" / "boosting.md"
    blocks = re.findall(r"```py\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    rows, labels = table()
    held_out, held_out_labels = table(rows=800, seed=1)
    names: dict[str, Any] = {
        "rows": rows, "labels": labels, "held_out": held_out, "held_out_labels": held_out_labels
    }  # fmt: skip
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
        assert TPRMetric(0.05).value(held_out_labels, names["raw"]) > 0.7
    assert names["model"].best_iteration < 950


def test_the_example_runs() -> None:
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "boosted_trees.py", "--quick", "--out", os.devnull],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "promise" in ran.stdout
