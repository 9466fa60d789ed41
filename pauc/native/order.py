"""The order of many scores, by their digits."""

from __future__ import annotations

import torch
from torch import Tensor

from pauc.native import extension
from pauc.native.readable import have_memory


def ascending_order(scores: Tensor) -> Tensor:
    """Return ``[N]`` int64: the rows in ascending order of scores ``[N]`` in float64, not nan."""
    if extension.ext is None or not have_memory(scores):
        return scores.argsort()
    scores, order = (
        scores.resolve_neg().contiguous(),
        torch.empty(len(scores), dtype=torch.int64, device="cpu"),
    )
    extension.ext.ascending_order(len(scores), scores.data_ptr(), order.data_ptr())
    return order
