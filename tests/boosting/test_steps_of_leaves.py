"""No leaf of real trees leaps where those of the log-loss do: rare positives and many leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pauc.boosting import BandObjective, log_odds

lightgbm = pytest.importorskip("lightgbm")
RATE = 0.1


def rare_positives() -> tuple[np.ndarray, np.ndarray]:
    """Forty positives in 20,000 rows: what is known of each is partly chance, as in covertype."""
    rng = np.random.default_rng(0)
    targets = (np.arange(20_000) < 40).astype(int)
    features = rng.normal(size=(20_000, 6))
    features[:, 0] += 2.5 * targets
    return features, targets


def largest_leaf(objective: Any) -> float:
    """Return the largest move of a leaf in 60 rounds, in units of the margin."""
    features, targets = rare_positives()
    start = np.full(len(targets), log_odds(targets))
    params = {
        "objective": objective, "num_leaves": 63, "learning_rate": RATE, "min_data_in_leaf": 1,
        "num_threads": 1, "seed": 0, "verbose": -1,
    }  # fmt: skip
    data = lightgbm.Dataset(features, targets, init_score=start)
    booster = lightgbm.train(params, data, 60)
    trees = booster.trees_to_dataframe()
    return float(trees.loc[trees["left_child"].isna(), "value"].abs().max())


def test_no_leaf_leaps_where_the_log_loss_does() -> None:
    assert largest_leaf("binary") > 20 * RATE * 10.0
    objective = BandObjective(0.02)
    assert largest_leaf(objective) <= RATE * objective.max_step * (1 + 1e-6)
    # The bound does it, and not the pairs.
    assert largest_leaf(BandObjective(0.02, max_step=1e9)) > 1.2 * RATE * objective.max_step
