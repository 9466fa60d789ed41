"""A step of the loss for a caller who carries windows from step to step.

The numbers are those of :func:`pauc.pauc_loss_terms`; the cost is that of the rows which enter and
leave, not that of the pool, and of few operators. The gradient is computed beside the loss.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.attach import Gradients, attach
from pauc.band import Band, assemble_band
from pauc.checks import check_rows, in_range
from pauc.config import PAUCConfig
from pauc.functional import pauc_loss_terms
from pauc.pool import Batch, make_batch
from pauc.queue import Entry, QueueState, compute_dtype
from pauc.selection import BandEdges, dispersion
from pauc.slopes import Negatives, Slopes, pairwise, trapezoid
from pauc.step import PAUCTerms, blend, columns_of, live_factor, reduce_losses
from pauc.surrogates import Positives, class_mean, class_sum
from pauc.tracking import (
    Carried,
    Groups,
    Held,
    Rows,
    Tracked,
    carry_on,
    changing_rows,
    held_rows,
    track,
)

# A band that reaches deeper into the pool has no use for a window.
_DEEPEST = 1 / 4


def pauc_step(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    carried: Carried | None,
    config: PAUCConfig,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
) -> tuple[PAUCTerms, Entry | None, Carried | None]:
    """Return :func:`pauc.pauc_loss_terms`, the rows that enter the queue, and what to carry on.

    Pure, as that is. Where windows are of no use, entry and carried are None and ``terms.queue`` is
    the queue after the step. Otherwise it is the queue before: the entry is for the caller to
    write, by :func:`pauc.queue.write_entry_`; and the gradient cannot be differentiated again.

    Args:
        config: checked, as :func:`pauc.config.make_config` returns it.
        carried: from the step that led to this ``queue``; None: from no step. It changes the cost,
            not the result.
        others: as for :func:`pauc.pauc_loss_terms`.
    """
    read_values = validate_args and not torch.compiler.is_compiling()
    if read_values and not diagnostics and _windows_serve(logits, queue, config):
        batch = _make_batch(logits, targets, queue, config, iid_mask, sample_weight)
        # A sum is finite only if all of its terms are.
        if len(batch.targets) > 0 and math.isfinite(batch.logits.detach().sum()):
            return _carried_step(batch, iid_mask is None, queue, config, carried)
    terms = pauc_loss_terms(
        logits,
        targets,
        queue,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        diagnostics=diagnostics,
        **config._asdict(),
    )
    return terms, None, None


def _windows_serve(logits: Tensor, queue: QueueState, config: PAUCConfig) -> bool:
    """Return whether windows serve a loss with these settings, and a batch of this size.

    Nothing has been checked yet: what is no batch is for the other path to refuse.
    """
    return (
        isinstance(logits, Tensor)
        and logits.ndim == 2
        and logits.device.type == "cpu"  # elsewhere the host would wait a dozen times a step
        and logits.is_floating_point()
        and compute_dtype(logits) == queue.scores.dtype
        and not queue.multilabel
        and 0 < logits.shape[0] <= queue.targets.shape[0]
        and config.beta <= _DEEPEST
        and config.max_pool_size is None
        and config.budget_basis == "fpr"
        and (config.surrogate == "pairwise" or config.edge_gradient == "detached")
    )


def _make_batch(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: PAUCConfig,
    iid_mask: Tensor | None,
    sample_weight: Tensor | None,
) -> Batch:
    """Return the checked batch without the rows that are to be ignored."""
    classes = max(logits.shape[1], 2)
    if sample_weight is None and not 0 <= config.ignore_index < classes:
        check_rows(logits, targets, queue, iid_mask, sample_weight)
        if in_range(targets, classes):  # as nearly always: nothing to ignore, nothing to refuse
            ones = targets.new_ones(logits.shape[0], dtype=torch.bool)
            iid = ones if iid_mask is None else iid_mask
            logits = logits.to(queue.scores.dtype)
            return Batch(logits, targets.reshape(-1), iid, ones.to(logits.dtype), ones)
    batch = make_batch(logits, targets, queue, config, iid_mask, sample_weight, read_values=True)
    if bool(batch.present.all()):
        return batch
    rows = batch.present.nonzero().squeeze(-1)
    return Batch(*(part.index_select(0, rows) for part in batch))


def _carried_step(
    batch: Batch, all_iid: bool, queue: QueueState, config: PAUCConfig, carried: Carried | None
) -> tuple[PAUCTerms, Entry, Carried]:
    """Return the outcome of :func:`pauc_step` for a batch of present and finite rows."""
    with torch.no_grad():
        held = held_rows(queue, carried)
        scores = batch.logits.T
        entry = Entry(scores.detach(), batch.targets, batch.iid, batch.weight, held.cursor)
        rows = changing_rows(entry, all_iid, held)
        groups = _groups(config)
        tracked = track(held, rows, groups, config.quantile_interpolation)
        band = _band(tracked, len(groups[0]), config)
        live, places = _live_positives(entry)
        parts = _Parts(entry, rows, live, places, held, tracked, band)
        losses, valid, gradient = _losses(parts, config)
        loss, per_class = reduce_losses(losses, valid, config)
        loss = blend(loss, batch.cross_entropy, config)
        after = carry_on(held, rows, live, tracked)
    if torch.is_grad_enabled() and batch.logits.requires_grad:
        with torch.no_grad():
            gradients = _gradients(parts, gradient, int(valid.sum()), config)
        loss, per_class = attach(batch.logits, loss, per_class, gradients)
    terms = PAUCTerms(loss, per_class, valid, band.degenerate, tracked.negatives, {}, queue)
    return terms, entry, after


class _Parts(NamedTuple):
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
    count: Tensor  # [C]
    live_count: Tensor  # [C]


def _groups(config: PAUCConfig) -> Groups:
    """Return the FPR levels sought: a window for the band, and one for each quartile."""
    inner = config.n_knots - 2 if config.surrogate == "trapezoid" else 0
    width = config.beta - config.alpha
    knots = (config.alpha + width * k / (inner + 1) for k in range(1, inner + 1))
    band = (config.alpha, *knots, config.beta)
    return (band, (0.25,), (0.75,)) if config.tau_scale == "iqr" else (band,)


def _band(tracked: Tracked, num_knots: int, config: PAUCConfig) -> Band:
    """Return the band, and the width of the link in it."""
    knots = tracked.quantiles[:num_knots]
    edges = BandEdges(t_alpha=knots[0], t_beta=knots[-1], knots=knots.T)
    if config.tau_scale == "iqr":
        scale = dispersion(*tracked.quantiles[num_knots:])
    elif config.tau_scale == "band":
        scale = dispersion(edges.t_alpha, edges.t_beta)
    else:
        scale = torch.ones_like(edges.t_alpha)
    nothing = torch.empty(0, dtype=torch.bool, device=knots.device)  # a mask that nobody reads
    counts = tracked.negatives, tracked.negatives
    return assemble_band(nothing, *counts, edges, config.temperature * scale)


def _live_positives(entry: Entry) -> tuple[Positives, Tensor]:
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


def _losses(parts: _Parts, config: PAUCConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses ``[C]``, 0 where invalid, which are valid, and their gradient ``[N, C]``."""
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
        sides = negatives.held, negatives.live, negatives.count
        slopes = pairwise(positives, num_live, *sides, band.edges, band.tau, config.link)
        valid &= negatives.count > 0
    value = class_mean(slopes.contribution, positives, num_classes, total)
    losses = (1 - value) * valid
    gradient = _gradient(parts, slopes, negatives, total, valid / -total, config)
    return losses, valid, gradient


def _gradient(
    parts: _Parts,
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
            factor = factor * live_factor(negatives.count, negatives.live_count).to(factor.dtype)
        # Padding names column 0 and adds nothing to it.
        gradient.T.scatter_add_(1, negatives.columns, slopes.negative * factor.unsqueeze(-1))
    return gradient


def _band_negatives(parts: _Parts) -> _BandNegatives:
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


def _gradients(parts: _Parts, per_class: Tensor, count: int, config: PAUCConfig) -> Gradients:
    """Return what the gradient of the loss is made of, for a number of valid classes.

    See :func:`pauc.step.blend`.
    """
    rows, num_classes = per_class.shape
    weight, bce_weight = config.pauc_weight, config.bce_weight / rows
    if config.reduction == "mean":
        weight, bce_weight = weight / max(count, 1), bce_weight / num_classes
    if config.bce_weight == 0:
        return Gradients(per_class, weight, None)
    direct = parts.entry.scores.T.contiguous().sigmoid()
    minus_one = direct.new_tensor(-1.0).expand(len(parts.places))
    direct.view(-1).index_add_(0, parts.places, minus_one)
    return Gradients(per_class, weight, direct.mul_(bce_weight))
