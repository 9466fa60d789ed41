"""The registry: an arm is a loss of `losses.py` with documented parameters, and how it is tuned."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple


class Arm(NamedTuple):
    name: str
    loss: str  # key of `losses.LOSSES`
    params: dict[str, Any]  # documented values
    own: tuple[str, tuple[Any, ...]]  # the arm's one own parameter, and what tuning may try
    batching: str = "shuffled"  # key of `batches.BATCHINGS`
    needs: str | None = None  # module without which the arm is left out


LOGISTIC = {
    "surrogate": "pairwise",
    "link": "logistic",
    "gradient_scale": "live",
    "temperature": 1.0,
}
UNIT = {**LOGISTIC, "tau_scale": "unit"}
IMPLICIT = {"edge_gradient": "implicit", "gradient_scale": "live", "temperature": 0.3}
PEER = "imbalanced_losses"

BAND = ("band", (1.0, 2.0, 4.0, 8.0))
TEMPERATURE = ("temperature", (0.1, 0.2, 0.3, 1.0))
WEIGHT = ("bce_weight", (0.03, 0.1, 0.3, 1.0))
FPR_BAND = ("beta", (0.1, 0.02, 0.05, 0.3))
DECAY = ("decay", (1.0, 0.1, 0.01))  # `training.Training.decay`, for a loss without parameters

_ARMS = [
    Arm("BCE", "bce", {}, DECAY),
    Arm(
        "BCE, class-weighted",
        "bce",
        {"weight_power": 1.0},
        ("weight_power", (0.25, 0.5, 0.75, 1.0)),
    ),
    Arm("focal", "focal", {}, ("gamma", (0.5, 1.0, 2.0, 5.0)), needs=PEER),
    Arm("MB", "mini_batch", {}, BAND),
    Arm("peer trapezoid, warm", "peer_pauc", {"warm": True}, BAND, needs=PEER),
    Arm(
        "peer pairwise, warm",
        "peer_pauc",
        {"warm": True, "surrogate": "pairwise"},
        BAND,
        needs=PEER,
    ),
    Arm(
        "peer pairwise, cold",
        "peer_pauc",
        {"warm": False, "surrogate": "pairwise"},
        BAND,
        needs=PEER,
    ),
    Arm("SmoothAP, warm", "smooth_ap", {}, ("temp_end", (0.003, 0.01, 0.03)), needs=PEER),
    Arm("RecallAtQuantile, warm", "recall_at_quantile", {}, BAND, needs=PEER),
    Arm(
        "LibAUC DRO",
        "libauc",
        {"name": "pAUC_DRO_Loss"},
        ("Lambda", (0.1, 0.3, 1.0, 10.0)),
        needs="libauc",
    ),
    Arm(
        "LibAUC CVaR",
        "libauc",
        {"name": "pAUC_CVaR_Loss"},
        ("eta", (0.01, 0.1, 1.0, 10.0)),
        needs="libauc",
    ),
    Arm("pauc defaults", "pauc", {}, BAND),
    Arm("pauc trapezoid, implicit live", "pauc", IMPLICIT, TEMPERATURE),
    Arm("pauc logistic, iqr", "pauc", LOGISTIC, BAND),
    Arm("pauc logistic, unit", "pauc", UNIT, BAND),
    Arm("pauc logistic, unit, BCE 0.1", "pauc", {**UNIT, "bce_weight": 0.1}, WEIGHT),
    Arm(
        "pauc logistic, unit, BCE 0.1, band x4",
        "pauc",
        {**UNIT, "bce_weight": 0.1, "band": 4.0},
        WEIGHT,
    ),
    Arm("pauc SmoothAP, warm", "our_smooth_ap", {}, ("temperature", (0.003, 0.01, 0.03, 0.1))),
    Arm("pauc RecallAtQuantile, warm", "our_recall", {}, BAND),
    Arm("pauc preset", "preset", {}, FPR_BAND),
    # One option alone, beside the documented defaults.
    Arm("pauc pairwise", "pauc", {"surrogate": "pairwise"}, BAND),
    Arm(
        "pauc pairwise, logistic",
        "pauc",
        {"surrogate": "pairwise", "link": "logistic"},
        BAND,
    ),
    Arm(
        "pauc pairwise, live",
        "pauc",
        {"surrogate": "pairwise", "gradient_scale": "live"},
        BAND,
    ),
    Arm("pauc trapezoid, implicit", "pauc", {"edge_gradient": "implicit"}, TEMPERATURE),
    Arm("pauc trapezoid, live", "pauc", {"gradient_scale": "live"}, TEMPERATURE),
    Arm("pauc trapezoid, unit", "pauc", {"tau_scale": "unit"}, TEMPERATURE),
    # With the sampler, and what tells its share from that of the weights beside it.
    Arm(
        "pauc logistic, unit, BCE 1, band x4",
        "pauc",
        {**UNIT, "bce_weight": 1.0, "band": 4.0},
        WEIGHT,
    ),
    Arm("pauc logistic, iqr, sampler", "pauc", LOGISTIC, BAND, "banded"),
    Arm("BCE, sampler", "bce", {}, DECAY, "banded"),
    Arm("pauc preset, sampler", "preset", {}, FPR_BAND, "banded"),
    Arm("BCE, gentle sampler", "bce", {}, DECAY, "gentle"),
    Arm("pauc preset, gentle sampler", "preset", {}, FPR_BAND, "gentle"),
    Arm(
        "pauc logistic, unit, BCE 1, band x4, sampler",
        "pauc",
        {**UNIT, "bce_weight": 1.0, "band": 4.0},
        WEIGHT,
        "banded",
    ),
]
ARMS = {arm.name: arm for arm in _ARMS}


def is_installed(module: str | None) -> bool:
    return module is None or find_spec(module) is not None
