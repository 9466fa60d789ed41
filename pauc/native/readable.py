"""Which tensors native code may read and write by their addresses.

These questions are asked at every step. Between two steps of a model all code has left the caches,
and each frame of Python then costs half a microsecond: hence the loops and the long conditions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn import Parameter

from pauc.core.batch import Rows
from pauc.core.queue import QueueState, compute_dtype, is_multilabel

_TYPES = (Tensor, Parameter)
_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch  # the key of modes that see more than kernels


def is_readable(rows: Rows, queue: QueueState) -> bool:
    """Return whether native code can read the checked rows and the queue by their addresses."""
    logits = rows.logits
    return (
        not is_traced()
        and have_memory(*rows, *queue)
        and not is_dual(logits)
        and compute_dtype(logits, queue.scores) == queue.scores.dtype
        and is_sound(queue)
        and queue.scores.is_contiguous()
        and queue.targets.is_contiguous()
        and queue.iid.is_contiguous()
        and queue.weight.is_contiguous()
    )


def is_watched(rows: Rows, queue: QueueState) -> bool:
    """Return whether a step must consist of operators, or of one, for who looks on.

    A trace would record nothing of what a native call computes; a transform of ``torch.func`` and
    fake tensors have no addresses.
    """
    return get_proxy_mode() is not None or not have_memory(*rows, *queue)


def have_memory(*parts: Tensor | None) -> bool:
    """Return whether all tensors have an address on the CPU, and no transform is under way."""
    if torch._C._are_functorch_transforms_active():
        return False
    try:
        for part in parts:
            if part is None:
                continue
            if type(part) not in _TYPES or not part.is_cpu:
                return False
            if part.data_ptr() == 0 and part.numel() > 0:
                return False
    except RuntimeError:  # a wrapper of torch.func, which there is no public way to ask for
        return False
    return True


def is_traced() -> bool:
    """Return whether a trace records the operators that are called."""
    if torch._C._is_tracing():
        return True
    # Whether there is any mode is a quick question, and which one is not.
    some_mode = torch._C._len_torch_dispatch_stack() > 0
    some_mode = some_mode or torch._C._dispatch_tls_is_dispatch_key_included(_PRE_DISPATCH)
    return some_mode and get_proxy_mode() is not None


def is_dual(part: Tensor) -> bool:
    """Return whether forward-mode derivatives are wanted, which native code does not compute."""
    if forward_ad._current_level < 0:  # not inside of `dual_level`; a quick question, as above
        return False
    return forward_ad.unpack_dual(part).tangent is not None  # type: ignore[no-untyped-call]


def is_sound(queue: QueueState) -> bool:
    """Return whether a queue's tensors have the dtypes and shapes that native code reads."""
    scores, targets, iid, weight, cursor, fill, step = queue
    size = weight.shape
    multilabel = is_multilabel(targets)
    return (
        targets.dtype == (torch.int8 if multilabel else torch.int64)
        and targets.shape == (scores.shape if multilabel else size)
        and scores.shape[1:] == iid.shape == size
        and iid.dtype == torch.bool
        and weight.dtype == scores.dtype
        and not (scores.requires_grad or weight.requires_grad)
        and cursor.dtype == fill.dtype == step.dtype == torch.int64
        and cursor.numel() == fill.numel() == step.numel() == 1
    )


def addresses(*parts: Tensor | None) -> tuple[int, ...]:
    """Return where the tensors lie, 0 for None."""
    return tuple([0 if part is None else part.data_ptr() for part in parts])
