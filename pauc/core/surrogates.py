"""The two differentiable estimates of the partial AUC, over explicit thresholds and scores.

One-vs-rest has as many positives as rows, whatever the number of classes: each row is a positive
of one class. So positives travel flat, with the class that each belongs to, and cost one gather.
"""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pauc.checks import check_choice
from pauc.config import Link
from pauc.core.queue import compute_dtype
from pauc.pairs.operator import mean_link


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
        ``[]`` or ``[C]``, float32 or float64, nan for a class without positives.

    Raises:
        ValueError: shapes that do not fit together.
    """
    pos_scores, knots, tau = _widen(pos_scores, knots, tau)
    positives = _flatten(pos_scores, tau, mask, weight, class_index)
    _check_row_per_class("knots", knots, tau)
    classes = tau.numel()
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
        ``[]`` or ``[C]``, float32 or float64, nan for a class without positives or without
        negatives in the band.

    Raises:
        TypeError, ValueError: an unknown link, or shapes that do not fit together.
    """
    check_choice("link", link, get_args(Link))
    pos_scores, neg_scores, tau = _widen(pos_scores, neg_scores, tau)
    positives = _flatten(pos_scores, tau, pos_mask, pos_weight, class_index)
    _check_row_per_class("neg_scores", neg_scores, tau)
    if neg_mask is None:
        neg_mask = torch.ones_like(neg_scores, dtype=torch.bool)
    _check_same_shape("neg_mask", neg_mask, "neg_scores", neg_scores)
    classes = tau.numel()
    counts = neg_mask.reshape(classes, -1).to(neg_scores.dtype)
    # Out of reach of nan: an entry that does not count is never looked at.
    scores = torch.where(neg_mask, neg_scores, 0.0).reshape(classes, -1)
    contribution = mean_link(
        positives.scores,
        positives.class_index,
        scores,
        counts,
        counts.sum(dim=-1),
        tau.reshape(-1),
        link,
    )
    return class_mean(contribution, positives, classes).reshape(tau.shape)


def trapezoid_contributions(positives: Positives, knots: Tensor, tau: Tensor) -> Tensor:
    """Return ``[P]``: each positive's trapezoid of sigmoids, for ``knots`` ``[C, K]``."""
    index = positives.class_index
    if knots.shape[0] > 1:  # broadcasting does for one class
        knots, tau = knots[index], tau[index]
    soft = torch.sigmoid((positives.scores.unsqueeze(-1) - knots) / tau.unsqueeze(-1))
    return (soft[:, 1:] + soft[:, :-1]).sum(dim=-1) / (2 * (knots.shape[-1] - 1))


def class_sum(values: Tensor, class_index: Tensor, num_classes: int) -> Tensor:
    """Return ``[C]``: the sum of ``values`` ``[P]`` over the rows of each class."""
    # index_add adds one after the other, and float32 stops counting at 2**24.
    if num_classes == 1:
        return values.sum(dim=0, keepdim=True)
    sums = values.new_zeros(num_classes, dtype=torch.float64)
    return sums.index_add(0, class_index, values.double()).to(values.dtype)


def class_mean(
    values: Tensor, positives: Positives, num_classes: int, total: Tensor | None = None
) -> Tensor:
    """Return ``[C]``: the weighted mean of ``values`` over the positives of each class.

    ``total`` is the weight to divide by, where it is not that of the given rows (a subsample).
    """
    if total is None:
        total = class_sum(positives.weight, positives.class_index, num_classes)
    return class_sum(values * positives.weight, positives.class_index, num_classes) / total


def scale_gradient(values: Tensor, factor: Tensor | int) -> Tensor:
    """Return finite ``values`` unchanged, but let their gradient be multiplied by ``factor``."""
    fixed = values.detach()
    return fixed + factor * (values - fixed)


def _widen(*tensors: Tensor) -> list[Tensor]:
    """Return the tensors in the dtype of the arithmetic: half precision cannot add up a pool."""
    dtype = compute_dtype(*tensors)
    return [tensor.to(dtype) for tensor in tensors]


def _check_row_per_class(name: str, value: Tensor, tau: Tensor) -> None:
    if value.shape[:-1] != tau.shape or value.ndim != tau.ndim + 1:
        raise ValueError(
            f"{name} must have the dimensions of tau {tuple(tau.shape)} and one more, "
            f"got {tuple(value.shape)}"
        )


def _check_same_shape(name: str, value: Tensor, like_name: str, like: Tensor) -> None:
    if value.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of {like_name} {tuple(like.shape)}, "
            f"got {tuple(value.shape)}"
        )


def _flatten(
    pos_scores: Tensor,
    tau: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    class_index: Tensor | None,
) -> Positives:
    """Return positives as flat rows: of one class, of a rectangle of classes, or flat already."""
    for name, given in (("mask", mask), ("weight", weight), ("class_index", class_index)):
        if given is not None:
            _check_same_shape(name, given, "pos_scores", pos_scores)
    if class_index is None:
        _check_row_per_class("pos_scores", pos_scores, tau)
        rows = pos_scores.reshape(-1, pos_scores.shape[-1])
        classes = torch.arange(rows.shape[0], device=rows.device)
        class_index = classes.unsqueeze(-1).expand_as(rows).reshape(-1)
    weight = torch.ones_like(pos_scores) if weight is None else weight.to(pos_scores.dtype)
    if mask is not None:
        # Out of the sum and out of reach of nan: an entry that does not count is never looked at.
        weight = torch.where(mask, weight, 0.0)
        pos_scores = torch.where(mask, pos_scores, 0.0)
    return Positives(pos_scores.reshape(-1), class_index, weight.reshape(-1))
