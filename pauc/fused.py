"""A step of the loss on a CPU in one native call, see native/step.cpp.

The numbers are those of :func:`pauc.pauc_loss_terms`, with the gradient beside the loss. What the
native code is not for, or where it was not built, is computed by that function.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn import Parameter

from pauc.attach import Gradients, attach
from pauc.checks import check_rows
from pauc.config import PAUCConfig
from pauc.functional import pauc_loss_terms
from pauc.pool import Batch, make_batch
from pauc.queue import Entry, QueueState, compute_dtype
from pauc.selection import knot_levels
from pauc.step import PAUCTerms, blend, has_entropy, reduce_losses

try:
    from pauc import _native
except ImportError:  # installed without a compiler
    _native = None  # type: ignore[assignment]

# As native/rows.h numbers them.
_SURROGATES = {"sigmoid": 1, "logistic": 2}
_SCALES = {"iqr": 0, "band": 1, "unit": 2}
_INTERPOLATIONS = {"linear": 0, "lower": 1, "higher": 2, "nearest": 3, "midpoint": 4}
_WINDOWS = 3


class _Found(NamedTuple):
    """What the native code writes. ``N`` rows, ``C`` classes."""

    losses: Tensor  # [C], 0 where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool
    ref_count: Tensor  # [C] int64
    gradient: Tensor  # [N, C], of each class's loss
    entropy: Tensor | None  # [C], the mean cross-entropy; None: it does not count
    residual: Tensor | None  # [N, C], how the sum of those moves with the logits


def pauc_step(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    bounds: Tensor | None,
    config: PAUCConfig,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
) -> tuple[PAUCTerms, Entry | None, Tensor | None]:
    """Return :func:`pauc.pauc_loss_terms`, the rows that enter the queue, and bounds to pass on.

    Pure, as that is. Where the entry is None, ``terms.queue`` is the queue after the step.
    Otherwise it is the queue before: the entry is for the caller to write, by
    :func:`pauc.queue.write_entry_`; and the gradient cannot be differentiated again.

    Args:
        config: checked, as :func:`pauc.config.make_config` returns it.
        bounds: from any step; None: from no step. Where scores are looked for first: they change
            what a step costs, never what comes out.
        others: as for :func:`pauc.pauc_loss_terms`.
    """
    rows = logits, targets, iid_mask, sample_weight
    if validate_args and not diagnostics and _serves(rows, queue, config):
        check_rows(logits, targets, queue, iid_mask, sample_weight)
        bounds = _fitting(bounds, queue)
        batch = _batch_as_it_is(logits, targets, queue, config, iid_mask, sample_weight)
        found = None if batch is None else _call(batch, queue, bounds, config)
        if found is None:  # there is something to refuse, or to leave out
            batch = _present_rows(
                make_batch(logits, targets, queue, config, iid_mask, sample_weight, True)
            )
            found = _call(batch, queue, bounds, config) if len(batch.targets) > 0 else None
        if found is not None and batch is not None:
            return *_outcome(batch, found, queue, config), bounds
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
    return terms, None, bounds


def _serves(rows: tuple[Any, ...], queue: QueueState, config: PAUCConfig) -> bool:
    """Return whether the native code is for this device, these settings and such a batch.

    Nothing has been checked yet: what is no batch is for the other path to refuse.
    """
    logits, targets, *optional = rows
    given = [part for part in optional if part is not None]
    return (
        _native is not None
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and all(_has_memory(part) for part in (logits, targets, *given, *queue))
        # Under a transform of torch.func that is not about these, what is made is a wrapper, too.
        and _has_memory(logits.new_empty(1))
        and not any(isinstance(option, Tensor) for option in config)
        and not _is_dual(logits)
        and logits.ndim == 2
        and logits.is_floating_point()
        and compute_dtype(logits) == queue.scores.dtype
        and logits.shape[0] > 0
        and not queue.multilabel
        and _is_sound(queue)
        and config.max_pool_size is None
        and config.budget_basis == "fpr"
        and (config.surrogate == "pairwise" or config.edge_gradient == "detached")
    )


def _has_memory(part: Any) -> bool:
    """Return whether this is a tensor with an address on the CPU."""
    if type(part) not in (Tensor, Parameter) or part.device.type != "cpu":
        return False
    try:
        return bool(part.data_ptr() != 0 or part.numel() == 0)
    except RuntimeError:  # a wrapper of torch.func, which there is no public way to ask for
        return False


def _is_dual(logits: Tensor) -> bool:
    """Return whether forward-mode derivatives are wanted, which are the other path's."""
    return unpack_dual(logits).tangent is not None  # type: ignore[no-untyped-call]


def _is_sound(queue: QueueState) -> bool:
    """Return whether a queue's tensors are what native code takes them for."""
    size = queue.scores.shape[1:]
    return (
        queue.targets.dtype == torch.int64
        and queue.iid.dtype == torch.bool
        and queue.weight.dtype == queue.scores.dtype
        and all(part.shape == size for part in queue[1:4])
        and all(part.is_contiguous() for part in queue[:4])
        and 0 <= int(queue.fill) <= size[0]
    )


def _fitting(bounds: Tensor | None, queue: QueueState) -> Tensor:
    """Return bounds for this queue, which may be written."""
    shape = queue.scores.shape[0], _WINDOWS, 2
    if bounds is not None and bounds.shape == shape and bounds.dtype == queue.scores.dtype:
        return bounds.clone()
    return queue.scores.new_full(shape, math.nan)


def _batch_as_it_is(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: PAUCConfig,
    iid_mask: Tensor | None,
    sample_weight: Tensor | None,
) -> Batch | None:
    """Return a batch whose values nobody has looked at, if the native code can do that."""
    dtype = queue.scores.dtype
    weight_fits = sample_weight is None or sample_weight.dtype == dtype
    is_class = 0 <= config.ignore_index < max(logits.shape[1], 2)
    if targets.dtype != torch.int64 or is_class or not weight_fits:
        return None
    ones = logits.new_ones(logits.shape[0], dtype=torch.bool)
    return Batch(
        logits.to(dtype),
        targets.reshape(-1),
        ones if iid_mask is None else iid_mask,
        ones.to(dtype) if sample_weight is None else sample_weight.detach(),
        ones,
    )


def _present_rows(batch: Batch) -> Batch:
    rows = batch.present.nonzero().squeeze(-1)
    return Batch(*(part.index_select(0, rows) for part in batch))


def _call(batch: Batch, queue: QueueState, bounds: Tensor, config: PAUCConfig) -> _Found | None:
    """Return what the native code finds, or None where it is not for these values.

    It brings ``bounds`` up to date.
    """
    n_knots = config.n_knots if config.surrogate == "trapezoid" else 2
    levels = [float(level) for level in knot_levels(config.alpha, config.beta, n_knots)]
    # A negation may be pending in a view.
    logits = batch.logits.detach().resolve_neg().contiguous()
    columns = tuple(part.resolve_neg().contiguous() for part in batch[1:4])
    rows, classes = logits.shape
    found = _Found(
        losses=logits.new_empty(classes),
        valid=logits.new_empty(classes, dtype=torch.bool),
        degenerate=logits.new_empty(classes, dtype=torch.bool),
        ref_count=logits.new_empty(classes, dtype=torch.int64),
        gradient=torch.zeros_like(logits),
        entropy=logits.new_empty(classes) if has_entropy(config) else None,
        residual=torch.empty_like(logits) if has_entropy(config) else None,
    )
    done = _native.step(
        logits.dtype == torch.float64,
        (rows, classes, queue.scores.shape[1], int(queue.fill)),
        (
            _SURROGATES[config.link] if config.surrogate == "pairwise" else 0,
            _SCALES[config.tau_scale],
            _INTERPOLATIONS[config.quantile_interpolation],
            config.pos_numerator == "pool",
            config.gradient_scale == "live",
            float(config.temperature),
        ),
        levels,
        tuple(part.data_ptr() for part in (logits, *columns)),
        tuple(part.data_ptr() for part in queue[:4]),
        bounds.data_ptr(),
        tuple(0 if part is None else part.data_ptr() for part in found),
    )
    return found if done else None


def _outcome(
    batch: Batch, found: _Found, queue: QueueState, config: PAUCConfig
) -> tuple[PAUCTerms, Entry | None]:
    loss, per_class = reduce_losses(found.losses, found.valid, config)
    loss = blend(loss, found.entropy, config)
    if torch.is_grad_enabled() and batch.logits.requires_grad:
        loss, per_class = attach(batch.logits, loss, per_class, _gradients(found, config))
    size = queue.weight.shape[0]
    after = queue if size > 0 else queue._replace(step=queue.step + 1)
    terms = PAUCTerms(loss, per_class, found.valid, found.degenerate, found.ref_count, {}, after)
    return terms, _entry(batch, queue) if size > 0 else None


def _entry(batch: Batch, queue: QueueState) -> Entry:
    """Return the newest rows that fit."""
    beyond = batch.weight.shape[0] - queue.weight.shape[0]
    if beyond > 0:
        batch = Batch(*(part[beyond:] for part in batch))
    scores = batch.logits.detach().T
    return Entry(
        scores, batch.targets, batch.iid, batch.weight, int(queue.cursor) % queue.weight.shape[0]
    )


def _gradients(found: _Found, config: PAUCConfig) -> Gradients:
    """Return what the gradient of the loss is made of; see :func:`pauc.step.blend`."""
    weight, bce_weight = float(config.pauc_weight), float(config.bce_weight)
    if config.reduction == "mean":
        weight /= max(int(found.valid.sum()), 1)
        bce_weight /= len(found.losses)
    direct = None if found.residual is None else found.residual.mul_(bce_weight)
    return Gradients(found.gradient, found.valid, weight, direct)
