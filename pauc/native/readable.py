"""Which tensors native code may read and write by their addresses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import Parameter

from pauc.core.batch import Rows
from pauc.core.queue import QueueState, compute_dtype, is_multilabel


def is_readable(rows: Rows, queue: QueueState) -> bool:
    """Return whether native code can read the checked rows and the queue by their addresses."""
    logits = rows.logits
    return (
        not is_traced()
        and _have_memory(rows, queue)
        and not is_dual(logits)
        and compute_dtype(logits, queue.scores) == queue.scores.dtype
        and is_sound(queue)
        and all(part.is_contiguous() for part in queue[:4])
    )


def is_watched(rows: Rows, queue: QueueState) -> bool:
    """Return whether a step must consist of operators, or of one, for who looks on.

    A trace would record nothing of what a native call computes; a transform of ``torch.func`` and
    fake tensors have no addresses.
    """
    return get_proxy_mode() is not None or not _have_memory(rows, queue)


def _have_memory(rows: Rows, queue: QueueState) -> bool:
    """Return whether all tensors have an address, and none is new to a transform."""
    return not torch._C._are_functorch_transforms_active() and all(
        part is None or has_memory(part) for part in (*rows, *queue)
    )


def is_traced() -> bool:
    """Return whether a trace records the operators that are called."""
    if get_proxy_mode() is not None:
        return True
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def has_memory(part: Any) -> bool:
    """Return whether this is a tensor with an address on the CPU."""
    if type(part) not in (Tensor, Parameter) or not part.is_cpu:
        return False
    try:
        return bool(part.data_ptr() != 0 or part.numel() == 0)
    except RuntimeError:  # a wrapper of torch.func, which there is no public way to ask for
        return False


def is_dual(part: Tensor) -> bool:
    """Return whether forward-mode derivatives are wanted, which native code does not compute."""
    return unpack_dual(part).tangent is not None  # type: ignore[no-untyped-call]


def is_sound(queue: QueueState) -> bool:
    """Return whether a queue's tensors have the dtypes and shapes that native code reads."""
    size = queue.weight.shape
    multilabel = is_multilabel(queue.targets)
    return (
        queue.targets.dtype == (torch.int8 if multilabel else torch.int64)
        and queue.targets.shape == (queue.scores.shape if multilabel else size)
        and queue.scores.shape[1:] == queue.iid.shape == size
        and queue.iid.dtype == torch.bool
        and queue.weight.dtype == queue.scores.dtype
        and not (queue.scores.requires_grad or queue.weight.requires_grad)
        and all(part.dtype == torch.int64 and part.numel() == 1 for part in queue[4:])
    )


def addresses(parts: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    """Return where the tensors lie, 0 for None."""
    return tuple([0 if part is None else part.data_ptr() for part in parts])
