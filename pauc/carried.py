"""A step of the loss for a caller who carries windows from step to step.

The numbers are those of :func:`pauc.pauc_loss_terms`; the cost is that of the rows which enter and
leave, not that of the pool.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.band import assemble_band
from pauc.config import PAUCConfig
from pauc.functional import pauc_loss_terms
from pauc.pairs import sum_link_of_parts
from pauc.pool import Batch, make_batch
from pauc.queue import Entry, QueueState, compute_dtype
from pauc.selection import BandEdges, dispersion
from pauc.step import PAUCTerms, columns_of, live_factor, reduce_entropy, reduce_losses
from pauc.surrogates import (
    Positives,
    class_mean,
    class_sum,
    scale_gradient,
    trapezoid_contributions,
)
from pauc.tracking import Carried, Groups, Tracked, changing_rows, held_rows, track

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
    write, by :func:`pauc.queue.write_entry_`.

    Args:
        config: checked, as :func:`pauc.config.make_config` returns it.
        carried: from the step that led to this ``queue``; None: from no step. It changes the cost,
            not the result.
        others: as for :func:`pauc.pauc_loss_terms`.
    """
    read_values = validate_args and not torch.compiler.is_compiling()
    if read_values and not diagnostics and _windows_serve(logits, queue, config):
        batch = make_batch(logits, targets, queue, config, iid_mask, sample_weight, read_values)
        # A sum is finite only if all of its terms are.
        if bool(batch.logits.detach().sum().isfinite()) and bool(batch.present.any()):
            return _carried_step(_present_rows(batch), queue, config, carried)
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


def _present_rows(batch: Batch) -> Batch:
    if bool(batch.present.all()):
        return batch
    rows = batch.present.nonzero().squeeze(-1)
    return Batch(*(part.index_select(0, rows) for part in batch))


def _carried_step(
    batch: Batch, queue: QueueState, config: PAUCConfig, carried: Carried | None
) -> tuple[PAUCTerms, Entry, Carried]:
    """Return the outcome of :func:`pauc_step` for a batch of present and finite rows."""
    num_classes, size = queue.scores.shape
    fill, cursor = int(queue.fill), int(queue.cursor)
    entry = Entry(
        scores=batch.logits.detach().T.contiguous(),
        targets=batch.targets,
        iid=batch.iid,
        weight=batch.weight,
        cursor=cursor,
    )
    held, oldest = held_rows(queue, fill), cursor if fill == size else 0
    rows = changing_rows(entry.scores, batch.targets, batch.iid, held, oldest, size - fill)
    groups = _groups(config)
    tracked = track(held, rows, oldest, size, groups, config.quantile_interpolation, carried)

    knots = tracked.quantiles[:, : len(groups[0])]
    edges = BandEdges(t_alpha=knots[:, 0], t_beta=knots[:, -1], knots=knots)
    if config.tau_scale == "iqr":
        scale = dispersion(tracked.quantiles[:, -2], tracked.quantiles[:, -1])
    elif config.tau_scale == "band":
        scale = dispersion(edges.t_alpha, edges.t_beta)
    else:
        scale = torch.ones_like(edges.t_alpha)
    nothing = torch.empty(0, dtype=torch.bool, device=knots.device)  # a mask that nobody reads
    band = assemble_band(
        nothing, tracked.negatives, tracked.negatives, edges, config.temperature * scale
    )

    positives, total, num_live = _positives(batch, held, config)
    valid = (total > 0) & band.defined
    if config.surrogate == "trapezoid":
        knots = torch.where(band.defined.unsqueeze(-1), knots, 0.0)
        contribution = trapezoid_contributions(positives, knots, band.tau)
    else:
        contribution, has_negatives = _pairwise(
            positives, num_live, batch, held, tracked, edges, band.tau, config
        )
        valid = valid & has_negatives
    divisor = torch.where(total > 0, total, 1.0)
    pauc = class_mean(contribution, positives, num_classes, divisor)
    loss, per_class = reduce_losses(torch.where(valid, 1 - pauc, 0.0), valid, config)
    loss = config.pauc_weight * loss
    if config.bce_weight > 0:
        loss = loss + config.bce_weight * reduce_entropy(batch.cross_entropy(), config)
    terms = PAUCTerms(loss, per_class, valid, band.degenerate, tracked.negatives, {}, queue)
    return terms, entry, tracked.carried


def _groups(config: PAUCConfig) -> Groups:
    """Return the FPR levels sought: a window for the band, and one for each quartile."""
    inner = config.n_knots - 2 if config.surrogate == "trapezoid" else 0
    width = config.beta - config.alpha
    knots = (config.alpha + width * k / (inner + 1) for k in range(1, inner + 1))
    band = (config.alpha, *knots, config.beta)
    return (band, (0.25,), (0.75,)) if config.tau_scale == "iqr" else (band,)


def _positives(batch: Batch, held: QueueState, config: PAUCConfig) -> tuple[Positives, Tensor, int]:
    """Return the numerator positives, their weight ``[C]``, and how many are live: the first."""
    num_classes = held.scores.shape[0]
    if num_classes == 1:
        rows = (batch.targets == 1).nonzero().squeeze(-1)
        index = torch.zeros_like(rows)
        scores = batch.logits.squeeze(1).index_select(0, rows)
        weight = batch.weight.index_select(0, rows)
    else:
        index, weight = batch.targets, batch.weight
        scores = batch.logits.gather(1, index.unsqueeze(1)).squeeze(1)
    live_total = total = class_sum(weight, index, num_classes)
    num_live = index.shape[0]
    if config.pos_numerator == "pool":
        if num_classes == 1:
            slots = (held.targets == 1).nonzero().squeeze(-1)
            held_index = torch.zeros_like(slots)
            held_scores = held.scores.squeeze(0).index_select(0, slots)
            held_weight = held.weight.index_select(0, slots)
        else:
            held_index, held_weight = held.targets, held.weight
            held_scores = held.scores.gather(0, held_index.unsqueeze(0)).squeeze(0)
        index, weight = torch.cat([index, held_index]), torch.cat([weight, held_weight])
        scores = torch.cat([scores, held_scores])
        total = class_sum(weight, index, num_classes)
    if config.gradient_scale == "live":
        factor = live_factor(total, live_total)[index]
        scores = scale_gradient(scores, factor.to(scores.dtype))
    return Positives(scores, index, weight), total, num_live


def _pairwise(
    positives: Positives,
    num_live: int,
    batch: Batch,
    held: QueueState,
    tracked: Tracked,
    edges: BandEdges,
    tau: Tensor,
    config: PAUCConfig,
) -> tuple[Tensor, Tensor]:
    """Return each positive's mean link over its band negatives, and which classes have any."""
    lower, upper = edges.t_beta.unsqueeze(-1), edges.t_alpha.unsqueeze(-1)
    by_class = batch.logits.T
    is_live = _negatives_between(by_class.detach(), batch.targets, lower, upper)
    live_count = is_live.sum(dim=-1)
    columns, is_live = columns_of(is_live, live_count)

    is_held = (tracked.top >= lower) & (tracked.top <= upper)
    held_count = is_held.sum(dim=-1)
    # In order, since the order in a window depends on when it was made.
    top = torch.where(is_held, tracked.top, -math.inf).topk(int(held_count.max()), dim=-1).values
    is_held = torch.arange(top.shape[1], device=top.device) < held_count.unsqueeze(-1)
    # Windows know of iid rows only; the others of a queue count as well.
    others = (~held.iid).nonzero().squeeze(-1)
    other_scores = held.scores.index_select(1, others)
    is_other = _negatives_between(other_scores, held.targets[others], lower, upper)

    count = live_count + held_count + is_other.sum(dim=-1)
    dtype = edges.t_beta.dtype
    live_scores = torch.where(is_live, by_class.gather(1, columns), 0.0)
    if config.gradient_scale == "live":
        factor = live_factor(count, live_count).unsqueeze(-1)
        live_scores = scale_gradient(live_scores, factor.to(dtype))
    is_held = torch.cat([is_held, is_other], dim=1)
    held_scores = torch.where(is_held, torch.cat([top, other_scores], dim=1), 0.0)

    summed = sum_link_of_parts(
        positives.scores,
        positives.class_index,
        num_live,
        (live_scores, is_live.to(dtype)),
        (held_scores, is_held.to(dtype)),
        tau,
        config.link,
    )
    return summed / count.clamp(min=1).to(dtype)[positives.class_index], count > 0


def _negatives_between(scores: Tensor, targets: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return ``[C, N]`` bool: which scores are a negative's and lie between the bounds."""
    between = (scores >= lower) & (scores <= upper)
    if scores.shape[0] == 1:
        return between.logical_and_(targets == 0)
    return between.scatter_(0, targets.unsqueeze(0), False)
