"""From a caller's arguments to the pool: checks, the rows of batch and queue, and subsampling."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pauc.checks import check_rows, check_targets, check_weights, is_multilabel
from pauc.config import LossConfig, PosNumerator
from pauc.core.queue import QueueState, compute_dtype, init_queue
from pauc.core.surrogates import Positives


class Batch(NamedTuple):
    """A checked batch of ``N`` rows and ``C`` classes in the dtypes of the arithmetic."""

    logits: Tensor  # [N, C] float32 or float64, attached; rows to ignore are zeros
    targets: Tensor  # [N] int64; multi-label [N, C]
    iid: Tensor  # [N] bool
    weight: Tensor  # [N]
    present: Tensor  # shape of targets, bool: the target is not ignore_index

    def positive(self) -> Tensor:
        """Return ``[N, C]`` bool: which targets say that a row is a positive of a class."""
        if is_multilabel(self.targets):
            return self.targets == 1
        num_classes = self.logits.shape[1]
        classes = torch.arange(num_classes, device=self.targets.device)
        return _label(self.targets, num_classes).unsqueeze(1) == classes

    def present_rows(self) -> Tensor:
        """Return how many rows are present: ``[]``, or ``[C]`` where classes differ in that."""
        return self.present.sum(dim=0)

    def cross_entropy(self) -> Tensor:
        """Return ``[C]``: the mean binary cross-entropy of each class over its present rows."""
        entropy = binary_cross_entropy_with_logits(
            self.logits, self.positive().to(self.logits.dtype), reduction="none"
        )
        present = _per_class(self.present)
        return torch.where(present, entropy, 0.0).sum(dim=0) / self.present_rows().clamp(min=1)


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


class Subsample(NamedTuple):
    """What of the pool enters the surrogate, and how many rows or places each stands for.

    A multiplicity is the inverse of the chance to be kept; 0 is padding.
    """

    columns: Tensor  # [K] int64, of the negatives
    multiplicity: Tensor  # [K]
    places: Tensor  # [L] int64, of the positives, in the pool's `numerator_weight`
    place_multiplicity: Tensor  # [L]


def make_batch(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: LossConfig,
    iid_mask: Tensor | None,
    sample_weight: Tensor | None,
    read_values: bool,
) -> Batch:
    """Return the checked batch; ``read_values`` allows the checks that look at the data.

    Raises:
        TypeError: integer logits, or an argument that is no tensor.
        ValueError: shapes, devices or values that do not fit; names the first offenders.
    """
    check_rows(logits, targets, queue, iid_mask, sample_weight)
    targets = targets if is_multilabel(queue.targets) else targets.reshape(-1)
    if read_values:
        check_targets(targets, logits.shape[1], config.ignore_index)
    targets = targets.to(torch.int64)
    present = targets != config.ignore_index
    dtype = compute_dtype(logits, queue.scores)
    row_present = present.any(dim=1) if is_multilabel(queue.targets) else present
    ones = torch.ones_like(row_present)
    weight = (ones if sample_weight is None else sample_weight.detach()).to(dtype)
    if read_values and sample_weight is not None:
        check_weights(weight, present)
    return Batch(
        # `where`, not a product: nan in an ignored row must reach neither loss nor gradient.
        logits=torch.where(_per_class(present), logits.to(dtype), 0.0),
        targets=targets,
        iid=ones if iid_mask is None else iid_mask,
        weight=torch.where(row_present, weight, 0.0),
        present=present,
    )


def _per_class(present: Tensor) -> Tensor:
    """Return ``[N, C]``, or ``[N, 1]`` where that is the same for all classes."""
    return present if present.ndim == 2 else present.unsqueeze(1)


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
    label = _label(torch.cat([batch.targets, queue.targets]), num_classes)
    known = present & (label >= 0) & (label < num_classes)
    return torch.where(known, label, -1), present


def _labels_of_entries(batch: Batch, queue: QueueState, held: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[C, M]``: the class where its positive is, -1 elsewhere; and which are present."""
    present = torch.cat([batch.present.T, held & (queue.targets >= 0)], dim=1)
    positive = torch.cat([batch.positive().T, queue.targets == 1], dim=1)
    classes = torch.arange(batch.logits.shape[1], device=held.device).unsqueeze(1)
    return torch.where(present & positive, classes, -1), present


def _label(targets: Tensor, num_classes: int) -> Tensor:
    """Return the column whose positive a target is, outside the columns for none."""
    # Binary: target 1 is the positive of column 0, as target c is of column c otherwise.
    return targets - 1 if num_classes == 1 else targets


def subsample(pool: Pool, max_pool_size: int, step: Tensor) -> Subsample:
    """Return at most ``max_pool_size`` columns, drawn at random within each target's rows.

    Every observed target keeps a quota, the places that remain are shared out in proportion to its
    further rows, and within a target each row has the same chance. So the sums over kept rows,
    each times its multiplicity, are unbiased (Horvitz and Thompson, 1952), and since targets are
    drawn independently, so are sums over pairs of a positive and a negative.

    Multi-label, a row has many targets. Then that many columns are drawn for the negatives, each
    with the same chance, and independently as many places of positives, with a quota a class.

    The draw is a hash of ``step`` and the column, not a global generator: the same state gives the
    same draw, on any device and on every rank.
    """
    dtype = pool.scores.dtype
    if is_multilabel(pool.label):
        rows = torch.where(pool.present.any(dim=0), 0, 1)  # absent rows sort last
        positive = torch.where(pool.label >= 0, pool.label, pool.label.shape[0]).reshape(-1)
        drawn = _draw(rows, 1, max_pool_size, 2 * step, dtype)
        places = _draw(positive, pool.label.shape[0], max_pool_size, 2 * step + 1, dtype)
        return Subsample(*drawn, *places)
    num_strata = max(pool.scores.shape[0], 2)
    stratum = torch.where(pool.label >= 0, pool.label, num_strata - 1)  # binary: 1 is negative
    stratum = torch.where(pool.present, stratum, num_strata)
    drawn = _draw(stratum, num_strata, max_pool_size, step, dtype)
    return Subsample(*drawn, *drawn)


def _draw(
    stratum: Tensor, num_strata: int, count: int, key: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return at most ``count`` of the entries below ``num_strata``, and their multiplicity."""
    count = min(count, stratum.shape[0])
    sizes = torch.zeros(num_strata + 1, dtype=torch.int64, device=stratum.device)
    sizes = sizes.index_add(0, stratum, torch.ones_like(stratum))
    sizes = torch.where(torch.arange(num_strata + 1, device=sizes.device) < num_strata, sizes, 0)
    kept = _allocate(sizes, count)

    shuffled = _hash(key, stratum.shape[0], stratum.device).argsort()
    order = shuffled[stratum[shuffled].argsort(stable=True)]
    ordered = stratum[order]
    start = sizes.cumsum(0) - sizes
    rank = torch.arange(order.shape[0], device=order.device) - start[ordered]
    chosen = rank < kept[ordered]
    # Chosen entries first, in a static number of places.
    first = (~chosen).to(torch.uint8).argsort(stable=True)[:count]
    multiplicity = sizes.to(dtype) / kept.clamp(min=1).to(dtype)
    return order[first], torch.where(chosen[first], multiplicity[ordered[first]], 0.0)


def _allocate(sizes: Tensor, places: int) -> Tensor:
    """Return how many rows of each stratum are kept: a quota, the rest in proportion."""
    quota = max(1, places // (2 * (sizes.shape[0] - 1)))
    base = sizes.clamp(max=quota)
    further = sizes - base
    spare = (places - base.sum()).clamp(min=0)
    share = spare.double() * further.double() / further.sum().clamp(min=1).double()
    return base + torch.minimum(share.floor().long(), further)


def _hash(step: Tensor, count: int, device: torch.device) -> Tensor:
    """Return ``[count]`` pseudo-random int64, one per column (the mixer of splitmix64)."""
    x = (
        torch.arange(1, count + 1, device=device) * -7046029254386353131
        + step * 2685821657736338717
    )
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        # Right shifts of int64 carry the sign; masking makes them logical.
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
