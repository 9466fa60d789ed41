"""The rows of a Triton step as they lie in memory, and how kernels write them to the queue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pauc.core.batch import Rows
from pauc.core.queue import QueueState
from pauc.triton.kernels import enter
from pauc.triton.memory import BLOCK, LAUNCH


class TritonEntry(NamedTuple):
    """A batch, contiguous and detached, in dtypes that kernels convert; ``N`` rows, ``C`` classes.

    Of its rows, those to ignore and those with a logit that is not finite do not enter a queue.
    ``labels`` says how targets are written: a constant of the kernels (``kernels/rows.py``).
    """

    logits: Tensor  # [N, C] floating
    targets: Tensor  # [N] whole numbers of any dtype; multi-label [N, C], flattened
    iid: Tensor | None  # [N] uint8
    weight: Tensor | None  # [N] real
    admission: Tensor  # [N] int32, 1 for a row that may enter; the step's kernels write it
    ignore_index: int
    labels: str  # "binary", "index" or "multilabel"

    def into(self, queue: QueueState, *, in_place: bool = False) -> QueueState:
        """Return the queue with the rows in it; ``in_place``, only their slots are written."""
        after = queue if in_place else QueueState(*(part.clone() for part in queue))
        count, classes = self.logits.shape
        size = queue.weight.shape[0]
        if size > 0:
            enter.write_rows[(-(-count // BLOCK), classes)](
                *self[:5], after.scores, after.targets, after.iid.view(torch.uint8), after.weight,
                after.cursor, count, classes, size, self.ignore_index,
                LABELS=self.labels, BLOCK=BLOCK, **LAUNCH,
            )  # fmt: skip
        enter.move_counters[(1,)](
            self.admission, *after[4:], count, size, BLOCK=BLOCK, **LAUNCH,
        )  # fmt: skip
        if in_place:
            increment_version(after)  # autograd must notice that tensors it has saved are changed
        return after


def make_entry(rows: Rows, admission: Tensor, ignore_index: int, labels: str) -> TritonEntry:
    """Return the rows as kernels read them."""
    iid = None if rows.iid_mask is None else rows.iid_mask.contiguous().view(torch.uint8)
    weight = None if rows.sample_weight is None else rows.sample_weight.detach().contiguous()
    targets = rows.targets.detach().contiguous().reshape(-1)
    return TritonEntry(
        rows.logits.detach().contiguous(),
        targets.view(torch.uint8) if targets.dtype == torch.bool else targets,
        iid,
        weight,
        admission,
        ignore_index,
        labels,
    )
