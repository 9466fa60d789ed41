"""The two differentiable estimates of the partial AUC, over explicit thresholds and scores.

One-vs-rest has as many positives as rows, whatever the number of classes: each row is a positive
of one class. So positives travel flat, with the class that each belongs to, and cost one gather.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pauc.config import Link, check_choice
from pauc.pairs import mean_link


class Positives(NamedTuple):
    """Numerator positives, flat over classes. Rows of weight 0 are padding."""

    scores: Tensor  # [P], each in the column of its own class
    class_index: Tensor  # [P] int64
    weight: Tensor  # [P]


def trapezoid_pauc(
    pos_scores: Tensor,
    knots: Tensor,
    tau: Tensor,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    class_index: Tensor | None = None,
) -> Tensor:
    """Return the soft TPR integrated over a band of FPR, divided by the band's width.

    ``TPR_k = mean_i sigmoid((s_i - t_k) / tau)`` at ``K`` thresholds that are evenly spaced in FPR,
    summed by the composite trapezoid rule (the plug-in estimate of Dodd and Pepe, 2003, smoothed).

    Args:
        pos_scores: ``[P]`` with ``knots`` ``[K]`` and ``tau`` ``[]`` for one class; ``[C, P]`` with
            ``[C, K]`` and ``[C]`` for all; or ``[P]`` with ``class_index``, ``[C, K]`` and ``[C]``.
        knots: thresholds in descending order, as from :func:`pauc.band_edges`.
        tau: width of the sigmoid in score units, above 0.
        mask: bool, shape of ``pos_scores``: which entries are positives; None: all.
        weight: shape of ``pos_scores``, non-negative; None: ones.
        class_index: ``[P]`` int64, the class whose positive a row is.

    Returns:
        ``[]`` or ``[C]``, nan for a class without positives.

    Raises:
        ValueError: shapes that do not fit together.
    """
    positives = _flatten(pos_scores, tau, mask, weight, class_index)
    classes = tau.reshape(-1).shape[0]
    if knots.shape[:-1] != tau.shape:
        raise ValueError(
            f"knots must be [*tau.shape, K] with tau.shape {tuple(tau.shape)}, "
            f"got {tuple(knots.shape)}"
        )
    contribution = trapezoid_contributions(positives, knots.reshape(classes, -1), tau.reshape(-1))
    return class_mean(contribution, positives, classes).reshape(tau.shape)


def pairwise_pauc(
    pos_scores: Tensor,
    neg_scores: Tensor,
    tau: Tensor,
    *,
    pos_mask: Tensor | None = None,
    neg_mask: Tensor | None = None,
    pos_weight: Tensor | None = None,
    class_index: Tensor | None = None,
    link: Link = "sigmoid",
) -> Tensor:
    """Return the mean of the link over pairs of a positive and a negative in the band.

    ``mean_ij sigmoid((s_i - s_j) / tau)``, a smoothed Mann-Whitney statistic restricted to the
    band's negatives (Narasimhan and Agarwal, 2013); ``link="logistic"`` replaces the sigmoid by
    ``1 - softplus(-u) / log 2``. Memory is linear in the number of scores.

    Args:
        pos_scores: ``[P]``, ``[C, P]``, or ``[P]`` with ``class_index``.
        neg_scores: ``[B]`` for one class, otherwise ``[C, B]``.
        tau: ``[]`` or ``[C]``, width of the link in score units, above 0.
        pos_mask: bool, shape of ``pos_scores``: which entries are positives; None: all.
        neg_mask: bool, shape of ``neg_scores``: which entries are negatives in the band; None: all.
        pos_weight: shape of ``pos_scores``, non-negative; None: ones.
        class_index: ``[P]`` int64, the class whose positive a row is.
        link: ``"sigmoid"`` or ``"logistic"``.

    Returns:
        ``[]`` or ``[C]``, nan for a class without positives or without negatives in the band.

    Raises:
        TypeError, ValueError: an unknown link, or shapes that do not fit together.
    """
    check_choice("link", link, get_args(Link))
    positives = _flatten(pos_scores, tau, pos_mask, pos_weight, class_index)
    if neg_scores.shape[:-1] != tau.shape:
        raise ValueError(
            f"neg_scores must be [*tau.shape, B] with tau.shape {tuple(tau.shape)}, "
            f"got {tuple(neg_scores.shape)}"
        )
    classes = tau.reshape(-1).shape[0]
    scores = neg_scores.reshape(classes, -1)
    in_band = torch.ones_like(scores, dtype=torch.bool)
    if neg_mask is not None:
        if neg_mask.shape != neg_scores.shape:
            raise ValueError(
                f"neg_mask must have the shape of neg_scores {tuple(neg_scores.shape)}, "
                f"got {tuple(neg_mask.shape)}"
            )
        in_band = neg_mask.reshape(classes, -1)
    counts = in_band.to(scores.dtype)
    total = counts.sum(dim=-1)
    # Out of reach of nan: an entry that does not count is never looked at.
    scores = torch.where(in_band, scores, 0.0)
    contribution = mean_link(
        positives.scores, positives.class_index, scores, counts, total, tau.reshape(-1), link
    )
    return class_mean(contribution, positives, classes).reshape(tau.shape)


def trapezoid_contributions(positives: Positives, knots: Tensor, tau: Tensor) -> Tensor:
    """Return ``[P]``: each positive's trapezoid of sigmoids, for ``knots`` ``[C, K]``."""
    index = positives.class_index
    offset = positives.scores.unsqueeze(-1) - knots[index]
    soft = torch.sigmoid(offset / tau[index].unsqueeze(-1))
    ends = (soft[:, 0] + soft[:, -1]) / 2
    return (ends + soft[:, 1:-1].sum(dim=-1)) / (knots.shape[-1] - 1)


def class_sum(values: Tensor, class_index: Tensor, num_classes: int) -> Tensor:
    """Return ``[C]``: the sum of ``values`` ``[P]`` over the rows of each class."""
    if num_classes == 1:
        return values.sum(dim=0, keepdim=True)
    return values.new_zeros(num_classes).index_add(0, class_index, values)


def class_mean(
    values: Tensor, positives: Positives, num_classes: int, total: Tensor | None = None
) -> Tensor:
    """Return ``[C]``: the weighted mean of ``values`` over the positives of each class.

    ``total`` is the weight to divide by, where it is not that of the given rows (a subsample).
    """
    if total is None:
        total = class_sum(positives.weight, positives.class_index, num_classes)
    return class_sum(values * positives.weight, positives.class_index, num_classes) / total


def scale_gradient(values: Tensor, factor: Tensor) -> Tensor:
    """Return ``values`` unchanged, but let their gradient be multiplied by ``factor``."""
    fixed = values.detach()
    # A non-finite value stays itself: inf - inf would make it nan.
    moving = torch.where(fixed.isfinite(), values - fixed, 0.0)
    return fixed + factor * moving


def _flatten(
    pos_scores: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    class_index: Tensor | None,
) -> Positives:
    """Return positives as flat rows: of one class, of a rectangle of classes, or flat already."""
    for name, given in (("mask", mask), ("weight", weight), ("class_index", class_index)):
        if given is not None and given.shape != pos_scores.shape:
            raise ValueError(
                f"{name} must have the shape of pos_scores {tuple(pos_scores.shape)}, "
                f"got {tuple(given.shape)}"
            )
    if class_index is None:
        if pos_scores.shape[:-1] != tau.shape:
            raise ValueError(
                f"pos_scores must be [*tau.shape, P] with tau.shape {tuple(tau.shape)}, "
                f"got {tuple(pos_scores.shape)}"
            )
        rows = pos_scores.reshape(-1, pos_scores.shape[-1])
        classes = torch.arange(rows.shape[0], device=rows.device)
        class_index = classes.unsqueeze(-1).expand_as(rows).reshape(-1)
    weight = torch.ones_like(pos_scores) if weight is None else weight
    if mask is not None:
        # Out of the sum and out of reach of nan: an entry that does not count is never looked at.
        weight = torch.where(mask, weight, 0.0)
        pos_scores = torch.where(mask, pos_scores, 0.0)
    return Positives(pos_scores.reshape(-1), class_index, weight.reshape(-1))
