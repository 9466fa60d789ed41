"""ROC curves over the band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import torch
from matplotlib.axes import Axes
from torch import Tensor

from pauc.checks import check_band
from pauc.metrics.inputs import check_both_classes
from pauc.metrics.roc import roc_curve_in_band
from pauc.plot.canvas import BAND, COLOURS, DASHES, Column, columns_of, new_axes, span
from pauc.resampling import tpr_interval

__all__ = ["roc"]

_RIBBON_POINTS = 48
_DIGITS = 4 * torch.finfo(torch.float64).eps  # to within which `tpr_at_fpr` reads an FPR


def roc(
    scores: Tensor | Mapping[str, Tensor],
    targets: Tensor,
    beta: float,
    *,
    alpha: float = 0.0,
    confidence: float | None = None,
    class_names: Sequence[str] | None = None,
    ignore_index: int = -100,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves on a logarithmic FPR axis, with the band ``[alpha, beta]`` shaded.

    A linear axis would squeeze a budget of 0.5 % into the left edge. The curve is a staircase: at
    each FPR the best TPR among the thresholds that can be deployed within it, as in
    :func:`pauc.metrics.tpr_at_fpr`. Its value at ``beta`` is marked, and stands in the legend. The
    axis begins at the FPR of a single false alarm, or at a tenth of ``beta`` if that is less.

    With ``confidence`` each curve has a ribbon: at each FPR by itself, an interval of the TPR by
    the bootstrap, as :func:`pauc.intervals.tpr_at_fpr_interval` gives. A curve as a whole leaves
    its ribbon more often.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype; of several classes ``[N, C]``, a curve for
            each; or a mapping from names of models to such tensors.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1; of several classes see :mod:`pauc.plot`.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        confidence: above 0 and below 1; None: no ribbons.
        class_names: ``C`` names; None: "class 0", "class 1", ...
        ignore_index: target of the rows to drop.
        ax: where to draw; None: a new figure.

    Raises:
        TypeError: as for :func:`pauc.metrics.roc_curve_in_band`.
        ValueError: as there; ``scores`` without any model; ``confidence`` out of its range; or
            another number of names than of classes.
    """
    check_band(alpha, beta)
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence must be above 0 and below 1, got {confidence!r}")
    models = scores if isinstance(scores, Mapping) else {"": scores}
    if not models:
        raise ValueError("scores must hold at least one model, got none")
    curves = [
        column._replace(name=", ".join(filter(None, (name, column.name))) or "model")
        for name, own in models.items()
        for column in columns_of(own, targets, ignore_index, class_names)
    ]
    for column in curves:
        check_both_classes(column.targets == 1)
    left = min(beta / 10, *(1 / int((column.targets == 0).sum()) for column in curves))
    ax = new_axes(ax)
    ax.axvspan(max(alpha, left), beta, color=BAND, lw=0, label=f"band, FPR {span(alpha, beta)}")
    for column, colour, dash in zip(curves, cycle(COLOURS), cycle(DASHES), strict=False):
        _draw_curve(ax, column, beta, left, colour, dash)
        if confidence is not None:
            _draw_ribbon(ax, column, left, colour, confidence)
    ax.set(xscale="log", xlim=(left, 1), ylim=(0, 1.01))
    ax.set(xlabel="false-positive rate (log scale)", ylabel="true-positive rate")
    ax.legend()
    return ax


def _draw_curve(ax: Axes, column: Column, beta: float, left: float, colour: str, dash: str) -> None:
    """Draw one staircase, with its value at ``beta`` marked."""
    fpr, tpr = _staircase(column)
    at_beta = float(tpr[torch.searchsorted(fpr, beta * (1 + _DIGITS), right=True) - 1])
    ax.plot(
        fpr.clamp(min=left).tolist(),
        tpr.tolist(),
        dash,
        color=colour,
        drawstyle="steps-post",
        label=f"{column.name}: TPR {at_beta:.3f} at FPR {beta:.3g}",
    )
    ax.plot([beta], [at_beta], "o", color=colour)


def _draw_ribbon(ax: Axes, column: Column, left: float, colour: str, confidence: float) -> None:
    """Draw the interval of the TPR at FPRs that are evenly spaced on the axis."""
    at = torch.logspace(torch.tensor(left).log10(), 0, _RIBBON_POINTS, dtype=torch.float64)
    at = at.clamp(max=1)
    found = tpr_interval(column.scores, column.targets, at, confidence=confidence)
    ax.fill_between(
        at.tolist(), found.low.tolist(), found.high.tolist(), color=colour, alpha=0.2, lw=0
    )


def _staircase(column: Column) -> tuple[Tensor, Tensor]:
    """Return FPR and TPR ``[K]``, float64, of the points of the ROC curve at which the TPR rises.

    With a point for each negative too, a picture of a million rows would be too large to save.
    """
    curve = roc_curve_in_band(column.scores, column.targets)
    fpr, tpr = curve.fpr.cpu(), curve.tpr.cpu()
    rises = torch.ones_like(tpr, dtype=torch.bool)
    rises[1:-1] = tpr[1:-1] > tpr[:-2]
    return fpr[rises], tpr[rises]
