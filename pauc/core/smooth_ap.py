"""Smooth average precision: the whole ranking, weighted to its top, from sums over pairs."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pauc.config import SmoothAPConfig, SmoothAPOptions, make_smooth_ap_config, options_of
from pauc.core.band import safe_width
from pauc.core.pool import Pool
from pauc.core.quantiles import count_mask, robust_scale
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms, Rows, Scored, columns_of, live_factor, take_step
from pauc.core.surrogates import Positives, class_mean, scale_gradient
from pauc.modules.base import QueuedLoss
from pauc.pairs.blocks import count_not_above
from pauc.pairs.operator import mean_link

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack


def smooth_ap_loss_fn(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    **options: Unpack[SmoothAPOptions],
) -> tuple[Tensor, QueueState]:
    """Return one minus the Smooth-AP, and the queue with the batch in it.

    Smooth-AP (Brown, Xie, Kalogeiton and Zisserman, 2020) is the average precision with the steps
    in the ranks made soft. With ``above_i(S) = sum_{j in S, j != i} sigmoid((s_j - s_i) / tau)`` it
    is the mean over the positives ``i`` of

        ``(1 + above_i(P)) / (1 + above_i(P) + above_i(N))``,

    one class against the rest. Every positive and negative of the pool counts in the ranks, and
    batch rows of both kinds receive gradient. The sums are those of `pauc.pairs.operator`.

    Pure, as :func:`pauc.pauc_loss_fn` is.

    Args:
        logits, targets, queue, validate_args: see :func:`pauc.pauc_loss_fn`.
        iid_mask: ``[N]`` bool. Precision has no edge that rows added for hardness would move: they
            count as they are. But they are more negatives per positive than the population has, so
            that the value is the AP of this pool and not of the population; only the scale of
            ``tau_scale="iqr"`` is read from iid negatives alone.
        sample_weight: ``[N]``, non-negative, weights the positives in the average. Ranks count
            rows. None: ones.
        **options: fields of :class:`pauc.SmoothAPConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        negatives or, with ``tau_scale="iqr"``, no iid negatives or no dispersion among them.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    terms = smooth_ap_terms(
        logits,
        targets,
        queue,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        **options,
    )
    return terms.loss, terms.queue


def smooth_ap_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    **options: Unpack[SmoothAPOptions],
) -> PAUCTerms:
    """Return the loss of :func:`smooth_ap_loss_fn` with its per-class parts.

    Args, Raises: as for :func:`smooth_ap_loss_fn`, and
        diagnostics: also compute ``stats``, ``[C]`` each. nan where a class is invalid:
            ``tau_eff`` (width of the sigmoid in logit units), ``ap`` (the exact average precision
            of the pool, tied rows together) and ``ap_var`` (variance over the positives' soft
            precisions). 0 where invalid: ``grad_pos_count`` (live positives). Always:
            ``ref_count`` (negatives that the scale may be read from).
    """
    config = make_smooth_ap_config(options)
    return take_step(
        "ap",
        partial(_score, config=config),
        logits,
        targets,
        queue,
        config,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        diagnostics=diagnostics,
    )


def _score(rows: Rows, config: SmoothAPConfig) -> Scored:
    """Return the soft precision at each positive."""
    pool, positives = rows.pool, rows.positives
    negative = pool.negatives()
    positive = pool.present & ~negative
    reference = negative & pool.iid if config.tau_scale == "iqr" else negative
    count = count_mask(reference, read_values=rows.read_values)
    scale = robust_scale(
        pool.scores,
        reference,
        config.tau_scale,
        interpolation=config.quantile_interpolation,
        count=count,
    )
    width = safe_width(count.per_class, config.temperature * scale)

    negatives = _side(pool, negative, config)
    peers = _side(pool, positive, config)
    among_negatives = _count_above(positives, negatives, negative, width.tau)
    # The sum over positives includes the pair of a positive with itself. It is taken out as it went
    # in, with its gradient, which vanishes only where both sides are scaled alike.
    itself = pool._replace(scores=peers).positives(rows.places, positives.weight).scores
    own_pair = torch.sigmoid((itself - positives.scores) / width.tau[positives.class_index])
    if rows.read_values:
        columns, positive = columns_of(positive, positive.sum(dim=-1))
        peers = torch.where(positive, peers.gather(1, columns), 0.0)
    rank = 1 + _count_above(positives, peers, positive, width.tau) - own_pair
    measured = {}
    if rows.diagnostics:
        measured = {"tau_eff": width.tau, "ap": _average_precision(pool, positives)}
    precision = rank / (rank + among_negatives)
    return Scored(precision, width.defined, width.degenerate, count.per_class, measured)


def _side(pool: Pool, members: Tensor, config: SmoothAPConfig) -> Tensor:
    """Return the scores ``[C, M]`` of a side, 0 elsewhere, with their gradient scaled if asked."""
    scores = torch.where(members, pool.scores, 0.0)
    if config.gradient_scale == "pool":
        return scores
    factor = live_factor(members.sum(dim=-1), (members & pool.live).sum(dim=-1))
    return scale_gradient(scores, factor.unsqueeze(-1).to(scores.dtype))


def _count_above(positives: Positives, scores: Tensor, members: Tensor, tau: Tensor) -> Tensor:
    """Return ``[P]``: softly, how many of the members ``[C, B]`` score above each positive."""
    return mean_link(
        -positives.scores,
        positives.class_index,
        -scores,
        members.to(scores.dtype),
        torch.ones_like(tau),
        tau,
        "sigmoid",
    )


def _average_precision(pool: Pool, positives: Positives) -> Tensor:
    """Return ``[C]``: the weighted mean of the exact precision at each positive."""
    negative = pool.negatives()
    own, index = -positives.scores.detach(), positives.class_index

    def at_least(members: Tensor) -> Tensor:
        scores = torch.where(members, -pool.scores.detach(), math.inf)
        return count_not_above(scores.sort(dim=-1).values, own, index).double()

    true, false = at_least(pool.present & ~negative), at_least(negative)
    exact = positives._replace(weight=positives.weight.double())
    precision = true / (true + false).clamp(min=1)
    return class_mean(precision, exact, pool.scores.shape[0]).to(pool.scores.dtype)


class SmoothAPLoss(QueuedLoss):
    """One minus the Smooth-AP, with a memory of past rows.

    A thin holder of the queue around :func:`pauc.smooth_ap_loss_fn`, where the arithmetic is
    described.

    Args:
        num_classes, multilabel, queue_size, update_queue_in_eval, gather_distributed,
            process_group, validate_args: as for :class:`pauc.PAUCAtBudgetLoss`.
        **options: fields of :class:`pauc.SmoothAPConfig`.

    Attributes:
        config: the :class:`pauc.SmoothAPConfig`.

    Calls, return forms, errors, warnings and training on many ranks are those of
    :class:`pauc.PAUCAtBudgetLoss`; ``stats`` are those of :func:`pauc.smooth_ap_terms`.
    """

    config: SmoothAPConfig

    def __init__(
        self,
        num_classes: int,
        *,
        multilabel: bool = False,
        queue_size: int = 1024,
        update_queue_in_eval: bool = False,
        gather_distributed: bool | None = None,
        process_group: ProcessGroup | None = None,
        validate_args: bool = True,
        **options: Unpack[SmoothAPOptions],
    ) -> None:
        super().__init__(
            make_smooth_ap_config(options),
            num_classes,
            multilabel=multilabel,
            queue_size=queue_size,
            update_queue_in_eval=update_queue_in_eval,
            gather_distributed=gather_distributed,
            process_group=process_group,
            validate_args=validate_args,
        )

    def _terms(self, logits: Tensor, targets: Tensor, diagnostics: bool, **side: Any) -> PAUCTerms:
        return smooth_ap_terms(
            logits,
            targets,
            self.queue,
            diagnostics=diagnostics,
            **side,
            **options_of(self._step_config()),
        )
