"""The loss as a pure function: tensors and the queue's state in, loss and new state out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pauc.band import Band, attach_knots, make_band
from pauc.config import PAUCConfig, PAUCOptions, make_config
from pauc.diagnostics import diagnose
from pauc.pairs import sum_link, sum_link_of_parts
from pauc.pool import Batch, Pool, Subsample, make_batch, make_pool, subsample
from pauc.queue import QueueState, enqueue
from pauc.surrogates import (
    Positives,
    class_mean,
    class_sum,
    scale_gradient,
    trapezoid_contributions,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PAUCTerms(NamedTuple):
    """What a step computes. ``C`` classes."""

    loss: Tensor  # [] or, with reduction="none", [C] with nan where invalid
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool, reference rows are there but have no dispersion
    ref_count: Tensor  # [C] int64, size of the reference set
    stats: dict[str, Tensor]  # [C] each; empty unless asked for
    queue: QueueState


def pauc_loss_fn(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    **options: Unpack[PAUCOptions],
) -> tuple[Tensor, QueueState]:
    """Return one minus the partial AUC over a band of FPR, and the queue with the batch in it.

    Pure: nothing is kept between calls but in the returned queue, and no argument is changed. The
    loss is computed from the batch and the queue as given; the batch enters afterwards.

    Args:
        logits: ``[N, C]`` raw scores, any floating dtype; ``C = 1`` is binary. The arithmetic is
            float32, or float64 if the logits or the queue are.
        targets: ``[N]`` or ``[N, 1]``: class indices (binary: 0 or 1) or ``ignore_index``, whose
            rows are as good as absent. One-vs-rest for ``C > 1``.
        queue: from :func:`pauc.init_queue` or the previous call; of size 0 for no memory.
        iid_mask: ``[N]`` bool, False for rows that were added by class or for hardness: they take
            no part in edges and scale. None: all rows are iid.
        sample_weight: ``[N]``, non-negative, weights the positives in the numerator. None: ones.
        validate_args: check targets and weights, and size work arrays by what is in them. Both
            read data: switch it off under :func:`torch.func.vmap` and where a host
            synchronisation matters. Always off inside a compiled graph.
        **options: fields of :class:`pauc.PAUCConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        iid negatives, no dispersion among its reference scores or, pairwise, no negative in the
        band. With no class left the loss is 0 (or the BCE term), still attached to the graph.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    terms = pauc_loss_terms(
        logits,
        targets,
        queue,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        **options,
    )
    return terms.loss, terms.queue


def pauc_loss_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    **options: Unpack[PAUCOptions],
) -> PAUCTerms:
    """Return the loss of :func:`pauc_loss_fn` with its per-class parts and diagnostics.

    Args, Raises: as for :func:`pauc_loss_fn`, and
        diagnostics: also compute ``stats``, see :func:`pauc.diagnostics.diagnose`.
    """
    config = make_config(options)
    read_values = validate_args and not torch.compiler.is_compiling()
    batch = make_batch(logits, targets, queue, config, iid_mask, sample_weight, read_values)
    pool = make_pool(batch, queue)
    band = make_band(pool, config, read_values)
    sample = _sample(pool, queue, config)

    positives, pos_total = _positives(pool, sample, config, read_values)
    num_classes = logits.shape[1]
    has_positives = pos_total > 0
    divisor = torch.where(has_positives, pos_total, 1.0)
    if config.surrogate == "trapezoid":
        valid = has_positives & band.defined
        knots = band.edges.knots
        if config.edge_gradient == "implicit":
            knots = attach_knots(pool, band, config)
        knots = torch.where(band.defined.unsqueeze(-1), knots, 0.0)
        contribution = trapezoid_contributions(positives, knots, band.tau)
    else:
        contribution, has_negatives = _pairwise(
            positives, pool, logits.shape[0], sample, band, config, read_values
        )
        valid = has_positives & band.defined & has_negatives
    pauc = class_mean(contribution, positives, num_classes, divisor)

    loss, per_class, valid = reduce_classes(pauc, valid, batch, config)
    loss = config.pauc_weight * loss
    if config.bce_weight > 0:
        loss = loss + config.bce_weight * reduce_entropy(batch, config)
    stats = {}
    if diagnostics:
        variance = class_mean(
            (contribution - pauc[positives.class_index]) ** 2, positives, num_classes, divisor
        )
        if sample is not None:
            positives, _ = _positives(pool, None, config, read_values)
        stats = diagnose(pool, band, positives, variance, valid, config)
    new_queue = enqueue(
        queue,
        logits,
        batch.targets,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        ignore_index=config.ignore_index,
        validate_args=False,  # done above
    )
    return PAUCTerms(loss, per_class, valid, band.degenerate, band.ref_count, stats, new_queue)


def _sample(pool: Pool, queue: QueueState, config: PAUCConfig) -> Subsample | None:
    """Return the rows that enter the surrogate, or None for all of them."""
    num_classes, rows = pool.scores.shape
    cap = config.max_pool_size
    if cap is None:
        return None
    if cap < num_classes:
        raise ValueError(
            f"max_pool_size must be at least the number of classes {num_classes}, got {cap}"
        )
    return subsample(pool, cap, queue.step) if rows > cap else None


def _positives(
    pool: Pool, sample: Subsample | None, config: PAUCConfig, read_values: bool
) -> tuple[Positives, Tensor]:
    """Return the numerator positives and their weight ``[C]`` before subsampling."""
    num_classes, rows = pool.scores.shape
    weight = pool.numerator_weight(config.pos_numerator)
    label = pool.label.clamp(min=0)
    total = class_sum(weight, label, num_classes)
    live_total = class_sum(torch.where(pool.live, weight, 0.0), label, num_classes)

    if sample is not None:
        columns = sample.columns
        weight = weight[columns] * sample.multiplicity
    elif read_values:
        columns = weight.nonzero().squeeze(-1)
        weight = weight[columns]
    else:
        columns = torch.arange(rows, device=label.device)
    positives = pool.positives(columns, weight)
    if config.gradient_scale == "live":
        factor = live_factor(total, live_total)[positives.class_index]
        positives = positives._replace(
            scores=scale_gradient(positives.scores, factor.to(weight.dtype))
        )
    return positives, total


def _pairwise(
    positives: Positives,
    pool: Pool,
    batch_rows: int,
    sample: Subsample | None,
    band: Band,
    config: PAUCConfig,
    read_values: bool,
) -> tuple[Tensor, Tensor]:
    """Return each positive's mean link over its band negatives, and which classes have any."""
    members = pool.negatives() & band.contains(pool.scores)
    count = members.sum(dim=-1)
    factor = None
    if config.gradient_scale == "live":
        factor = live_factor(count, (members & pool.live).sum(dim=-1)).unsqueeze(-1)
    if sample is not None:
        scores, members = pool.scores[:, sample.columns], members[:, sample.columns]
        counts = members * sample.multiplicity
    elif read_values:
        columns, counts = columns_of(members, count)
        scores, counts = pool.scores.gather(1, columns), counts.to(pool.scores.dtype)
    else:
        # How many negatives the band has is for the data to say; where it may not be read, all.
        scores, counts = pool.scores, members.to(pool.scores.dtype)
    scores = torch.where(counts > 0, scores, 0.0)
    if factor is not None:
        scores = scale_gradient(scores, factor.to(scores.dtype))
    total = count.clamp(min=1).to(scores.dtype)
    of_class = positives.class_index
    if sample is None and not read_values:
        # All columns, the batch's first.
        live = scores[:, :batch_rows], counts[:, :batch_rows]
        held = scores[:, batch_rows:], counts[:, batch_rows:]
        summed = sum_link_of_parts(
            positives.scores, of_class, batch_rows, live, held, band.tau, config.link
        )
    else:
        summed = sum_link(positives.scores, of_class, scores, counts, band.tau, config.link)
    return summed / total[of_class], count > 0


def columns_of(members: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns ``[C, B]`` of each class's members and which of those are real.

    ``B`` is the largest ``count``; padding names column 0.
    """
    class_index, column = members.nonzero(as_tuple=True)
    start = count.cumsum(0) - count
    place = torch.arange(len(column), device=column.device) - start[class_index]
    shape = (members.shape[0], int(count.max()))
    columns = column.new_zeros(shape).index_put((class_index, place), column)
    real = torch.arange(shape[1], device=column.device) < count.unsqueeze(-1)
    return columns, real


def live_factor(total: Tensor, live: Tensor) -> Tensor:
    """Return what scales a pool's gradient to that of its live rows; 1 where nothing is live."""
    return torch.where(live > 0, total.double() / live.double(), 1.0)


def reduce_classes(
    pauc: Tensor, valid: Tensor, batch: Batch, config: PAUCConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the reduced loss, the loss per class and which classes count."""
    # A non-finite logit makes its class's loss and gradient nan, whatever the surrogate made of it,
    # so that a gradient scaler or a person sees the step that brought it.
    poisoned = ~batch.logits.detach().isfinite().all(dim=0)
    attached = (batch.logits * torch.where(poisoned, math.nan, 0.0)).sum(dim=0)
    valid = valid | poisoned
    losses = torch.where(valid, 1 - pauc, 0.0) + attached
    return *reduce_losses(losses, valid, config), valid


def reduce_losses(losses: Tensor, valid: Tensor, config: PAUCConfig) -> tuple[Tensor, Tensor]:
    """Return the reduced loss and the loss per class, of losses that are 0 where invalid."""
    per_class = torch.where(valid, losses, math.nan)
    if config.reduction == "none":
        return per_class, per_class
    loss = losses.sum()
    if config.reduction == "mean":
        loss = loss / valid.sum().clamp(min=1)
    return loss, per_class


def reduce_entropy(batch: Batch, config: PAUCConfig) -> Tensor:
    """Return the cross-entropy over all classes, reduced as the loss is."""
    entropy = batch.cross_entropy()
    if config.reduction == "none":
        return entropy
    return entropy.mean() if config.reduction == "mean" else entropy.sum()
