"""What LightGBM, XGBoost and their scikit-learn estimators hand to an objective or a metric."""

from __future__ import annotations

from typing import Any, NamedTuple

from pauc.arrays import ArrayLike


class Call(NamedTuple):
    """The rows of a call, and the engine whose data set they came in, if they did."""

    scores: ArrayLike
    targets: ArrayLike
    sample_weight: ArrayLike | None
    engine: str  # "lightgbm", "xgboost", or "arrays"


def read_call(first: Any, second: Any, sample_weight: ArrayLike | None) -> Call:
    """Return the rows of ``(scores, data set)`` or ``(targets, scores, sample_weight)``.

    Raises:
        NotImplementedError: a data set of LightGBM that is one part of several machines' rows.
        TypeError: a data set without labels.
    """
    if not hasattr(second, "get_label"):
        return Call(second, first, sample_weight, "arrays")
    engine = type(second).__module__.partition(".")[0]
    if engine == "lightgbm":
        _refuse_parts(getattr(second, "params", None) or {})
    targets, weight = second.get_label(), second.get_weight()
    if targets is None:
        raise TypeError("the data set must have labels, got None")
    # XGBoost's data without weights has an empty array of them.
    return Call(first, targets, None if weight is None or not len(weight) else weight, engine)


def _refuse_parts(params: dict[str, Any]) -> None:
    """Raise for LightGBM's training on several machines, whose other rows cannot be reached."""
    machines = params.get("num_machines", params.get("num_machine", 1))
    if int(machines) > 1:
        raise NotImplementedError(
            f"LightGBM on several machines has no exchange that a Python objective could use, so "
            f"that each would have a band of its own; got num_machines={machines}. XGBoost has one."
        )
