"""A step of the loss for a caller who carries windows from step to step.

The numbers are those of :func:`pauc.pauc_loss_terms`; the cost is that of the rows which enter and
leave, not that of the pool, and of few operators. The gradient is computed beside the loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pauc.attach import attach
from pauc.band import Band, assemble_band
from pauc.carried_loss import Parts, class_losses, live_positives, loss_gradients
from pauc.checks import check_rows, in_range
from pauc.config import PAUCConfig
from pauc.functional import pauc_loss_terms
from pauc.held import Carried, changing_rows, held_rows
from pauc.pool import Batch, make_batch
from pauc.queue import Entry, QueueState, compute_dtype
from pauc.selection import BandEdges, dispersion, knot_levels
from pauc.step import PAUCTerms, blend, reduce_losses
from pauc.tracking import Groups, Tracked, carry_on, track

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
        and bool(config.beta <= _DEEPEST)
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
            return Batch(
                logits, targets.reshape(-1).to(torch.int64), iid, ones.to(logits.dtype), ones
            )
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
        live, places = live_positives(entry)
        parts = Parts(entry, rows, live, places, held, tracked, band)
        losses, valid, gradient = class_losses(parts, config)
        loss, per_class = reduce_losses(losses, valid, config)
        loss = blend(loss, batch.cross_entropy, config)
        after = carry_on(held, rows, live, tracked)
    if torch.is_grad_enabled() and batch.logits.requires_grad:
        with torch.no_grad():
            gradients = loss_gradients(parts, gradient, int(valid.sum()), config)
        loss, per_class = attach(batch.logits, loss, per_class, gradients)
    terms = PAUCTerms(loss, per_class, valid, band.degenerate, tracked.negatives, {}, queue)
    return terms, entry, after


def _groups(config: PAUCConfig) -> Groups:
    """Return the FPR levels sought: a window for the band, and one for each quartile."""
    n_knots = config.n_knots if config.surrogate == "trapezoid" else 2
    band = tuple(map(float, knot_levels(config.alpha, config.beta, n_knots)))
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
