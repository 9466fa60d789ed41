"""The rows that a step looks at: those of the batch and those of the queue, side by side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import PosNumerator
from pauc.core.batch import Batch, positive_column
from pauc.core.queue import QueueState, init_queue, is_multilabel
from pauc.core.surrogates import Positives


class Pool(NamedTuple):
    """The rows that a step looks at: the batch's first, then the queue's; ``M`` columns.

    One-vs-rest, a row is the positive of one class at most, so that positives are named by their
    column. Multi-label, they are named by their place in ``[C, M]``, flattened: there are as many
    places for positives as there are scores.
    """

    scores: Tensor  # [C, M], the batch's attached
    # [M] int64, the class whose positive a row is, -1 for none; multi-label [C, M], own class or -1
    label: Tensor
    present: Tensor  # shape of label, bool
    iid: Tensor  # [M] bool
    live: Tensor  # [M] bool, of the batch
    weight: Tensor  # [M]

    def negatives(self) -> Tensor:
        """Return ``[C, M]`` bool: which rows are present and no positive of the class."""
        if is_multilabel(self.label):
            return self.present & (self.label < 0)
        # All present rows, then one entry a row is changed: cheaper than C comparisons a row.
        everywhere = self.present.repeat(self.scores.shape[0], 1)
        in_own_class = (self.present & (self.label < 0)).unsqueeze(0)
        return everywhere.scatter(0, self.label.clamp(min=0).unsqueeze(0), in_own_class)

    def iid_negatives(self) -> Tensor:
        """Return ``[C, M]`` bool: which rows are negatives of the class, and iid."""
        return self.present & self.iid & self.negatives()

    def numerator_weight(self, pos_numerator: PosNumerator) -> Tensor:
        """Return the weight of a row among the positives of its class, 0 if it is none.

        ``[M]``; multi-label ``[C M]``, a weight for each class that a row may be a positive of.
        """
        counts = self.present & (self.label >= 0)
        if pos_numerator == "live":
            counts = counts & self.live
        return torch.where(counts, self.weight, 0.0).reshape(-1)

    def own_class(self) -> Tensor:
        """Return the class of each weight of :meth:`numerator_weight`, 0 where that is 0."""
        return self.label.reshape(-1).clamp(min=0)

    def positives(self, places: Tensor, weight: Tensor) -> Positives:
        """Return the rows of :meth:`numerator_weight` at ``places``, with their class's score."""
        class_index = self.own_class()[places]
        rows = self.live.shape[0]
        columns = places % rows if is_multilabel(self.label) else places
        flat = self.scores.reshape(-1)
        own = flat.gather(0, class_index * rows + columns)
        return Positives(torch.where(weight > 0, own, 0.0), class_index, weight)


def make_pool(batch: Batch, queue: QueueState) -> Pool:
    """Return the pool of a batch and the queue's rows."""
    dtype, device = batch.logits.dtype, batch.logits.device
    if batch.weight.shape[0] + queue.weight.shape[0] == 0:
        # One empty slot, so that nothing further down meets a dimension of size 0.
        num_classes, multilabel = batch.logits.shape[1], is_multilabel(batch.targets)
        queue = init_queue(1, num_classes, multilabel=multilabel, dtype=dtype, device=device)
    held = torch.arange(queue.weight.shape[0], device=device) < queue.fill
    label, present = (_labels_of_entries if is_multilabel(batch.targets) else _labels_of_rows)(
        batch, queue, held
    )
    return Pool(
        scores=torch.cat([batch.logits.T, queue.scores.to(dtype)], dim=1),
        label=label,
        present=present,
        iid=torch.cat([batch.iid, queue.iid]),
        live=torch.cat([torch.ones_like(batch.iid), torch.zeros_like(held)]),
        weight=torch.cat([batch.weight, queue.weight.to(dtype)]),
    )


def _labels_of_rows(batch: Batch, queue: QueueState, held: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[M]``: the class whose positive a row is, -1 for none; and which are present."""
    num_classes = batch.logits.shape[1]
    present = torch.cat([batch.present, held])
    label = positive_column(torch.cat([batch.targets, queue.targets]), num_classes)
    known = present & (label >= 0) & (label < num_classes)
    return torch.where(known, label, -1), present


def _labels_of_entries(batch: Batch, queue: QueueState, held: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[C, M]``: the class where its positive is, -1 elsewhere; and which are present."""
    present = torch.cat([batch.present.T, held & (queue.targets >= 0)], dim=1)
    positive = torch.cat([batch.positive().T, queue.targets == 1], dim=1)
    classes = torch.arange(batch.logits.shape[1], device=held.device).unsqueeze(1)
    return torch.where(present & positive, classes, -1), present
