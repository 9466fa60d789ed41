"""What the Triton step can compute, and a config in the terms of its kernels."""

from __future__ import annotations

from typing import NamedTuple

from pauc.config import LossConfig, PAUCConfig
from pauc.core.band import knot_levels
from pauc.support import ANY, Support

SUPPORT = Support(
    "triton",
    PAUCConfig(),
    values={
        "alpha": ANY,
        "beta": ANY,
        "surrogate": ("trapezoid", "pairwise"),
        "n_knots": ANY,
        "tau_scale": ("iqr", "band", "unit"),
        "pos_numerator": ("pool", "live"),
        "temperature": ANY,
        "reduction": ("mean", "sum", "none"),
        "ignore_index": ANY,
        "quantile_interpolation": ("linear", "lower", "higher", "nearest", "midpoint"),
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


class TritonOptions(NamedTuple):
    """A config as the kernels are launched with it."""

    pairwise: bool
    levels: tuple[float, ...]  # FPR of each score sought: the knots, then the quartiles if asked
    knots: int  # how many of the levels are knots; of the pairwise surrogate, the band's two edges
    ranks_each: int  # order statistics that a level needs: 2 where it lies between two
    interpolation: str
    scale: str
    reduction: str
    pooled: bool  # the numerator has the queue's positives
    live_gradient: bool
    explained: bool  # a class's loss weighs what the pool's scores explain; with a cross-entropy
    logistic: bool
    ignore_index: int
    temperature: float
    pauc_weight: float
    bce_weight: float


def triton_options(config: LossConfig) -> TritonOptions | None:
    """Encode a checked config for the Triton step; None if it does not support an option."""
    if not isinstance(config, PAUCConfig) or SUPPORT.refusal(config) is not None:
        return None
    pairwise = config.surrogate == "pairwise"
    knots = 2 if pairwise else config.n_knots
    levels = [float(q) for q in knot_levels(config.alpha, config.beta, knots)]
    quartiles = [0.25, 0.75] if config.tau_scale == "iqr" else []
    return TritonOptions(
        pairwise=pairwise,
        levels=(*levels, *quartiles),
        knots=knots,
        ranks_each=1 if config.quantile_interpolation in ("higher", "lower") else 2,
        interpolation=config.quantile_interpolation,
        scale=config.tau_scale,
        reduction=config.reduction,
        pooled=config.pos_numerator == "pool",
        live_gradient=config.gradient_scale == "live",
        explained=config.weight_scale == "explained",
        logistic=pairwise and config.link == "logistic",
        ignore_index=int(config.ignore_index),
        temperature=float(config.temperature),
        pauc_weight=float(config.pauc_weight),
        bce_weight=float(config.bce_weight),
    )
