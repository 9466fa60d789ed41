"""The passes over all rows of a boosting round, one native loop each."""

from __future__ import annotations

import torch
from torch import Tensor

from pauc.native import extension
from pauc.native.readable import addresses, have_memory


def log_loss_(
    gradient: Tensor,
    hessian: Tensor,
    scores: Tensor,
    weight: Tensor | None,
    *,
    factor: float,
    max_step: float,
    least_curvature: float,
) -> bool:
    """Write the derivatives ``[N]`` of the log-loss as if all rows were negatives, if it can.

    Args:
        gradient, hessian: written to: ``w g`` with ``g = factor * sigmoid(s)``, and ``w h`` with
            ``h`` the slope of ``g``, at least ``g / max_step`` and ``least_curvature``.
        scores, weight: ``[N]`` float64, contiguous like the two above.

    Returns:
        Whether it was done: not without the extension, or for tensors that are not on the CPU.
    """
    tensors = [part for part in (gradient, hessian, scores, weight) if part is not None]
    if extension.ext is None or not have_memory(*tensors):
        return False
    at_scores, at_weight, *written = addresses(scores, weight, gradient, hessian)
    options = factor, max_step, least_curvature
    extension.ext.log_loss(len(scores), at_scores, at_weight, options, *written)
    return True


def marked_rows(marked: Tensor) -> Tensor:
    """Return the rows where ``marked`` ``[N]`` bool is true, int64 and ascending."""
    if extension.ext is None or not have_memory(marked):
        return marked.nonzero().squeeze(1)
    marked, found = marked.contiguous(), torch.empty(len(marked), dtype=torch.int64)
    count = extension.ext.marked_rows(len(marked), marked.data_ptr(), found.data_ptr())
    return found[:count]
