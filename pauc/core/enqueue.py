"""How the rows of a batch enter the queue."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.checks import check_ignore_index
from pauc.core.batch import Batch, Rows, check_rows, make_batch
from pauc.core.pool import Pool, make_pool
from pauc.core.queue import QueueState, check_counters
from pauc.devices import may_look


class BatchEntry(NamedTuple):
    """A checked batch whose rows are to enter the queue, and its pool with that queue."""

    batch: Batch
    pool: Pool

    def into(self, queue: QueueState, *, in_place: bool = False) -> QueueState:
        """Return the queue with the rows in it; ``in_place``, only their slots are written."""
        return entered(queue, self.batch, self.pool, in_place)


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
        validate_args: check targets, weights and the queue's counters, as for
            :func:`pauc.pauc_loss_fn`.

    Raises:
        TypeError, ValueError: as for :func:`pauc.pauc_loss_fn`.
    """
    check_ignore_index(ignore_index)
    rows = Rows(logits, targets, iid_mask, sample_weight)
    check_rows(rows, queue)
    check_values = validate_args and not torch.compiler.is_compiling()
    if check_values and may_look(queue.fill.device):
        check_counters(queue)
    batch = make_batch(rows, queue, ignore_index, check_values=check_values)
    return entered(queue, batch, make_pool(batch, queue), in_place=False)


def entered(queue: QueueState, batch: Batch, pool: Pool, in_place: bool) -> QueueState:
    """Return the queue with the rows of a checked batch in it; see :func:`pauc.enqueue`.

    ``pool`` is that of the batch and this queue.
    """
    in_place = in_place and queue.scores.dtype == pool.scores.dtype
    count, size = batch.logits.shape[0], queue.weight.shape[0]
    kept = min(count, size)
    if kept == 0:
        return queue._replace(step=queue.step + 1)
    # How many rows have entered when a row has. A static number of slots is written whatever the
    # mask says, so that a compiled graph stays whole: where there are too few rows to enter, a slot
    # is given what it holds already.
    entered_by = _accepted(batch).cumsum(0)
    entering = entered_by[-1]
    steps = entering if count <= size else entering.clamp(max=size)  # slots to be written
    end = queue.cursor + steps
    age = torch.arange(1, kept + 1, device=end.device)  # the newest row has 1
    slots = (end - age) % size
    rows = torch.searchsorted(entered_by, entering - age, right=True)
    columns = torch.where(age <= entering, rows, slots + count)

    def write(stored: Tensor, joined: Tensor) -> Tensor:
        fresh = joined.detach().index_select(-1, columns)
        if in_place:
            return stored.index_copy_(-1, slots, fresh)
        return stored.to(fresh.dtype).index_copy(-1, slots, fresh)

    scores, targets = write(queue.scores, pool.scores), write(queue.targets, pool.targets)
    iid, weight = write(queue.iid, pool.iid), write(queue.weight, pool.weight)
    if in_place:
        queue.cursor.add_(steps).remainder_(size)
        queue.fill.add_(entering).clamp_(max=size)
        queue.step.add_(1)
        return queue
    return QueueState(
        scores=scores,
        targets=targets,
        iid=iid,
        weight=weight,
        cursor=end % size,
        fill=(queue.fill + entering).clamp(max=size),
        step=queue.step + 1,
    )


def _accepted(batch: Batch) -> Tensor:
    """Return ``[N]`` bool: which rows are present with nothing but finite logits."""
    largest: Tensor = torch.linalg.vector_norm(batch.logits.detach(), math.inf, dim=1)
    return batch.row_present & (largest < math.inf)
