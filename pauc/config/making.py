"""From options by keyword to a checked configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

from pauc.checks import (
    check_choice,
    check_ignore_index,
    check_int,
    check_least_end,
    check_moving_band,
    check_no_precision,
    check_precision,
    check_real,
    is_unread,
)
from pauc.config.options import (
    BudgetBasis,
    EdgeGradient,
    GradientScale,
    Interpolation,
    Link,
    LossConfig,
    Number,
    PAUCConfig,
    PAUCOptions,
    PosNumerator,
    RankTauScale,
    RecallAtQuantileConfig,
    RecallAtQuantileOptions,
    Reduction,
    SmoothAPConfig,
    SmoothAPOptions,
    Surrogate,
    TauScale,
    WeightScale,
)

_CHOICES = {
    "surrogate": get_args(Surrogate),
    "tau_scale": get_args(TauScale),
    "pos_numerator": get_args(PosNumerator),
    "budget_basis": get_args(BudgetBasis),
    "reduction": get_args(Reduction),
    "quantile_interpolation": get_args(Interpolation),
    "link": get_args(Link),
    "gradient_scale": get_args(GradientScale),
    "edge_gradient": get_args(EdgeGradient),
    "weight_scale": get_args(WeightScale),
}


def make_config(options: dict[str, Any] | PAUCOptions) -> PAUCConfig:
    """Return the validated configuration that ``options`` describe.

    Raises:
        TypeError: an unknown option, or a value of the wrong type.
        ValueError: a value out of its range.
    """
    _check_names(options, PAUCConfig._fields)
    config = PAUCConfig(**options)
    check_moving_band(config.alpha, config.beta, config.max_beta)
    check_int("n_knots", config.n_knots, 2)
    _check_max_pool_size(config.max_pool_size)
    _check_shared(config)
    # A band that moves begins wider, where it is annealed.
    _check_precision(config, "beta", None if config.max_beta is not None else config.beta)
    return config


def make_recall_config(
    options: dict[str, Any] | RecallAtQuantileOptions,
) -> RecallAtQuantileConfig:
    """As :func:`make_config`, for recall at a quantile."""
    _check_names(options, RecallAtQuantileConfig._fields)
    config = RecallAtQuantileConfig(**options)
    check_real("quantile", config.quantile)
    if not 0 < config.quantile <= 1:
        raise ValueError(f"quantile must satisfy 0 < quantile <= 1, got {config.quantile!r}")
    _check_max_pool_size(config.max_pool_size)
    _check_shared(config)
    _check_precision(config, "quantile", config.quantile)
    return config


def make_smooth_ap_config(options: dict[str, Any] | SmoothAPOptions) -> SmoothAPConfig:
    """As :func:`make_config`, for Smooth-AP."""
    _check_names(options, SmoothAPConfig._fields)
    config = SmoothAPConfig(**options)
    check_choice("tau_scale", config.tau_scale, get_args(RankTauScale))
    _check_shared(config)
    return config


def make_any_config(kind: type[LossConfig], options: Any) -> LossConfig:
    """As :func:`make_config`, for any of the losses."""
    return _MAKERS[kind](options)


_MAKERS: dict[type, Callable[[Any], LossConfig]] = {
    PAUCConfig: make_config,
    RecallAtQuantileConfig: make_recall_config,
    SmoothAPConfig: make_smooth_ap_config,
}


def options_of(config: LossConfig) -> dict[str, Any]:
    """Return the options by name: `_asdict`, which torch.compile could not trace before 2.10."""
    return dict(zip(type(config)._fields, config, strict=True))


def _check_names(options: Iterable[str], fields: tuple[str, ...]) -> None:
    unknown = sorted(set(options) - set(fields))
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; the options are {fields}")


def _check_max_pool_size(max_pool_size: int | None) -> None:
    if max_pool_size is not None:
        check_int("max_pool_size", max_pool_size, 2)


def _check_precision(
    config: PAUCConfig | RecallAtQuantileConfig, name: str, least: Number | None
) -> None:
    """Raise unless precision and base rate fit the basis, and the named least end of the band."""
    precision, base_rate = config.precision, config.base_rate
    if config.budget_basis != "precision":
        check_no_precision(config.budget_basis, precision, base_rate)
        return
    check_precision(precision, base_rate)
    assert precision is not None
    assert base_rate is not None
    if least is not None:
        check_least_end(name, least, precision, base_rate)


def _check_shared(config: LossConfig) -> None:
    """Raise unless the choices, and the numbers that every configuration has, are in range."""
    for name, allowed in _CHOICES.items():
        if name in type(config)._fields:
            check_choice(name, getattr(config, name), allowed)
    check_ignore_index(config.ignore_index)
    _check_temperature(config.temperature)
    _check_weight("bce_weight", config.bce_weight)
    _check_weight("pauc_weight", config.pauc_weight)
    _check_explained(config)


def _check_temperature(temperature: Number) -> None:
    if is_unread("temperature", temperature):
        return
    check_real("temperature", temperature)
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")


def _check_weight(name: str, weight: Number) -> None:
    if is_unread(name, weight):
        return
    check_real(name, weight)
    if weight < 0:
        raise ValueError(f"{name} must not be negative, got {weight!r}")


def _check_explained(config: LossConfig) -> None:
    """Raise where the weight is what the scores explain, and nothing makes them explain more."""
    if config.weight_scale != "explained" or is_unread("bce_weight", config.bce_weight):
        return
    if config.bce_weight == 0:
        raise ValueError(
            "bce_weight must be above 0 with weight_scale='explained', got 0: random scores "
            "explain nothing, so that the loss would be 0 for good. Without BCE: "
            "weight_scale='unit'"
        )
