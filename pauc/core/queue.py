"""The memory: a first-in, first-out queue of past rows as a tuple of tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.checks import (
    check_flag,
    check_int,
    check_rows,
    check_targets,
    check_weights,
    is_multilabel,
)


class QueueState(NamedTuple):
    """Everything that changes from one step to the next. ``C`` classes, ``Q`` rows.

    A ring buffer: the slots ``cursor - fill, ..., cursor - 1`` (modulo ``Q``) hold rows, oldest
    first, and ``cursor`` is where the next row goes. Slots from ``fill`` on are empty.
    """

    scores: Tensor  # [C, Q] float32 or float64, a row per class so that selection reads in order
    # [Q] int64, class index (binary: 0 or 1); multi-label [C, Q] int8: 1, 0, or -1 for no label
    targets: Tensor
    iid: Tensor  # [Q] bool
    weight: Tensor  # [Q] dtype of scores
    cursor: Tensor  # [] int64
    fill: Tensor  # [] int64
    step: Tensor  # [] int64, how often `enqueue` was called; seeds subsampling

    @property
    def multilabel(self) -> bool:
        """Whether a row has a target for each class; the functions take the answer from here."""
        return is_multilabel(self.targets)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype of the arithmetic: float64 if any tensor has it, otherwise float32."""
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if wide else torch.float32


def init_queue(
    queue_size: int,
    num_classes: int,
    *,
    multilabel: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> QueueState:
    """Return an empty queue.

    Args:
        queue_size: rows that it can hold; 0 is a queue that remembers nothing.
        num_classes: columns of the logits; 1 is binary.
        multilabel: every row has a target for each class, ``[N, C]`` of 0, 1 and ``ignore_index``.
            Whoever receives the queue then expects such targets.
        dtype: float32 or float64. A queue that receives float64 rows becomes float64.
        device: as in :func:`torch.zeros`.

    Raises:
        TypeError, ValueError: a size that is no integer or out of range, or another dtype.
    """
    check_int("queue_size", queue_size, 0)
    check_int("num_classes", num_classes, 1)
    check_flag("multilabel", multilabel)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")

    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return QueueState(
        scores=zeros(num_classes, queue_size, dtype=dtype),
        targets=zeros(num_classes, queue_size, dtype=torch.int8)
        if multilabel
        else zeros(queue_size, dtype=torch.int64),
        iid=zeros(queue_size, dtype=torch.bool),
        weight=zeros(queue_size, dtype=dtype),
        cursor=zeros(dtype=torch.int64),
        fill=zeros(dtype=torch.int64),
        step=zeros(dtype=torch.int64),
    )


def enqueue(
    queue: QueueState,
    logits: Tensor,
    targets: Tensor,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    validate_args: bool = True,
) -> QueueState:
    """Return the queue after a batch's rows have entered, in order; the argument is not changed.

    Rows whose target is ``ignore_index`` and rows with a non-finite logit do not enter; multi-label
    it is rows whose every target is, and a logit without a target may be anything. Of a batch with
    more rows than the queue holds, the newest remain.

    Args:
        queue: the state before, for ``C`` classes and ``Q`` rows.
        logits: ``[N, C]``, any floating dtype; stored detached, as float32 or float64.
        targets: ``[N]`` or ``[N, 1]``, class indices (binary: 0 or 1) or ``ignore_index``; for a
            multi-label queue ``[N, C]`` of 0, 1 and ``ignore_index``.
        iid_mask: ``[N]`` bool; None: all rows are iid.
        sample_weight: ``[N]``, non-negative; None: ones.
        ignore_index: target of rows to leave out; multi-label: of a class that has no label.
        validate_args: check targets and weights, which reads data.

    Raises:
        TypeError, ValueError: as for :func:`pauc.pauc_loss_fn`.
    """
    check_rows(logits, targets, queue, iid_mask, sample_weight)
    targets = targets if is_multilabel(queue.targets) else targets.reshape(-1)
    if validate_args and not torch.compiler.is_compiling():
        check_targets(targets, logits.shape[1], ignore_index)
        if sample_weight is not None:
            check_weights(sample_weight, targets.to(torch.int64) != ignore_index)
    targets = targets.to(torch.int64)
    size = queue.weight.shape[0]
    kept = min(logits.shape[0], size)
    if kept == 0:
        return queue._replace(step=queue.step + 1)

    dtype = compute_dtype(queue.scores, logits)
    rows = logits.detach().to(dtype)
    present = targets != ignore_index
    if is_multilabel(queue.targets):
        # What has no label may be anything; zeros, so that no nan comes to lie in the queue.
        rows = torch.where(present, rows, 0.0)
        targets = torch.where(present, targets == 1, -1).to(torch.int8).T
        present = present.any(dim=1)
    accepted = present & rows.isfinite().all(dim=1)
    # A static number of rows is written whatever the mask says, so that a compiled graph stays
    # whole: rejected rows sort to the front and write back what their slot already holds.
    newest = accepted.to(torch.uint8).argsort(stable=True)[-kept:]
    entering = accepted[newest]
    count = entering.sum()
    ahead = torch.arange(kept, device=rows.device) - (kept - count)
    slots = (queue.cursor + ahead) % size

    def write(stored: Tensor, batch: Tensor) -> Tensor:
        stored = stored.to(batch.dtype)
        index = slots.expand(*stored.shape[:-1], kept)
        merged = torch.where(entering, batch[..., newest], stored.gather(-1, index))
        return stored.scatter(-1, index, merged)

    ones = torch.ones_like(present)
    iid = ones if iid_mask is None else iid_mask
    weight = ones if sample_weight is None else sample_weight.detach()
    return QueueState(
        scores=write(queue.scores, rows.T),
        targets=write(queue.targets, targets),
        iid=write(queue.iid, iid.to(torch.bool)),
        weight=write(queue.weight, weight.to(dtype)),
        cursor=(queue.cursor + count) % size,
        fill=(queue.fill + count).clamp(max=size),
        step=queue.step + 1,
    )


def queue_rows(queue: QueueState) -> Tensor:
    """Return the slots ``[Q]`` in order of age, oldest row first; the empty ones come last."""
    size = queue.weight.shape[0]
    age = torch.arange(size, device=queue.weight.device)
    return (queue.cursor - queue.fill + age) % max(size, 1)


def resize_queue(queue: QueueState, queue_size: int) -> QueueState:
    """Return a queue of another size with the newest rows that fit, in order."""
    check_int("queue_size", queue_size, 0)
    size = queue.weight.shape[0]
    if size == queue_size:
        return queue  # every row in its slot, so that a resumed run adds in the same order
    kept = min(size, queue_size)
    fill = queue.fill.clamp(max=queue_size)
    slots = queue_rows(queue._replace(fill=fill))[:kept]

    def move(stored: Tensor) -> Tensor:
        moved = stored.new_zeros(*stored.shape[:-1], queue_size)
        moved[..., :kept] = stored[..., slots]
        return moved

    return QueueState(
        scores=move(queue.scores),
        targets=move(queue.targets),
        iid=move(queue.iid),
        weight=move(queue.weight),
        cursor=fill % max(queue_size, 1),
        fill=fill,
        step=queue.step,
    )
