"""What the native step can compute, and a config in the numbers that it is called with."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from pauc.config import (
    LossConfig,
    Number,
    PAUCConfig,
    RecallAtQuantileConfig,
    make_any_config,
    options_of,
)
from pauc.core.band import knot_levels
from pauc.core.step import has_entropy
from pauc.native.readable import are_watched, has_memory, is_dual
from pauc.support import ANY, Support

# As csrc/batch.h numbers them. A value that is not here has no number there.
_SURROGATES = {("trapezoid", "sigmoid"): 0, ("pairwise", "sigmoid"): 1, ("pairwise", "logistic"): 2}
_RECALL = 3
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
        "budget_basis": ("fpr", "population"),
        "temperature": ANY,
        "reduction": tuple(_REDUCTIONS),
        "ignore_index": ANY,
        "quantile_interpolation": tuple(_INTERPOLATIONS),
        "max_pool_size": ANY,
        "link": ("sigmoid", "logistic"),
        "gradient_scale": ("pool", "live"),
        "edge_gradient": ("detached", "implicit"),
        "bce_weight": ANY,
        "pauc_weight": ANY,
        "max_beta": ANY,
    },
    tensors=True,
)
RECALL_SUPPORT = Support(
    "native",
    RecallAtQuantileConfig(),
    values={
        "quantile": ANY,
        **{k: v for k, v in SUPPORT.values.items() if k in RecallAtQuantileConfig._fields},
    },
    tensors=True,
)
_SUPPORTS: dict[type, Support] = {PAUCConfig: SUPPORT, RecallAtQuantileConfig: RECALL_SUPPORT}


BandConfig = PAUCConfig | RecallAtQuantileConfig


class NativeOptions(NamedTuple):
    """A config as the native step is called with it."""

    config: BandConfig  # with numbers in place of tensors
    ignore_index: int
    has_entropy: bool
    by_class: bool  # there is a loss for each class
    numbers: tuple[int | float, ...]  # in the order of csrc/step.cpp, `parse_step`
    levels: list[float]  # FPR of each knot; of the pairwise surrogate, of the band's edges


def native_options(config: LossConfig) -> NativeOptions | None:
    """Encode a checked config for the native step; None if it does not support an option."""
    if not isinstance(config, (PAUCConfig, RecallAtQuantileConfig)):
        return None
    if _SUPPORTS[type(config)].refusal(config) is not None:
        return None
    read = _in_numbers(config)
    return None if read is None else _encode(read)


def _encode(config: BandConfig) -> NativeOptions:
    surrogate, levels = _surrogate_and_levels(config)
    numbers = (
        surrogate,
        _SCALES[config.tau_scale],
        _INTERPOLATIONS[config.quantile_interpolation],
        config.pos_numerator == "pool",
        config.gradient_scale == "live",
        _REDUCTIONS[config.reduction],
        config.budget_basis == "population",
        config.edge_gradient == "implicit",
        0 if config.max_pool_size is None else int(config.max_pool_size),
        float(config.temperature),
        float(config.pauc_weight),
        float(config.bce_weight),
    )
    return NativeOptions(
        config=config,
        ignore_index=int(config.ignore_index),
        has_entropy=has_entropy(config),
        by_class=config.reduction == "none",
        numbers=numbers,
        levels=[float(level) for level in levels],
    )


def _surrogate_and_levels(config: BandConfig) -> tuple[int, list[Number]]:
    """Return the number of the surrogate, and the FPRs of what it compares positives with."""
    if isinstance(config, RecallAtQuantileConfig):
        return _RECALL, [0.0, config.quantile]
    pairwise = config.surrogate == "pairwise"
    number = _SURROGATES[config.surrogate, config.link if pairwise else "sigmoid"]
    return number, knot_levels(config.alpha, config.beta, 2 if pairwise else config.n_knots)


def _in_numbers(config: BandConfig) -> BandConfig | None:
    """Return the config with the values of its tensors; None where they are not for reading.

    Core does not read them. It gives them a gradient, and takes values that are out of range: so
    what a number may not be, or what wants a gradient, is left to it.
    """
    tensors = {k: v for k, v in options_of(config).items() if isinstance(v, Tensor)}
    if not tensors:
        return config
    if torch.compiler.is_compiling() or are_watched():
        return None
    if any(v.requires_grad or not has_memory(v) or is_dual(v) for v in tensors.values()):
        return None
    read = {name: value.item() for name, value in tensors.items()}
    try:
        numbers = make_any_config(type(config), {**options_of(config), **read})
    except ValueError:
        return None
    return cast("BandConfig", numbers)
