"""The part of an empirical ROC curve over a band of FPR, and the area under it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc._public import public_in
from pauc.arrays import Answer
from pauc.metrics.vertices import Vertices


@public_in("pauc.metrics")
class ROCBand(NamedTuple):
    """Points of an empirical ROC curve, the lowest FPR first; each field is ``[K]`` float64.

    The fields are tensors if the scores are one, else NumPy arrays.
    """

    fpr: Answer  # non-decreasing, share of the negatives with score >= threshold
    tpr: Answer  # non-decreasing, share of the positives with score >= threshold
    thresholds: Answer  # non-increasing


def band_of(vertices: Vertices, alpha: float, beta: float) -> ROCBand:
    """Return the part of the curve with ``alpha <= FPR <= beta``, with a point at both edges."""
    curve = _roc(vertices)
    inside = (curve.fpr >= alpha) & (curve.fpr <= beta)
    pieces = (_edge(curve, alpha), (column[inside] for column in curve), _edge(curve, beta))
    return ROCBand(*(torch.cat(columns) for columns in zip(*pieces, strict=True)))


def area_of(vertices: Vertices, alpha: float, beta: float) -> Tensor:
    """Return the raw area under the curve over the band, 0-dim float64."""
    curve = band_of(vertices, alpha, beta)
    return torch.trapezoid(curve.tpr, curve.fpr)


def check_normalize(normalize: str) -> None:
    """Raise unless the name of a normalisation is known."""
    if normalize not in ("none", "width", "mcclish"):
        raise ValueError(f"normalize must be 'none', 'width' or 'mcclish', got {normalize!r}")


def normalized(area: Tensor, alpha: float, beta: float, normalize: str) -> Tensor:
    """Return a raw area over the band in the form that ``normalize`` names, see `partial_auc`."""
    if normalize == "none":
        return area
    mean_tpr = area / (beta - alpha)
    if normalize == "width":
        return mean_tpr
    # McClish's formula with all three areas divided by the width: in a narrow band the difference
    # of the raw ones, high - low, would lose digits. So would 1 - (alpha + beta) / 2 near FPR 1.
    above_chance = ((1 - alpha) + (1 - beta)) / 2
    return 0.5 * (1 + (mean_tpr - 1 + above_chance) / above_chance)


def _roc(vertices: Vertices) -> ROCBand:
    """Return the whole curve, with a point for each vertex."""
    fp, tp = vertices.fp.double(), vertices.tp.double()
    return ROCBand(fp / fp[-1], tp / tp[-1], vertices.thresholds)


def _edge(curve: ROCBand, fpr: float) -> ROCBand:
    """Return the curve's interpolated point at ``fpr``, or no point where a vertex lies there."""
    at = curve.fpr.new_tensor([fpr])
    right = torch.searchsorted(curve.fpr, at)  # first with FPR >= fpr: at most the last, of FPR 1
    if curve.fpr[right] == at:
        return ROCBand(at[:0], at[:0], at[:0])
    left = right - 1  # not below 0: vertex 0 has FPR 0, and `fpr` is above that
    share = (at - curve.fpr[left]) / (curve.fpr[right] - curve.fpr[left])
    tpr = torch.lerp(curve.tpr[left], curve.tpr[right], share)
    return ROCBand(at, tpr, curve.thresholds[left])
