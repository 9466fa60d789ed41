"""The same promises as MAPIE's `BinaryClassificationController`, asked of both on the same rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

mapie = pytest.importorskip("mapie.risk_control")

from sklearn.datasets import make_classification  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

from pauc import select_threshold  # noqa: E402

NAMES = {
    "budget": "fpr",
    "alert_share": "predicted_positive_fraction",
    "precision": "precision",
    "tpr": "recall",
}


def population() -> tuple[Any, Any, Any]:
    """A fitted model, rows to calibrate on and many more to see what a threshold does."""
    rows, labels = make_classification(
        30_000, n_features=8, n_informative=4, weights=[0.8], class_sep=0.8, random_state=0
    )
    train, rest, of_train, of_rest = train_test_split(rows, labels, train_size=2000, random_state=0)
    model = LogisticRegression().fit(train, of_train)
    held_out, later, of_held_out, of_later = train_test_split(
        rest, of_rest, train_size=3000, random_state=1
    )
    return model, (held_out, of_held_out), (later, of_later)


def rates(alerts: Any, labels: Any) -> dict[str, float]:
    return {
        "budget": alerts[labels == 0].mean(),
        "alert_share": alerts.mean(),
        "precision": labels[alerts].mean(),
        "tpr": alerts[labels == 1].mean(),
    }


@pytest.mark.parametrize(
    "promises",
    [
        {"budget": 0.05},
        {"alert_share": 0.15},
        {"precision": 0.6},
        {"budget": 0.05, "alert_share": 0.15},
        {"precision": 0.5, "tpr": 0.3},
    ],
    ids=lambda promises: "+".join(promises),
)
def test_both_keep_their_promises_and_ours_catches_no_less(promises: dict[str, float]) -> None:
    model, (rows, labels), (later, of_later) = population()
    controller = mapie.BinaryClassificationController(
        predict_function=model.predict_proba,
        risk=[NAMES[name] for name in promises],
        target_level=list(promises.values()),
        confidence_level=0.9,
        best_predict_param_choice="recall",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        controller.calibrate(rows, labels)
    point = select_threshold(
        model.predict_proba(rows)[:, 1],
        labels,
        confidence=0.9,
        **promises,  # type: ignore[arg-type]
    )
    ours = rates(point.predict(model.predict_proba(later)[:, 1]), of_later)
    check(ours, promises)
    if not len(controller.valid_predict_params):
        return  # MAPIE has found no threshold where there is one
    theirs = rates(np.asarray(controller.predict(later)) == 1, of_later)
    check(theirs, promises)
    # Of a precision they test 100 probabilities, which may lie nearer to the best than our ranks.
    assert ours["tpr"] >= (0.9 if "precision" in promises else 1.0) * theirs["tpr"]


def check(found: dict[str, float], promises: dict[str, float]) -> None:
    for name, value in promises.items():
        upper = name in ("budget", "alert_share")
        assert found[name] <= value if upper else found[name] >= value, (name, found)
