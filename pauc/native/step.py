"""A step of the loss on a CPU in one native call, see native/step.cpp.

The numbers are those of :func:`pauc.core.partial_auc.composed_terms`, with the gradient.
What the native code is not for, or where it was not built, is computed by that function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pauc.checks import check_rows, check_targets
from pauc.config import PAUCConfig
from pauc.core.partial_auc import composed_terms
from pauc.core.quantiles import knot_levels
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms, has_entropy
from pauc.native.gradient import NO_SECOND_DERIVATIVE, Gradients, attach
from pauc.native.readable import addresses, has_memory, is_readable

try:
    from pauc.native import _ext
except ImportError:  # installed without a compiler
    _ext = None  # type: ignore[assignment]

# As native/batch.h numbers them.
_SURROGATES = {"sigmoid": 1, "logistic": 2}
_SCALES = {"iqr": 0, "band": 1, "unit": 2}
_INTERPOLATIONS = {"linear": 0, "lower": 1, "higher": 2, "nearest": 3, "midpoint": 4}
_REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}
_WINDOWS = 3


class NativeOptions(NamedTuple):
    """A config as the native code wants it."""

    ignore_index: int
    has_entropy: bool
    by_class: bool  # there is a loss for each class
    numbers: tuple[int | float, ...]
    levels: list[float]  # FPR of each knot; of the pairwise surrogate, of the band's edges


class Entry(NamedTuple):
    """A batch whose rows enter a queue, but for those to ignore and those that are not finite.

    ``N`` rows, ``C`` classes; contiguous.
    """

    scores: Tensor  # [N, C] dtype of the queue's
    targets: Tensor  # [N] or [N, 1] int64; multi-label [N, C]
    iid: Tensor | None  # [N] bool
    weight: Tensor | None  # [N] dtype of the queue's
    ignore_index: int


class _Found(NamedTuple):
    """What the native code writes. ``N`` rows, ``C`` classes."""

    loss: Tensor  # [], with reduction="none" [C]
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool
    ref_count: Tensor  # [C] int64
    gradient: Tensor  # [N, C] of `per_class`
    whole: Tensor | None  # [N, C] of `loss`; None: there is no cross-entropy in it


def native_options(config: PAUCConfig) -> NativeOptions | None:
    """Return what the native code is told of a checked config; None where it is not for that."""
    if (
        torch.compiler.is_compiling()
        or any(isinstance(option, Tensor) for option in config)
        or config.max_pool_size is not None
        or config.budget_basis != "fpr"
        or (config.surrogate == "trapezoid" and config.edge_gradient != "detached")
    ):
        return None
    pairwise = config.surrogate == "pairwise"
    knots = knot_levels(config.alpha, config.beta, 2 if pairwise else config.n_knots)
    numbers = (
        _SURROGATES[config.link] if pairwise else 0,
        _SCALES[config.tau_scale],
        _INTERPOLATIONS[config.quantile_interpolation],
        config.pos_numerator == "pool",
        config.gradient_scale == "live",
        _REDUCTIONS[config.reduction],
        float(config.temperature),
        float(config.pauc_weight),
        float(config.bce_weight),
    )
    return NativeOptions(
        ignore_index=int(config.ignore_index),
        has_entropy=has_entropy(config),
        by_class=config.reduction == "none",
        numbers=numbers,
        levels=[float(level) for level in knots],
    )


def pauc_step(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    bounds: Tensor | None,
    config: PAUCConfig,
    options: NativeOptions | None,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    queue_moves: bool = False,
) -> tuple[PAUCTerms, Entry | None, Tensor | None]:
    """Return the terms of a step, the rows that enter the queue, and bounds to pass on.

    Where the entry is None, ``terms.queue`` is the queue after the step. Otherwise it is the queue
    before, into which the caller lets the rows enter by :func:`entered` or :func:`enter_`.

    Args:
        bounds: from any step, whose owner lets go of them; None: from no step. Where scores are
            looked for first: they change what a step costs, never what comes out.
        config: checked, as :func:`pauc.config.make_config` returns it.
        options: :func:`native_options` of it.
        queue_moves: the rows will enter this very queue, so that nothing can be computed again.
        others: as for :func:`pauc.pauc_loss_terms`.
    """
    rows = logits, targets, iid_mask, sample_weight
    if options is not None and not diagnostics and _ext is not None and is_readable(rows, queue):
        check_rows(logits, targets, queue, iid_mask, sample_weight)
        if validate_args and targets.dtype != torch.int64:
            flat = targets if queue.multilabel else targets.reshape(-1)
            check_targets(flat, logits.shape[1], options.ignore_index)
        # Before they are detached, so that the gradient finds its way back.
        scores = logits.to(queue.scores.dtype)
        entry = _make_entry(scores, targets, iid_mask, sample_weight, options)
        bounds = _fitting(bounds, queue)
        found = _make_room(entry, options)
        weight = _call(entry, queue, bounds, found, options, validate_args)
        if weight is not None:
            if scores.requires_grad and torch.is_grad_enabled():
                gradients = Gradients(found.gradient, found.whole, found.valid, weight)
                again = None
                if not queue_moves:
                    again = _again(scores, targets, queue, config, iid_mask, sample_weight)
                attach(scores, found.loss, found.per_class, gradients, again)
            return PAUCTerms(*found[:5], {}, queue), entry, bounds
    terms = composed_terms(
        logits,
        targets,
        queue,
        config,
        iid_mask=iid_mask,
        sample_weight=sample_weight,
        validate_args=validate_args,
        diagnostics=diagnostics,
    )
    return terms, None, bounds


def entered(queue: QueueState, entry: Entry) -> QueueState:
    """Return a queue with the rows in it, as :func:`pauc.enqueue` does."""
    after = QueueState(*(part.clone() for part in queue))
    _enter(after, entry)
    return after


def enter_(queue: QueueState, entry: Entry) -> None:
    """Let rows enter in place: for the owner of the tensors."""
    _enter(queue, entry)
    increment_version(queue)  # a graph that has kept a tensor is to notice


def _enter(queue: QueueState, entry: Entry) -> None:
    _ext.enter(
        entry.scores.dtype == torch.float64,
        (*entry.scores.shape, queue.weight.shape[0], queue.multilabel),
        entry.ignore_index,
        addresses(entry[:4]),
        addresses(queue),
    )


def _make_entry(
    scores: Tensor,
    targets: Tensor,
    iid_mask: Tensor | None,
    sample_weight: Tensor | None,
    options: NativeOptions,
) -> Entry:
    weight = None if sample_weight is None else _plain(sample_weight, scores.dtype)
    iid = None if iid_mask is None else _plain(iid_mask, torch.bool)
    return Entry(
        _plain(scores, scores.dtype),
        _plain(targets, torch.int64),
        iid,
        weight,
        options.ignore_index,
    )


def _plain(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values as they lie in memory."""
    if part.dtype == dtype and part.is_contiguous() and not part.is_neg():
        return part.detach() if part.requires_grad else part
    return part.detach().to(dtype).resolve_neg().contiguous()


def _fitting(bounds: Tensor | None, queue: QueueState) -> Tensor:
    """Return bounds for this queue."""
    shape = queue.scores.shape[0], _WINDOWS, 2
    if bounds is not None and bounds.shape == shape and bounds.dtype == queue.scores.dtype:
        return bounds
    return queue.scores.new_full(shape, math.nan)


def _make_room(entry: Entry, options: NativeOptions) -> _Found:
    scores = entry.scores
    classes = scores.shape[1]
    return _Found(
        loss=scores.new_empty((classes,) if options.by_class else ()),
        per_class=scores.new_empty(classes),
        valid=scores.new_empty(classes, dtype=torch.bool),
        degenerate=scores.new_empty(classes, dtype=torch.bool),
        ref_count=scores.new_empty(classes, dtype=torch.int64),
        gradient=torch.zeros_like(scores),
        whole=torch.empty_like(scores) if options.has_entropy else None,
    )


def _call(
    entry: Entry,
    queue: QueueState,
    bounds: Tensor,
    found: _Found,
    options: NativeOptions,
    validate_args: bool,
) -> float | None:
    """Return the weight of the classes' losses in the loss, or None where this is not for it."""
    # Under a transform of torch.func that is not about the rows, what is made is a wrapper, too.
    if not has_memory(found.gradient) or not has_memory(bounds):
        return None
    return _ext.step(
        entry.scores.dtype == torch.float64,
        validate_args,
        (*entry.scores.shape, queue.weight.shape[0], queue.multilabel),
        entry.ignore_index,
        options.numbers,
        options.levels,
        addresses(entry[:4]),
        addresses(queue),
        bounds.data_ptr(),
        addresses(found),
    )


def _again(
    scores: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: PAUCConfig,
    iid_mask: Tensor | None,
    sample_weight: Tensor | None,
) -> Callable[[], tuple[Tensor, PAUCTerms]]:
    """Return how to compute the same loss with all its derivatives, unless a row has changed."""
    given = (scores, targets, iid_mask, sample_weight, *queue)
    kept = [part for part in given if part is not None and not part.is_inference()]
    versions = [part._version for part in kept]

    def again() -> tuple[Tensor, PAUCTerms]:
        if [part._version for part in kept] != versions:
            raise RuntimeError(f"{NO_SECOND_DERIVATIVE}; its logits, targets or queue have changed")
        return scores, composed_terms(
            scores,
            targets,
            queue,
            config,
            iid_mask=iid_mask,
            sample_weight=sample_weight,
            validate_args=False,
        )

    return again
