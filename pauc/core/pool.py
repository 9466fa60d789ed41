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
    targets: Tensor  # [M] or, multi-label, [C, M], as the queue holds them
    absent: Tensor  # shape of `targets`, bool: ignored, or an empty slot of the queue
    other: Tensor  # shape of `targets`, bool: absent, or no positive of its `own_class`
    negative: Tensor  # shape of `targets`, bool: present, and no positive of its `own_class`
    iid: Tensor  # [M] bool
    weight: Tensor  # [M]
    batch_rows: int  # how many of the rows are the batch's

    @property
    def present(self) -> Tensor:
        """Return which rows are present, in the shape of ``targets``."""
        return ~self.absent

    @property
    def live(self) -> Tensor:
        """Return ``[M]`` bool: which rows are the batch's."""
        columns = torch.arange(self.scores.shape[1], device=self.scores.device)
        return columns < self.batch_rows

    def negatives(self) -> Tensor:
        """Return ``[C, M]`` bool: which rows are present and no positive of the class."""
        return self._no_positives(None)

    def iid_negatives(self) -> Tensor:
        """Return ``[C, M]`` bool: which rows are negatives of the class, and iid."""
        return self._no_positives(self.iid)

    def _no_positives(self, among: Tensor | None) -> Tensor:
        """Return ``[C, M]`` bool: which present rows, among some, are no positive of the class."""
        in_own_class = self.negative if among is None else self.negative & among
        if is_multilabel(self.targets) or self.scores.shape[0] == 1:
            return in_own_class.view_as(self.scores)
        # All of them, then one entry a row is changed: cheaper than C comparisons a row.
        rows = self.present if among is None else self.present & among
        return rows.expand_as(self.scores).scatter(
            0, self.own_class().unsqueeze(0), in_own_class.unsqueeze(0)
        )

    def numerator_weight(self, pos_numerator: PosNumerator) -> Tensor:
        """Return the weight of a row among the positives of its class, 0 if it is none.

        ``[M]``; multi-label ``[C M]``, a weight for each class that a row may be a positive of.
        """
        none = self.other if pos_numerator == "pool" else self.other | ~self.live
        return self.weight.expand_as(none).masked_fill(none, 0.0).reshape(-1)

    def own_class(self) -> Tensor:
        """Return the one class that each of :meth:`numerator_weight` can be a positive of."""
        num_classes = self.scores.shape[0]
        if num_classes == 1:
            return self.targets.new_zeros(1, dtype=torch.int64).expand(self.targets.numel())
        if not is_multilabel(self.targets):
            return positive_column(self.targets, num_classes).clamp(0, num_classes - 1)
        classes = torch.arange(num_classes, device=self.targets.device)
        return classes.unsqueeze(1).expand_as(self.targets).reshape(-1)

    def positives(self, places: Tensor | None, weight: Tensor) -> Positives:
        """Return the rows of :meth:`numerator_weight` at ``places``, with their class's score.

        ``None`` is all of them. Rows of weight 0 keep their score: where it is not finite, the loss
        of the class is nan whatever comes of it.
        """
        class_index = self.own_class()
        if places is None:
            own = self.scores
            if own.shape[0] > 1:
                own = own.gather(0, class_index.view(-1, self.rows))
            return Positives(own.reshape(-1), class_index, weight)
        class_index = class_index[places]
        columns = places % self.rows if is_multilabel(self.targets) else places
        own = self.scores.reshape(-1).gather(0, class_index * self.rows + columns)
        return Positives(own, class_index, weight)

    @property
    def rows(self) -> int:
        """How many rows there are, ``M``."""
        return self.scores.shape[1]


def make_pool(batch: Batch, queue: QueueState) -> Pool:
    """Return the pool of a batch and the queue's rows."""
    dtype, device = batch.logits.dtype, batch.logits.device
    if batch.weight.shape[0] + queue.weight.shape[0] == 0:
        # One empty slot, so that nothing further down meets a dimension of size 0.
        num_classes, multilabel = batch.logits.shape[1], is_multilabel(batch.targets)
        queue = init_queue(1, num_classes, multilabel=multilabel, dtype=dtype, device=device)
    empty = torch.arange(queue.weight.shape[0], device=device) >= queue.fill
    join = _join_entries if is_multilabel(batch.targets) else _join_rows
    targets, absent, other = join(batch, queue, empty)
    return Pool(
        scores=torch.cat([batch.logits.T, queue.scores.to(dtype)], dim=1),
        targets=targets,
        absent=absent,
        other=other,
        negative=other ^ absent,  # every absent row is in `other`
        iid=torch.cat([batch.iid, queue.iid]),
        weight=torch.cat([batch.weight, queue.weight.to(dtype)]),
        batch_rows=batch.weight.shape[0],
    )


def _join_rows(batch: Batch, queue: QueueState, empty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return targets, `absent` and `other` of a :class:`Pool`, ``[M]`` each."""
    num_classes = batch.logits.shape[1]
    targets = torch.cat([batch.targets, queue.targets])
    absent = torch.cat([batch.absent, empty])
    if num_classes == 1:
        return targets, absent, absent | (targets != 1)
    return targets, absent, absent | (targets.clamp(0, num_classes - 1) != targets)


def _join_entries(batch: Batch, queue: QueueState, empty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return targets, `absent` and `other` of a multi-label :class:`Pool`, ``[C, M]`` each."""
    labels = torch.where(batch.absent, -1, batch.positive()).to(torch.int8).T
    targets = torch.cat([labels, queue.targets], dim=1)
    absent = torch.cat([batch.absent.T, empty | (queue.targets < 0)], dim=1)
    return targets, absent, absent | (targets != 1)
