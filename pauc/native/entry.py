"""The rows of a native step as they lie in memory, and how native code writes them to the queue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pauc.core.batch import Rows
from pauc.core.queue import QueueState, is_multilabel
from pauc.native import extension
from pauc.native.readable import addresses


class NativeEntry(NamedTuple):
    """A batch in the queue's dtypes, contiguous; ``N`` rows, ``C`` classes.

    Of its rows, those to ignore and those with a logit that is not finite do not enter a queue.
    """

    scores: Tensor  # [N, C] dtype of the queue's
    targets: Tensor  # [N] or [N, 1] int64; multi-label [N, C]
    iid: Tensor | None  # [N] bool
    weight: Tensor | None  # [N] dtype of the queue's
    ignore_index: int

    def into(self, queue: QueueState, *, in_place: bool = False) -> QueueState:
        """Return the queue with the rows in it; ``in_place``, only their slots are written."""
        after = queue if in_place else QueueState(*(part.clone() for part in queue))
        extension.ext.enter(
            self.scores.dtype == torch.float64,
            (*self.scores.shape, after.weight.shape[0], is_multilabel(after.targets)),
            self.ignore_index,
            addresses(*self[:4], *after),
        )
        if in_place:
            increment_version(after)  # autograd must notice that tensors it has saved are changed
        return after


def make_entry(rows: Rows, scores: Tensor, ignore_index: int) -> NativeEntry:
    """Return the rows as native code reads them; ``scores`` are their logits in its dtype."""
    _, targets, iid_mask, sample_weight = rows
    return NativeEntry(
        _as_in_memory(scores, scores.dtype),
        _as_in_memory(targets, torch.int64),
        None if iid_mask is None else _as_in_memory(iid_mask, torch.bool),
        None if sample_weight is None else _as_in_memory(sample_weight, scores.dtype),
        ignore_index,
    )


def _as_in_memory(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values contiguous and of a dtype; the same tensor where it is that."""
    if part.dtype == dtype and part.is_contiguous() and not part.is_neg():
        return part
    return part.detach().to(dtype).resolve_neg().contiguous()
