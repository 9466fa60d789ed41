"""From a caller's rows to a checked batch in the dtypes of the arithmetic."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pauc.checks import check_targets, check_weights
from pauc.core.queue import QueueState, compute_dtype, is_multilabel
from pauc.devices import may_look


class Rows(NamedTuple):
    """The rows of a training step as the caller gives them; ``N`` rows, ``C`` classes."""

    logits: Tensor  # [N, C] floating
    targets: Tensor  # [N] or [N, 1]; multi-label [N, C]
    iid_mask: Tensor | None = None  # [N] bool; None: all rows are iid
    sample_weight: Tensor | None = None  # [N]; None: ones


class Batch(NamedTuple):
    """A checked batch of ``N`` rows and ``C`` classes in the dtypes of the arithmetic."""

    logits: Tensor  # [N, C] float32 or float64, attached; rows to ignore are zeros
    targets: Tensor  # [N] int64; multi-label [N, C]
    iid: Tensor  # [N] bool
    weight: Tensor  # [N]
    absent: Tensor  # shape of targets, bool: the target is ignore_index
    row_present: Tensor  # [N] bool, the row is present for some class

    @property
    def present(self) -> Tensor:
        """Return which targets are not ``ignore_index``, in their shape."""
        return ~self.absent

    def positive(self) -> Tensor:
        """Return ``[N, C]`` bool: which targets say that a row is a positive of a class."""
        if is_multilabel(self.targets):
            return self.targets == 1
        num_classes = self.logits.shape[1]
        classes = torch.arange(num_classes, device=self.targets.device)
        return positive_column(self.targets, num_classes).unsqueeze(1) == classes

    def count_positives(self) -> Tensor:
        """Return ``[C]`` int64: how many rows are positives of each class."""
        return (self.positive() & per_class(self.present)).sum(dim=0)

    def present_weight(self) -> Tensor:
        """Return ``[C]``: what the rows that are present for each class weigh together."""
        weight = torch.where(per_class(self.present), self.weight.unsqueeze(1), 0.0)
        return weight.sum(dim=0).expand(self.logits.shape[1])

    def cross_entropy(self, total: Tensor) -> Tensor:
        """Return ``[C]``: each class's binary cross-entropies by weight, as a share of ``total``.

        ``total`` is :meth:`present_weight`, or the sum of it over several batches. Where it is 0,
        the entropy is 0.
        """
        entropy = binary_cross_entropy_with_logits(
            self.logits, self.positive().to(self.logits.dtype), reduction="none"
        )
        weighted = torch.where(per_class(self.present), entropy, 0.0) * self.weight.unsqueeze(1)
        return weighted.sum(dim=0) / torch.where(total > 0, total, 1.0)


def make_batch(
    rows: Rows,
    queue: QueueState,
    ignore_index: int,
    *,
    check_values: bool,
    may_wait: bool = False,
) -> Batch:
    """Return the batch of rows that have passed :func:`check_rows`.

    Args:
        rows: what the caller gave.
        queue: decides the dtype of the arithmetic, and whether targets are multi-label.
        ignore_index: target of what is absent.
        check_values: look at targets and weights; on an accelerator the device does,
        may_wait: unless the host may wait for it.

    Raises:
        ValueError: a target or a weight that is not legal; names the first offenders.
    """
    logits, targets, iid_mask, sample_weight = rows
    targets = targets if is_multilabel(queue.targets) else targets.reshape(-1)
    given, targets = targets, targets.to(torch.int64)
    absent = targets == ignore_index
    may_wait = may_wait or may_look(targets.device)
    if check_values:
        check_targets(given, logits.shape[1], ignore_index, absent=absent, wait=may_wait)
    dtype = compute_dtype(logits, queue.scores)
    row_present = ~(absent.all(dim=1) if is_multilabel(queue.targets) else absent)
    # Filled, not multiplied: nan in an ignored row must reach neither loss nor gradient.
    weight = row_present.to(dtype)
    if sample_weight is not None:
        weight = sample_weight.detach().to(dtype)
        if check_values:
            check_weights(weight, row_present, wait=may_wait)
        weight = weight.masked_fill(~row_present, 0.0)
    return Batch(
        logits=logits.to(dtype).masked_fill(per_class(absent), 0.0),
        targets=targets,
        iid=row_present if iid_mask is None else iid_mask,  # of absent rows it has no meaning
        weight=weight,
        absent=absent,
        row_present=row_present,
    )


def per_class(absent: Tensor) -> Tensor:
    """Return ``[N, C]``, or ``[N, 1]`` where a row is absent for all classes or for none."""
    return absent if absent.ndim == 2 else absent.unsqueeze(1)


def positive_column(targets: Tensor, num_classes: int) -> Tensor:
    """Return the column whose positive a class index is, outside the columns for none."""
    # Binary: target 1 is the positive of column 0, as target c is of column c otherwise.
    return targets - 1 if num_classes == 1 else targets


def check_rows(rows: Rows, queue: QueueState) -> None:
    """Raise unless types, shapes and devices fit together and fit the queue; reads no data."""
    if not isinstance(queue, QueueState):
        raise TypeError(
            f"queue must be a QueueState, from init_queue or the call before, "
            f"got {type(queue).__name__}"
        )
    _check_types(rows)
    logits = rows.logits
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(f"logits must be [N, C] with C >= 1, got {tuple(logits.shape)}")
    _check_shapes(rows, is_multilabel(queue.targets))
    if queue.scores.shape[0] != logits.shape[1]:
        raise ValueError(
            f"logits must have the queue's {queue.scores.shape[0]} columns, "
            f"got {tuple(logits.shape)}"
        )
    if queue.scores.device != logits.device:
        raise ValueError(
            f"the queue must be on the logits' device {logits.device}, got {queue.scores.device}"
        )


def _check_types(rows: Rows) -> None:
    for name, value in zip(Rows._fields, rows, strict=True):
        optional = name in ("iid_mask", "sample_weight")
        if not isinstance(value, Tensor) and not (optional and value is None):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    logits, targets, iid_mask, weight = rows
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if targets.dtype.is_complex:
        raise TypeError(f"targets must be whole numbers, got {targets.dtype}")
    if iid_mask is not None and iid_mask.dtype != torch.bool:
        raise TypeError(f"iid_mask must be bool, got {iid_mask.dtype}")
    if weight is not None and (weight.is_complex() or weight.dtype == torch.bool):
        raise TypeError(f"sample_weight must be real numbers, got {weight.dtype}")


def _check_shapes(rows: Rows, multilabel: bool) -> None:
    logits, targets, iid_mask, sample_weight = rows
    count = logits.shape[0]
    one_each: list[tuple[int, ...]] = [(count,)]
    of_targets = [tuple(logits.shape)] if multilabel else [(count,), (count, 1)]
    _check_shape("targets", targets, of_targets, logits, multilabel)
    if iid_mask is not None:
        _check_shape("iid_mask", iid_mask, one_each, logits)
    if sample_weight is not None:
        _check_shape("sample_weight", sample_weight, one_each, logits)


def _check_shape(
    name: str,
    value: Tensor,
    allowed: list[tuple[int, ...]],
    logits: Tensor,
    multilabel: bool | None = None,
) -> None:
    if value.shape not in allowed:
        also = "" if multilabel is None else f" and multilabel={multilabel}"
        shapes = " or ".join(str(list(shape)) for shape in allowed)
        raise ValueError(
            f"{name} must be {shapes} for logits {tuple(logits.shape)}{also}, "
            f"got {tuple(value.shape)}"
        )
    if value.device != logits.device:
        raise ValueError(
            f"{name} must be on the logits' device {logits.device}, got {value.device}"
        )
