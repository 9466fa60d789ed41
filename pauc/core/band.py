"""What the reference rows fix before any gradient is taken: the band and the temperature."""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pauc._public import public
from pauc.checks import check_choice, check_int, check_moving_band
from pauc.config import Interpolation, Number, PAUCConfig, TauScale
from pauc.core.pool import Pool
from pauc.core.precision import band_end, end_bound
from pauc.core.quantiles import MaskCount, count_mask, quantiles
from pauc.core.queue import compute_dtype

_QUARTILES = (0.25, 0.75)


@public
class BandEdges(NamedTuple):
    """Thresholds of a band of FPR; ``[]`` and ``[K]`` for one class, ``[C]`` and ``[C, K]``."""

    t_alpha: Tensor  # score at FPR alpha, the upper edge
    t_beta: Tensor  # score at FPR beta, the lower edge
    knots: Tensor  # scores at K evenly spaced FPRs from alpha to beta, in descending order


def band_edges(
    scores: Tensor,
    mask: Tensor,
    alpha: Number,
    beta: Number,
    *,
    n_knots: int = 2,
    interpolation: Interpolation = "higher",
    count: MaskCount | None = None,
    max_beta: float | None = None,
) -> BandEdges:
    """Return the score thresholds of the FPR band ``[alpha, beta]``, detached.

    With ``n`` reference rows sorted upwards, the threshold of FPR ``q`` sits at position
    ``(1 - q) (n - 1)``; FPR 0 is the largest score.

    Args:
        scores: ``[M]`` or ``[C, M]``, floating.
        mask: bool of the same shape: the reference set, usually the iid negatives.
        alpha, beta: the band as fractions, ``0 <= alpha < beta <= 1``; 0-dim tensors are unread.
        n_knots: thresholds to return, at least 2.
        interpolation: between order statistics, as in :func:`torch.quantile`.
        count: from :func:`pauc.core.quantiles.count_mask`, where the caller has it already.
        max_beta: see :class:`pauc.PAUCConfig`.

    Returns:
        Thresholds, float32 or float64; nan for a class without reference rows.

    Raises:
        TypeError, ValueError: an option out of its range, or a mask of another shape.
    """
    check_moving_band(alpha, beta, max_beta)
    check_int("n_knots", n_knots, 2)
    check_choice("interpolation", interpolation, get_args(Interpolation))
    _check_mask(scores, mask)
    return edges_between(
        scores,
        mask,
        alpha,
        beta,
        n_knots=n_knots,
        interpolation=interpolation,
        count=count,
        max_beta=max_beta,
    )


def edges_between(
    scores: Tensor,
    mask: Tensor,
    alpha: Number,
    beta: Number,
    *,
    n_knots: int = 2,
    interpolation: Interpolation = "higher",
    count: MaskCount | None = None,
    max_beta: float | None = None,
) -> BandEdges:
    """As :func:`band_edges`, of checked arguments; ``beta`` may be ``[C, 1]``, by class."""
    scores = scores.to(compute_dtype(scores))
    levels = knot_levels(alpha, beta, n_knots)
    return _edges(_quantiles_or_nan(scores, mask, levels, interpolation, count, max_beta))


def _edges(knots: Tensor) -> BandEdges:
    return BandEdges(t_alpha=knots[..., 0], t_beta=knots[..., -1], knots=knots)


def _quantiles_or_nan(
    scores: Tensor,
    mask: Tensor,
    levels: list[Number],
    interpolation: Interpolation,
    count: MaskCount | None,
    bound: float | None = None,
) -> Tensor:
    """Return the scores at ascending FPR levels, nan for a class without reference rows."""
    found = quantiles(scores.detach(), mask, [levels], interpolation, count, bound)
    return torch.where(mask.any(dim=-1, keepdim=True), found, math.nan)


def knot_levels(alpha: Number, beta: Number, n_knots: int) -> list[Number]:
    """Return so many evenly spaced FPRs from ``alpha`` to ``beta``, both exact."""
    last = n_knots - 1
    return [alpha, *(alpha + (beta - alpha) * k / last for k in range(1, last)), beta]


def robust_scale(
    scores: Tensor,
    mask: Tensor,
    kind: TauScale = "iqr",
    *,
    edges: BandEdges | None = None,
    interpolation: Interpolation = "higher",
    count: MaskCount | None = None,
) -> Tensor:
    """Return the dispersion of the reference scores, the unit of the temperature, detached.

    Args:
        scores: ``[M]`` or ``[C, M]``, floating.
        mask: bool of the same shape: the reference set.
        kind: ``"iqr"``: the 75 % minus the 25 % quantile; ``"band"``: ``t_alpha - t_beta`` of
            ``edges``; ``"unit"``: 1.
        edges: needed for ``"band"`` only.
        interpolation, count: of the quartiles, as in :func:`band_edges`.

    Returns:
        ``[]`` or ``[C]``; exactly 0 where the spread is within rounding of its two quantiles, nan
        where there are no reference rows (``"unit"``: always 1).

    Raises:
        TypeError, ValueError: an unknown kind, a mask of another shape, ``"band"`` without edges.
    """
    check_choice("kind", kind, get_args(TauScale))
    check_choice("interpolation", interpolation, get_args(Interpolation))
    _check_mask(scores, mask)
    scores = scores.to(compute_dtype(scores))
    if kind == "unit":
        return scores.new_ones(scores.shape[:-1])
    if kind == "iqr":
        quartiles = _quantiles_or_nan(scores, mask, [*_QUARTILES], interpolation, count)
        return dispersion(quartiles)
    if edges is None:
        raise ValueError('robust_scale(kind="band") needs edges=band_edges(...), got None')
    return dispersion(torch.stack([edges.t_alpha, edges.t_beta], dim=-1).to(scores.dtype))


def dispersion(descending: Tensor) -> Tensor:
    """Return the first minus the last of ``[..., K]``, exactly 0 if that is within rounding."""
    spread = descending[..., 0] - descending[..., -1]
    # Relative, so that the verdict is the same for logits of any magnitude. An infinite spread
    # exceeds its rounding by nan, and stays.
    magnitude = torch.linalg.vector_norm(descending, math.inf, dim=-1)
    excess = torch.sub(spread, magnitude, alpha=4 * torch.finfo(spread.dtype).eps)
    return spread.masked_fill(excess <= 0, 0.0)


def _check_mask(scores: Tensor, mask: Tensor) -> None:
    if mask.shape != scores.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool with the shape of scores {tuple(scores.shape)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )


class Band(NamedTuple):
    """The band of every class in a pool, and the width of its link; all detached.

    Where it is not defined the edges have no meaning.
    """

    reference: Tensor  # [C, M] bool, the rows whose quantiles are the edges
    ref_count: Tensor  # [C] int64, how many they are
    edges: BandEdges
    beta: Number  # FPR of the lower edge; [C, 1] where it is found by class
    tau: Tensor  # [C], 1 where not defined
    defined: Tensor  # [C] bool, there are iid negatives, and they have dispersion
    degenerate: Tensor  # [C] bool, there are iid negatives, but without dispersion

    def contains(self, scores: Tensor) -> Tensor:
        """Return ``[C, M]`` bool: which scores lie between the edges, edges included."""
        scores, edges = scores.detach(), self.edges
        return scores.clamp(edges.t_beta.unsqueeze(-1), edges.t_alpha.unsqueeze(-1)) == scores


def reference_rows(pool: Pool, iid_negatives: Tensor, config: PAUCConfig) -> Tensor:
    """Return ``[C, M]`` bool: the rows whose quantiles are the edges, as the budget has it."""
    if config.budget_basis in ("fpr", "precision"):
        return iid_negatives
    return (pool.present & pool.iid).expand_as(pool.scores)


def make_band(pool: Pool, config: PAUCConfig, read_values: bool) -> Band:
    """Return the band that ``config`` asks for; ``read_values`` as in :func:`count_mask`."""
    iid_negatives = pool.iid_negatives()
    negative_count = count_mask(iid_negatives, read_values=read_values)
    reference, count = reference_rows(pool, iid_negatives, config), negative_count
    if reference is not iid_negatives:
        count = count_mask(reference, read_values=read_values)
    beta = band_end(pool, iid_negatives, negative_count, config, read_values)
    n_knots = config.n_knots if config.surrogate == "trapezoid" else 2
    # Together, so that an accelerator orders the scores once.
    levels = knot_levels(config.alpha, beta, n_knots)
    quartiles: list[Number] = [*_QUARTILES] if config.tau_scale == "iqr" else []
    interpolation, bound = config.quantile_interpolation, end_bound(config)
    scores = pool.scores.detach()
    found = quantiles(scores, reference, [levels, quartiles], interpolation, count, bound)
    edges = _edges(found[:, :n_knots])
    if config.tau_scale == "unit":
        scale = torch.ones_like(edges.t_beta)
    else:
        scale = dispersion(found[:, n_knots:] if quartiles else edges.knots)
    tau = config.temperature * scale
    return assemble_band(reference, count.per_class, negative_count.per_class, edges, tau, beta)


def assemble_band(
    reference: Tensor,
    ref_count: Tensor,
    negative_count: Tensor,
    edges: BandEdges,
    tau: Tensor,
    beta: Number,
) -> Band:
    """Return the band of these parts, for counts of iid negatives and a ``tau`` of each class."""
    return Band(reference, ref_count, edges, beta, *safe_width(negative_count, tau))


class Width(NamedTuple):
    """The width of a link, where it can be used; ``[C]`` each."""

    tau: Tensor  # 1 where not defined
    defined: Tensor  # bool
    degenerate: Tensor  # bool


def safe_width(negative_count: Tensor, tau: Tensor) -> Width:
    """Return ``tau`` where there are negatives and dispersion, and where the latter lacks."""
    tau = tau.masked_fill(negative_count == 0, math.nan)
    tiny = torch.finfo(tau.dtype).tiny
    defined = tau > tiny
    return Width(
        tau=tau.masked_fill(~defined, 1.0),
        defined=defined,
        # nan (a non-finite score among the quartiles) is no lack of dispersion: the loss says so.
        degenerate=tau <= tiny,
    )
