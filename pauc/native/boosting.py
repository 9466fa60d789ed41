"""A boosting round as one native call, and the passes over all rows of a round that is none."""

from __future__ import annotations

import torch
from torch import Tensor

from pauc.native import extension
from pauc.native.options import INTERPOLATIONS
from pauc.native.readable import addresses, have_memory
from pauc.native.sweep import table_of
from pauc.pairs.links import Link


def band_round_(
    gradient: Tensor,
    hessian: Tensor,
    scores: Tensor,
    weight: Tensor | None,
    positives: Tensor,
    *,
    band: tuple[float, float, str],
    weights: tuple[float, float],
    max_step: float,
    least_curvature: float,
    link: Link,
) -> bool:
    """Write the derivatives ``[N]`` of log-loss and pairs in the band, if it can.

    Args:
        gradient, hessian: written to.
        scores, weight: ``[N]`` float64, finite, contiguous like the two above; no weight is
            negative.
        positives: ``[P]`` int64, rows in ascending order.
        band: alpha, beta and the interpolation of its edges.
        weights: of log-loss and pairs.
        max_step, least_curvature: lower bounds of the Hessian, as :func:`log_loss_` has them.
        link: of the pairs.

    Returns:
        Whether it was done: not without the extension, for tensors that are not on the CPU, where
        positives or negatives weigh nothing, or where no negative lies in the band.
    """
    alpha, beta, interpolation = band
    if extension.ext is None or not have_memory(gradient, hessian, scores, weight, positives):
        return False
    terms = table_of(link.first, link.second)
    done: bool = extension.ext.band_round(
        len(scores), *addresses(scores, weight), len(positives), positives.data_ptr(),
        (alpha, beta, INTERPOLATIONS[interpolation]), (*weights, max_step, least_curvature),
        *addresses(terms, gradient, hessian),
    )  # fmt: skip
    return done


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
    if extension.ext is None or not have_memory(gradient, hessian, scores, weight):
        return False
    at_scores, at_weight, *written = addresses(scores, weight, gradient, hessian)
    options = factor, max_step, least_curvature
    extension.ext.log_loss(len(scores), at_scores, at_weight, options, *written)
    return True


def marked_rows(marked: Tensor) -> Tensor:
    """Return the rows where ``marked`` ``[N]`` bool is true, int64 and ascending."""
    if extension.ext is None or not have_memory(marked):
        return marked.nonzero().squeeze(1)
    marked, found = marked.contiguous(), torch.empty(len(marked), dtype=torch.int64, device="cpu")
    count = extension.ext.marked_rows(len(marked), marked.data_ptr(), found.data_ptr())
    return found[:count]
