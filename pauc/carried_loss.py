"""The losses of the classes in a step with windows, and their gradient."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.attach import Gradients
from pauc.band import Band
from pauc.config import PAUCConfig
from pauc.held import Held, Rows
from pauc.queue import Entry
from pauc.slopes import Negatives, Slopes, pairwise, trapezoid
from pauc.step import columns_of, live_factor
from pauc.surrogates import Positives, class_mean, class_sum
from pauc.tracking import Tracked


class Parts(NamedTuple):
    """What a step's loss is made of."""

    entry: Entry
    rows: Rows
    live: Positives
    places: Tensor  # [L] of the live positives in the batch's logits, flat
    held: Held
    tracked: Tracked
    band: Band


class _BandNegatives(NamedTuple):
    """The negatives between the band's edges."""

    held: Negatives
    live: Negatives
    columns: Tensor  # [C, B] of the live ones in the batch
    number: Tensor  # [C]
    live_number: Tensor  # [C]


def live_positives(entry: Entry) -> tuple[Positives, Tensor]:
    """Return the batch's positives, and their places in the logits, flat."""
    num_classes, count = entry.scores.shape
    logits = entry.scores.T
    if num_classes == 1:
        places = entry.targets.nonzero().squeeze(-1)  # 0 or 1
        index, weight = torch.zeros_like(places), entry.weight.index_select(0, places)
    else:
        index, weight = entry.targets, entry.weight
        places = torch.arange(0, count * num_classes, num_classes, device=index.device) + index
    return Positives(logits.reshape(-1).index_select(0, places), index, weight), places


def class_losses(parts: Parts, config: PAUCConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses ``[C]``, 0 where invalid, which are valid, and the gradient ``[N, C]``."""
    band, positives = parts.band, parts.live
    num_classes, num_live = len(band.tau), len(positives.scores)
    if config.pos_numerator == "pool":
        both = zip(positives, parts.held.positives, strict=True)
        positives = Positives(*(torch.cat(sides) for sides in both))
    total = class_sum(positives.weight, positives.class_index, num_classes)
    valid = (total > 0) & band.defined
    total += total == 0  # so that it can be divided by
    negatives = None
    if config.surrogate == "trapezoid":
        slopes = trapezoid(positives, num_live, band.edges.knots, band.tau)
    else:
        negatives = _band_negatives(parts)
        sides = negatives.held, negatives.live, negatives.number
        slopes = pairwise(positives, num_live, *sides, band.edges, band.tau, config.link)
        valid &= negatives.number > 0
    value = class_mean(slopes.contribution, positives, num_classes, total)
    losses = (1 - value) * valid
    gradient = _gradient(parts, slopes, negatives, total, valid / -total, config)
    return losses, valid, gradient


def _gradient(
    parts: Parts,
    slopes: Slopes,
    negatives: _BandNegatives | None,
    total: Tensor,
    factor: Tensor,
    config: PAUCConfig,
) -> Tensor:
    """Return the gradient ``[N, C]`` of slopes that are multiplied by a factor ``[C]``."""
    num_classes, count = parts.entry.scores.shape
    gradient = factor.new_zeros(count, num_classes)
    of_positive = factor
    if config.gradient_scale == "live":
        live_total = class_sum(parts.live.weight, parts.live.class_index, num_classes)
        of_positive = factor * live_factor(total, live_total).to(factor.dtype)
    if num_classes > 1:
        of_positive = of_positive[parts.live.class_index]
    gradient.view(-1).index_copy_(0, parts.places, slopes.positive * of_positive)
    if negatives is not None:
        if config.gradient_scale == "live":
            factor = factor * live_factor(negatives.number, negatives.live_number).to(factor.dtype)
        # Padding names column 0 and adds nothing to it.
        gradient.T.scatter_add_(1, negatives.columns, slopes.negative * factor.unsqueeze(-1))
    return gradient


def _band_negatives(parts: Parts) -> _BandNegatives:
    """Return the negatives in the band, those of the batch and those of the queue."""
    entry, held, top = parts.entry, parts.held, parts.tracked.top
    edges = parts.band.edges
    lower, upper = edges.t_beta.unsqueeze(-1), edges.t_alpha.unsqueeze(-1)
    if parts.rows.entering.others == 0:
        scores = parts.rows.scores[0]  # nan for positives, which is not between anything
        is_live = (scores >= lower) & (scores <= upper)
    else:
        is_live = _negatives_between(entry.scores, entry.targets, lower, upper)
    live_count = is_live.sum(dim=-1)
    columns, is_live = columns_of(is_live, live_count)

    is_held = (top >= lower) & (top <= upper)
    held_count = is_held.sum(dim=-1)
    # In order, since the order in a window depends on when it was made.
    top = torch.where(is_held, top, -math.inf).topk(int(held_count.max()), dim=-1).values
    is_held = torch.arange(top.shape[1], device=top.device) < held_count.unsqueeze(-1)
    count = live_count + held_count
    if held.others > 0:  # windows know of iid rows only; the others of a queue count as well
        others = (~held.rows.iid).nonzero().squeeze(-1)
        scores = held.rows.scores.index_select(1, others)
        is_other = _negatives_between(scores, held.rows.targets[others], lower, upper)
        top, is_held = torch.cat([top, scores], dim=1), torch.cat([is_held, is_other], dim=1)
        count = count + is_other.sum(dim=-1)
    live = Negatives(entry.scores.gather(1, columns), is_live)
    return _BandNegatives(Negatives(top, is_held), live, columns, count, live_count)


def _negatives_between(scores: Tensor, targets: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return ``[C, N]`` bool: which scores are a negative's and lie between the bounds."""
    between = (scores >= lower) & (scores <= upper)
    if scores.shape[0] == 1:
        return between.logical_and_(targets == 0)
    return between.scatter_(0, targets.unsqueeze(0), False)


def loss_gradients(parts: Parts, per_class: Tensor, count: int, config: PAUCConfig) -> Gradients:
    """Return what the gradient of the loss is made of, for a number of valid classes.

    See :func:`pauc.step.blend`.
    """
    rows, num_classes = per_class.shape
    weight, bce_weight = float(config.pauc_weight), float(config.bce_weight) / rows
    if config.reduction == "mean":
        weight, bce_weight = weight / max(count, 1), bce_weight / num_classes
    if config.bce_weight == 0:
        return Gradients(per_class, weight, None)
    direct = parts.entry.scores.T.contiguous().sigmoid()
    minus_one = direct.new_tensor(-1.0).expand(len(parts.places))
    direct.view(-1).index_add_(0, parts.places, minus_one)
    return Gradients(per_class, weight, direct.mul_(bce_weight))
