"""The queue: past rows, first in, first out, as a tuple of tensors; its size and order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc._public import public
from pauc.checks import check_flag, check_int


@public
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


def is_multilabel(targets: Tensor) -> bool:
    """Return whether a row has a target, or a label, for each class.

    A function, since before 2.11 torch.compile could trace no property of a NamedTuple.
    """
    return targets.ndim == 2


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the dtype of the arithmetic: float64 if any tensor has it, otherwise float32."""
    for tensor in tensors:
        if tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32


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


def check_counters(queue: QueueState) -> None:
    """Raise unless cursor, fill and step can be those of a queue; reads data.

    Raises:
        ValueError: they cannot, as where they are uninitialised memory or have been averaged.
    """
    size = queue.weight.shape[0]
    cursor, fill, step = torch.stack([part.reshape(()) for part in queue[4:]]).tolist()
    # A queue that is not full begins at slot 0, so that its cursor is its fill.
    cursor_fits = 0 <= cursor < max(size, 1) if fill == size else cursor == fill
    if not (0 <= fill <= size and cursor_fits and step >= 0):
        raise ValueError(
            f"the queue must have a fill from 0 to its {size} rows, a cursor below that, equal to "
            f"the fill of a queue that is not full, and a step of 0 or more; got fill={fill}, "
            f"cursor={cursor}, step={step}, which no queue can have. Cure: reset_queue() or "
            "init_queue(), or a sound checkpoint"
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
