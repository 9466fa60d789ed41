"""Boosted trees of LightGBM and XGBoost with one set of settings, and their scores round by round.

Both engines start at the log-odds of the training rows, whatever the objective, so that the margins
after `k` rounds are those of the first `k` trees and a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pauc.boosting import BandObjective, PartialAUCMetric, log_odds

Array = NDArray[Any]
# Rows, and the trees from which one to which other: the sum of their leaves.
Margins = Callable[[Array, int, int], Array]


class Settings(NamedTuple):
    """What trials are over; the defaults are LightGBM's."""

    leaves: int = 31
    rate: float = 0.1
    least_hessian: float = 1e-3
    l2: float = 0.0


class Rows(NamedTuple):
    features: Array
    targets: Array


class Stop(NamedTuple):
    """Training ends where the metric of the rows has not grown for `patience` rounds."""

    rows: Rows
    metric: PartialAUCMetric
    patience: int


class Trees(NamedTuple):
    margins: Margins
    rounds: int  # with the best value of the metric, if there was one


class Training(NamedTuple):
    """What is trained on, beside the settings; no objective is the engine's log-loss."""

    rows: Rows
    weight: Array | None = None
    objective: BandObjective | None = None
    stop: Stop | None = None
    threads: int = 1


def staged(margins: Margins, features: Array, rounds: int, every: int) -> Iterator[Array]:
    """Yield the margins after every so many rounds; each tree is asked once."""
    total: Any = 0.0
    for first in range(0, rounds, every):
        total = total + margins(features, first, min(first + every, rounds))
        yield total


def train_lightgbm(training: Training, settings: Settings, rounds: int) -> Trees:
    import lightgbm  # optional

    features, targets = training.rows
    start = np.full(len(targets), log_odds(targets, sample_weight=training.weight))
    data = lightgbm.Dataset(features, targets, weight=training.weight, init_score=start)
    params = {
        "objective": training.objective or "binary",
        "num_leaves": settings.leaves,
        "learning_rate": settings.rate,
        "min_sum_hessian_in_leaf": settings.least_hessian,
        "lambda_l2": settings.l2,
        "metric": "None",
        "num_threads": training.threads,
        "seed": 0,
        "verbose": -1,
    }
    stopping: dict[str, Any] = {}
    if training.stop is not None:
        rows, metric, patience = training.stop
        stopping = {
            "valid_sets": [data.create_valid(*rows)],
            "feval": metric,
            "callbacks": [lightgbm.early_stopping(patience, verbose=False)],
        }
    booster = lightgbm.train(params, data, rounds, **stopping)

    def margins(features: Array, first: int, last: int) -> Array:
        found: Array = booster.predict(
            features, start_iteration=first, num_iteration=last - first, raw_score=True,
            num_threads=training.threads,
        )  # fmt: skip
        return found

    return Trees(margins, booster.best_iteration if training.stop else rounds)


def train_xgboost(training: Training, settings: Settings, rounds: int) -> Trees:
    import xgboost  # optional

    def matrix(features: Array, *more: Any, **named: Any) -> Any:
        return xgboost.DMatrix(features, *more, nthread=training.threads, **named)

    features, targets = training.rows
    start = log_odds(targets, sample_weight=training.weight)
    # A probability for its own objective, a margin for others.
    log_loss = {"objective": "binary:logistic", "base_score": 1 / (1 + np.exp(-start))}
    params = {
        **({"base_score": start} if training.objective else log_loss),
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_depth": 0,
        "max_leaves": settings.leaves,
        "eta": settings.rate,
        "min_child_weight": settings.least_hessian,
        "lambda": settings.l2,
        "disable_default_eval_metric": 1,
        "nthread": training.threads,
    }
    stopping: dict[str, Any] = {}
    if training.stop is not None:
        rows, metric, patience = training.stop
        stopping = {
            "evals": [(matrix(*rows), "validation")],
            "custom_metric": metric,
            "callbacks": [xgboost.callback.EarlyStopping(rounds=patience, maximize=True)],
            "verbose_eval": False,
        }
    data = matrix(features, targets, weight=training.weight)
    booster = xgboost.train(params, data, rounds, obj=training.objective, **stopping)

    def margins(features: Array, first: int, last: int) -> Array:
        found: Array = booster.predict(
            matrix(features), output_margin=True, iteration_range=(first, last)
        )
        return found - start  # it is in the answer for each range of trees

    return Trees(margins, booster.best_iteration + 1 if training.stop else rounds)


NAMES = {"lightgbm": "LightGBM", "xgboost": "XGBoost"}
ENGINES = {"lightgbm": train_lightgbm, "xgboost": train_xgboost}
