"""What the native step can compute, and a config in the numbers that it is called with."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import (
    LossConfig,
    Number,
    PAUCConfig,
    RecallAtQuantileConfig,
    SmoothAPConfig,
    make_any_config,
    options_of,
)
from pauc.core.band import knot_levels
from pauc.core.step import has_entropy
from pauc.native.readable import have_memory, is_dual, is_traced
from pauc.support import ANY, Support

# As csrc/batch.h numbers them. A value that is not here has no number there.
_SURROGATES = {("trapezoid", "sigmoid"): 0, ("pairwise", "sigmoid"): 1, ("pairwise", "logistic"): 2}
_RECALL, _RANKS = 3, 4
_SCALES = {"iqr": 0, "band": 1, "unit": 2}
INTERPOLATIONS = {"linear": 0, "lower": 1, "higher": 2, "nearest": 3, "midpoint": 4}
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
        "budget_basis": ("fpr", "population"),
        "temperature": ANY,
        "reduction": tuple(_REDUCTIONS),
        "ignore_index": ANY,
        "quantile_interpolation": tuple(INTERPOLATIONS),
        "max_pool_size": ANY,
        "link": ("sigmoid", "logistic"),
        "gradient_scale": ("pool", "live"),
        "edge_gradient": ("detached", "implicit"),
        "bce_weight": ANY,
        "pauc_weight": ANY,
        "weight_scale": ("unit", "explained"),
        "max_beta": ANY,
    },
    at_default=("precision", "base_rate"),
    tensors=True,
)
RECALL_SUPPORT = Support(
    "native",
    RecallAtQuantileConfig(),
    values={
        "quantile": ANY,
        **{k: v for k, v in SUPPORT.values.items() if k in RecallAtQuantileConfig._fields},
    },
    at_default=SUPPORT.at_default,
    tensors=True,
)
SMOOTH_AP_SUPPORT = Support(
    "native",
    SmoothAPConfig(),
    values={
        **{k: v for k, v in SUPPORT.values.items() if k in SmoothAPConfig._fields},
        "tau_scale": ("iqr", "unit"),
    },
    tensors=True,
)
_SUPPORTS: dict[type, Support] = {
    PAUCConfig: SUPPORT,
    RecallAtQuantileConfig: RECALL_SUPPORT,
    SmoothAPConfig: SMOOTH_AP_SUPPORT,
}


class NativeOptions(NamedTuple):
    """A config as the native step is called with it."""

    config: LossConfig  # with numbers in place of tensors
    ignore_index: int
    has_whole: bool  # the loss's gradient is more than one factor times that of the classes'
    by_class: bool  # there is a loss for each class
    numbers: tuple[int | float, ...]  # in the order of csrc/step.cpp, `parse_step`
    levels: list[float]  # FPR of each knot; of the pairwise surrogate, of the band's edges


def native_options(config: LossConfig) -> NativeOptions | None:
    """Encode a checked config for the native step; None if it does not support an option."""
    if _SUPPORTS[type(config)].refusal(config) is not None:
        return None
    read = _in_numbers(config)
    return None if read is None else _encode(read)


def _encode(config: LossConfig) -> NativeOptions:
    surrogate, levels = _surrogate_and_levels(config)
    max_pool = getattr(config, "max_pool_size", None)  # no option of every loss, nor those two
    budget, moves = getattr(config, "budget_basis", "fpr"), getattr(config, "edge_gradient", "")
    numbers = (
        surrogate,
        _SCALES[config.tau_scale],
        INTERPOLATIONS[config.quantile_interpolation],
        config.pos_numerator == "pool",
        config.gradient_scale == "live",
        _REDUCTIONS[config.reduction],
        config.weight_scale == "explained",
        budget == "population",
        moves == "implicit",
        0 if max_pool is None else int(max_pool),
        float(config.temperature),
        float(config.pauc_weight),
        float(config.bce_weight),
    )
    return NativeOptions(
        config=config,
        ignore_index=int(config.ignore_index),
        has_whole=has_entropy(config) or config.weight_scale == "explained",
        by_class=config.reduction == "none",
        numbers=numbers,
        levels=[float(level) for level in levels],
    )


def _surrogate_and_levels(config: LossConfig) -> tuple[int, list[Number]]:
    """Return the number of the surrogate, and the FPRs of what it compares positives with."""
    if isinstance(config, RecallAtQuantileConfig):
        return _RECALL, [0.0, config.quantile]
    if isinstance(config, SmoothAPConfig):
        return _RANKS, [0.0]  # there is no band: the top score is found soonest
    pairwise = config.surrogate == "pairwise"
    number = _SURROGATES[config.surrogate, config.link if pairwise else "sigmoid"]
    return number, knot_levels(config.alpha, config.beta, 2 if pairwise else config.n_knots)


def _in_numbers(config: LossConfig) -> LossConfig | None:
    """Return the config with the values of its tensors; None where they are not for reading.

    Core does not read them. It gives them a gradient, and takes values that are out of range: so
    what a number may not be, or what wants a gradient, is left to it.
    """
    tensors = {k: v for k, v in options_of(config).items() if isinstance(v, Tensor)}
    if not tensors:
        return config
    if torch.compiler.is_compiling() or is_traced():
        return None
    if any(v.requires_grad or not have_memory(v) or is_dual(v) for v in tensors.values()):
        return None
    read = {name: value.item() for name, value in tensors.items()}
    try:
        return make_any_config(type(config), {**options_of(config), **read})
    except ValueError:
        return None
