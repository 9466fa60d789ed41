"""Calls by which a batch would enter the queue twice, or be lost: each is refused with its cure."""

from __future__ import annotations

import torch
from torch import nn


def refuse_passing_calls(loss: nn.Module) -> None:
    """Raise if a call of ``loss`` that moves its queue cannot be a step of training.

    Raises:
        RuntimeError: inside a backward pass, in a replica of ``DataParallel``, or in a trace.
    """
    name = type(loss).__name__
    # A region that is recomputed calls the loss again when the queue holds the batch: the second
    # loss would have another gradient than the first.
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            f"{name} must be called once for each batch, got a call inside a backward pass: "
            "activation checkpointing computes the region again in which the loss stands. Cure: "
            "compute the logits inside of torch.utils.checkpoint.checkpoint, and the loss outside"
        )
    if "_is_replica" in loss.__dict__:  # it lives for one step, and its queue with it
        raise RuntimeError(
            f"{name} must not stand inside torch.nn.DataParallel, got a call of a replica, whose "
            "queue nobody keeps. Cure: compute the loss from the gathered logits, outside, or "
            "train with DistributedDataParallel"
        )
    if torch._C._is_tracing():
        raise RuntimeError(
            f"{name} must be in eval() for torch.jit.trace, got training: a trace takes the queue "
            "for a constant. Cure: eval(), or torch.export"
        )
