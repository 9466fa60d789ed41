"""Which tensors kernels may read and write by their addresses; all else declines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import Parameter

from pauc.core.batch import Rows
from pauc.core.queue import QueueState

_LOGITS = (torch.float32, torch.float16, torch.bfloat16)
_TARGETS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def is_readable(rows: Rows, queue: QueueState) -> bool:
    """Return whether the kernels can take a step of the checked rows and the queue.

    They must not where operators are watched: a trace would record nothing of what they compute.
    """
    return (
        get_proxy_mode() is None
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and rows.logits.dtype in _LOGITS
        and rows.targets.dtype in (*_TARGETS, *_LOGITS, torch.float64)
        and rows.logits.shape[0] > 0
        and all(part is None or has_memory(part) for part in (*rows, *queue))
        and not any(part is not None and part.is_neg() for part in rows)
        and unpack_dual(rows.logits).tangent is None  # type: ignore[no-untyped-call]
        and _is_sound(queue)
    )


def has_memory(part: Any) -> bool:
    """Return whether this is a plain tensor with an address."""
    if type(part) not in (Tensor, Parameter):
        return False
    try:
        return bool(part.data_ptr() != 0 or part.numel() == 0)
    except RuntimeError:  # a wrapper of torch.func, which there is no public way to ask for
        return False


def _is_sound(queue: QueueState) -> bool:
    """Return whether a queue's tensors have the dtypes, shapes and order that kernels read."""
    size = queue.weight.shape
    of_targets = (torch.int8, queue.scores.shape) if queue.multilabel else (torch.int64, size)
    return (
        queue.scores.dtype == queue.weight.dtype == torch.float32
        and (queue.targets.dtype, queue.targets.shape) == of_targets
        and queue.iid.dtype == torch.bool
        and queue.scores.shape[1:] == queue.iid.shape == size
        and not (queue.scores.requires_grad or queue.weight.requires_grad)
        and all(part.is_contiguous() for part in queue[:4])
        and all(part.dtype == torch.int64 and part.numel() == 1 for part in queue[4:])
    )
