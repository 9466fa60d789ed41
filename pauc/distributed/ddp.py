"""What DDP has to be told of a model that carries a loss."""

from __future__ import annotations

from torch import nn

from pauc.core.queue import QueueState


def exclude_queues(model: nn.Module) -> nn.Module:
    """Tell DDP to leave the queues inside ``model`` alone; call it before ``DDP(model)``.

    DDP broadcasts a model's buffers in every forward pass. The queues are equal on all ranks, so
    that this changes nothing and costs the size of the queue. Not needed where the loss stands
    outside the wrapped model, or with ``DDP(model, broadcast_buffers=False)``.
    """
    ignored = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    for name, module in model.named_modules():
        if isinstance(getattr(module, "queue", None), QueueState):
            prefix = f"{name}." if name else ""
            ignored |= {f"{prefix}{buffer}" for buffer, _ in module.named_buffers()}
    tell = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    tell(model, sorted(ignored))  # type: ignore[no-untyped-call]
    return model
