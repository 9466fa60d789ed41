"""A node of an autograd graph that tells when the graph is gone."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor


class _Witness(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return gradient


def with_witness(values: Tensor) -> tuple[Tensor, weakref.ref[Any]]:
    """Return the values through a node of their own, and a reference that dies with that node.

    The node of a Python function is a Python object that the graph owns: as long as anything holds
    the graph, in Python or not, the reference is alive.
    """
    out = _Witness.apply(values)
    return out, weakref.ref(out.grad_fn)
