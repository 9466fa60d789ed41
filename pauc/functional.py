"""The losses as pure functions: rows and a queue in, the loss and the new queue out.

The ``*_loss_fn`` return those two; the ``*_terms`` also what stands behind the loss. A backend
computes the step (:mod:`pauc.backends` chooses it), and its rows enter the queue here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from pauc.backends import plan_step, take_step
from pauc.config import (
    LossConfig,
    PAUCOptions,
    RecallAtQuantileOptions,
    SmoothAPOptions,
    make_config,
    make_recall_config,
    make_smooth_ap_config,
)
from pauc.core.batch import Rows
from pauc.core.outcome import PAUCTerms
from pauc.core.queue import QueueState

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "pauc_loss_fn",
    "pauc_loss_terms",
    "recall_at_quantile_loss_fn",
    "recall_at_quantile_terms",
    "smooth_ap_loss_fn",
    "smooth_ap_terms",
]


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
            rows are as good as absent. One-vs-rest for ``C > 1``. With a queue that was made with
            ``multilabel=True``, ``[N, C]`` of 0, 1 and ``ignore_index``: each class is then the
            binary loss of its own column, and a row is absent for the classes that ignore it.
        queue: from :func:`pauc.init_queue` or the previous call; of size 0 for no memory.
        iid_mask: ``[N]`` bool, False for rows that were added by class or for hardness: they take
            no part in edges and scale. None: all rows are iid.
        sample_weight: ``[N]``, non-negative, weights the positives in the numerator, and every row
            in the BCE of ``bce_weight``, a weighted mean. Edges, scale and band never see it, but
            for the TPR of ``budget_basis="precision"``. None: ones.
        validate_args: check targets, weights and the queue's counters, and size work arrays by what
            is in the rows. Both read data: switch it off under :func:`torch.func.vmap` where torch
            operators compute the loss. A compiled graph checks where it calls the native step, and
            otherwise not. On an accelerator the host does not wait: sizes do not depend on data,
            counters are not checked, and the device refuses illegal targets and weights, with a
            RuntimeError at the next call that waits and the reason on stderr.
        **options: fields of :class:`pauc.PAUCConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        iid negatives, no dispersion among its reference scores or, pairwise, no negative in the
        band. With no class left the loss is 0 (or the BCE term), still attached to the graph.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    rows = Rows(logits, targets, iid_mask, sample_weight)
    terms = _terms(rows, queue, make_config(options), validate_args)
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
        diagnostics: also compute ``stats``, ``[C]`` each. nan where a class is invalid:
            ``t_alpha``, ``t_beta`` (the thresholds at the band's edges), ``tau_eff`` (width of the
            link in logit units), ``pauc`` (the exact partial AUC of the pool over the band, divided
            by its width), and ``pauc_var`` (variance over the numerator positives' contributions).
            0 where invalid: ``band_neg_count`` (iid negatives in the band) and ``grad_pos_count``
            (live positives). Always: ``ref_count`` (size of the reference set) and
            ``realised_fpr`` (the share of the batch's reference rows strictly above the edge at
            ``beta``, or where the pool's band ends by a precision, that the queue alone gives, nan
            without either; its mean over steps should be near that FPR).
    """
    rows = Rows(logits, targets, iid_mask, sample_weight)
    return _terms(rows, queue, make_config(options), validate_args, diagnostics)


def recall_at_quantile_loss_fn(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    **options: Unpack[RecallAtQuantileOptions],
) -> tuple[Tensor, QueueState]:
    """Return one minus the soft recall above a quantile, and the queue with the batch in it.

    The threshold ``t`` is the score that a share ``quantile`` of the reference rows exceeds: of all
    iid rows, positives included, unless ``budget_basis="fpr"``. Soft recall is
    ``mean_i sigmoid((s_i - t) / tau)`` over the positives. With ``budget_basis="precision"`` the
    threshold is that of the precision, and the value the recall there. With ``"fpr"`` it is the
    value at ``beta = quantile`` of the curve that :func:`pauc.trapezoid_pauc` integrates. As there,
    gradient reaches positives only, unless ``edge_gradient="implicit"``.

    Pure, as :func:`pauc.pauc_loss_fn` is.

    Args:
        logits, targets, queue, iid_mask, sample_weight, validate_args: see
            :func:`pauc.pauc_loss_fn`.
        **options: fields of :class:`pauc.RecallAtQuantileConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        iid negatives, or no dispersion among its reference scores.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    rows = Rows(logits, targets, iid_mask, sample_weight)
    terms = _terms(rows, queue, make_recall_config(options), validate_args)
    return terms.loss, terms.queue


def recall_at_quantile_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    **options: Unpack[RecallAtQuantileOptions],
) -> PAUCTerms:
    """Return the loss of :func:`recall_at_quantile_loss_fn` with its per-class parts.

    Args, Raises: as for :func:`recall_at_quantile_loss_fn`, and
        diagnostics: also compute ``stats``, ``[C]`` each. nan where a class is invalid:
            ``threshold``, ``tau_eff`` (width of the sigmoid in logit units), ``recall`` (weight of
            the positives above the threshold, as a share) and ``recall_var`` (variance over the
            positives' contributions). 0 where invalid: ``false_alert_count`` (iid negatives above
            the threshold) and ``grad_pos_count`` (live positives). Always: ``ref_count``.
    """
    rows = Rows(logits, targets, iid_mask, sample_weight)
    return _terms(rows, queue, make_recall_config(options), validate_args, diagnostics)


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
        sample_weight: ``[N]``, non-negative, weights the positives in the average, and every row in
            the BCE of ``bce_weight``, a weighted mean. Ranks count rows. None: ones.
        **options: fields of :class:`pauc.SmoothAPConfig`.

    Returns:
        The loss (float32 or float64; ``[]``, or ``[C]`` with ``reduction="none"``) and the new
        queue. A class is left out of the reduction when it has no positives of positive weight, no
        negatives or, with ``tau_scale="iqr"``, no iid negatives or no dispersion among them.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    rows = Rows(logits, targets, iid_mask, sample_weight)
    terms = _terms(rows, queue, make_smooth_ap_config(options), validate_args)
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
    rows = Rows(logits, targets, iid_mask, sample_weight)
    return _terms(rows, queue, make_smooth_ap_config(options), validate_args, diagnostics)


def _terms(
    rows: Rows,
    queue: QueueState,
    config: LossConfig,
    validate_args: bool,
    diagnostics: bool = False,
) -> PAUCTerms:
    """Return what a step computes, with its rows in the queue."""
    outcome, _ = take_step(
        rows, queue, plan_step(config), validate_args=validate_args, diagnostics=diagnostics
    )
    return PAUCTerms(*outcome[:6], outcome.entry.into(queue))
