"""What the native step can compute, and a config in the numbers that it is called with."""

from __future__ import annotations

from typing import NamedTuple

from pauc.config import LossConfig, PAUCConfig, SmoothAPConfig
from pauc.core.band import knot_levels
from pauc.core.step import has_entropy
from pauc.support import ANY, Support

# As csrc/batch.h numbers them. A value that is not here has no number there.
_SURROGATES = {("trapezoid", "sigmoid"): 0, ("pairwise", "sigmoid"): 1, ("pairwise", "logistic"): 2}
_RANKS = 3
_SCALES = {"iqr": 0, "band": 1, "unit": 2}
_INTERPOLATIONS = {"linear": 0, "lower": 1, "higher": 2, "nearest": 3, "midpoint": 4}
_REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}

SUPPORT = Support(
    "native",
    PAUCConfig(),
    values={
        "alpha": ANY,
        "beta": ANY,
        "surrogate": ("trapezoid", "pairwise"),
        "n_knots": ANY,
        "tau_scale": tuple(_SCALES),
        "pos_numerator": ("pool", "live"),
        "temperature": ANY,
        "reduction": tuple(_REDUCTIONS),
        "ignore_index": ANY,
        "quantile_interpolation": tuple(_INTERPOLATIONS),
        "link": ("sigmoid", "logistic"),
        "gradient_scale": ("pool", "live"),
        "bce_weight": ANY,
        "pauc_weight": ANY,
        "weight_scale": ("unit", "explained"),
    },
    at_default=(
        "budget_basis",
        "max_pool_size",
        "edge_gradient",
        "max_beta",
        "precision",
        "base_rate",
    ),
)
SMOOTH_AP_SUPPORT = Support(
    "native",
    SmoothAPConfig(),
    values={
        "tau_scale": ("iqr", "unit"),
        **{
            name: known
            for name, known in SUPPORT.values.items()
            if name in SmoothAPConfig._fields and name != "tau_scale"
        },
    },
)


class NativeOptions(NamedTuple):
    """A config as the native step is called with it."""

    ignore_index: int
    has_whole: bool  # the loss's gradient is more than one factor times that of the classes'
    by_class: bool  # there is a loss for each class
    numbers: tuple[int | float, ...]  # in the order of csrc/step.cpp, `parse_step`
    levels: list[float]  # FPR of each knot; of the pairwise surrogate, of the band's edges


def native_options(config: LossConfig) -> NativeOptions | None:
    """Encode a checked config for the native step; None if it does not support an option."""
    if isinstance(config, PAUCConfig) and SUPPORT.refusal(config) is None:
        pairwise = config.surrogate == "pairwise"
        link = config.link if pairwise else "sigmoid"
        knots = knot_levels(config.alpha, config.beta, 2 if pairwise else config.n_knots)
        levels = [float(level) for level in knots]
        return _encode(config, _SURROGATES[config.surrogate, link], levels)
    if isinstance(config, SmoothAPConfig) and SMOOTH_AP_SUPPORT.refusal(config) is None:
        return _encode(config, _RANKS, [0.0])  # there is no band: the top score is found soonest
    return None


def _encode(
    config: PAUCConfig | SmoothAPConfig, surrogate: int, levels: list[float]
) -> NativeOptions:
    numbers = (
        surrogate,
        _SCALES[config.tau_scale],
        _INTERPOLATIONS[config.quantile_interpolation],
        config.pos_numerator == "pool",
        config.gradient_scale == "live",
        _REDUCTIONS[config.reduction],
        config.weight_scale == "explained",
        float(config.temperature),
        float(config.pauc_weight),
        float(config.bce_weight),
    )
    return NativeOptions(
        ignore_index=int(config.ignore_index),
        has_whole=has_entropy(config) or config.weight_scale == "explained",
        by_class=config.reduction == "none",
        numbers=numbers,
        levels=levels,
    )
