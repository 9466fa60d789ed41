"""How the rows of a batch enter the queue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.core.batch import Batch, Rows, check_rows, make_batch
from pauc.core.queue import QueueState, check_counters, compute_dtype, is_multilabel


class BatchEntry(NamedTuple):
    """A checked batch whose rows are to enter the queue."""

    batch: Batch

    def into(self, queue: QueueState, *, in_place: bool = False) -> QueueState:
        """Return the queue with the rows in it, as new tensors."""
        del in_place  # operators make no use of it: a graph must not write its inputs
        return entered(queue, self.batch)


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
        validate_args: check targets, weights and the queue's counters, which reads data.

    Raises:
        TypeError, ValueError: as for :func:`pauc.pauc_loss_fn`.
    """
    rows = Rows(logits, targets, iid_mask, sample_weight)
    check_rows(rows, queue)
    check_values = validate_args and not torch.compiler.is_compiling()
    if check_values:
        check_counters(queue)
    return entered(queue, make_batch(rows, queue, ignore_index, check_values=check_values))


def entered(queue: QueueState, batch: Batch) -> QueueState:
    """Return the queue with the rows of a checked batch in it; see :func:`pauc.enqueue`."""
    size = queue.weight.shape[0]
    kept = min(batch.logits.shape[0], size)
    if kept == 0:
        return queue._replace(step=queue.step + 1)
    scores = batch.logits.detach().to(compute_dtype(queue.scores, batch.logits))
    targets, present = batch.targets, batch.present
    if is_multilabel(queue.targets):
        targets = torch.where(present, targets == 1, -1).to(torch.int8).T
        present = present.any(dim=1)
    accepted = present & scores.isfinite().all(dim=1)
    # A static number of rows is written whatever the mask says, so that a compiled graph stays
    # whole: rejected rows sort to the front and write back what their slot already holds.
    newest = accepted.to(torch.uint8).argsort(stable=True)[-kept:]
    entering = accepted[newest]
    count = entering.sum()
    ahead = torch.arange(kept, device=scores.device) - (kept - count)
    slots = (queue.cursor + ahead) % size

    def write(stored: Tensor, given: Tensor) -> Tensor:
        stored = stored.to(given.dtype)
        index = slots.expand(*stored.shape[:-1], kept)
        merged = torch.where(entering, given[..., newest], stored.gather(-1, index))
        return stored.scatter(-1, index, merged)

    return QueueState(
        scores=write(queue.scores, scores.T),
        targets=write(queue.targets, targets),
        iid=write(queue.iid, batch.iid),
        weight=write(queue.weight, batch.weight.to(scores.dtype)),
        cursor=(queue.cursor + count) % size,
        fill=(queue.fill + count).clamp(max=size),
        step=queue.step + 1,
    )
