"""How the scores of both classes are spread, and where band and thresholds lie among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pauc.checks import check_band, check_int
from pauc.core.band import band_edges
from pauc.metrics.inputs import check_both_classes
from pauc.plot.canvas import BAND, COLOURS, DASHES, Column, columns_of, new_axes, span

__all__ = ["classes", "score_histogram"]


def score_histogram(
    scores: Tensor,
    targets: Tensor,
    beta: float,
    *,
    alpha: float = 0.0,
    thresholds: Mapping[str, float] | None = None,
    bins: int = 60,
    ignore_index: int = -100,
    ax: Axes | None = None,
) -> Axes:
    """Draw how the scores of both classes are spread, and where the band's edges lie among them.

    Each bar is a share of its own class, so that rare positives are drawn as tall as the negatives;
    the axis is logarithmic, since the band lies in the thin tail of the negatives. The edges are
    the quantiles of the negatives that the loss would use, see :func:`pauc.band_edges`.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype, finite. Several classes: :func:`classes`.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1, both present.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        thresholds: a line for each name; the legend says which shares of the negatives and of the
            positives that are drawn here are strictly above it, as FPR and TPR.
        bins: how many bins, over the range of both classes.
        ignore_index: target of the rows to drop.
        ax: where to draw; None: a new figure.

    Raises:
        TypeError, ValueError: as for :func:`pauc.metrics.roc_curve_in_band`; scores that are not
            finite, or a number of bins below 1.
    """
    check_band(alpha, beta)
    check_int("bins", bins, 1)
    columns = columns_of(scores, targets, ignore_index, None)
    if columns[0].name:
        raise ValueError(
            f"scores must be [N] or [N, 1], got {list(scores.shape)}: see pauc.plot.classes"
        )
    return _draw(columns[0], (alpha, beta), thresholds or {}, bins, new_axes(ax))


def classes(
    scores: Tensor,
    targets: Tensor,
    beta: float,
    *,
    alpha: float = 0.0,
    thresholds: Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
    bins: int = 60,
    ignore_index: int = -100,
) -> Figure:
    """Draw :func:`score_histogram` of each class against all others, side by side.

    Args:
        scores: ``[N, C]``, any real dtype, finite.
        targets: class indices ``[N]``, or multi-label ``[N, C]``, see :mod:`pauc.plot`.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        thresholds: ``C`` numbers, a line in each picture; None: no lines.
        class_names: ``C`` names; None: "class 0", "class 1", ...
        bins: how many bins in each picture.
        ignore_index: target of the rows to drop.

    Raises:
        TypeError, ValueError: as for :func:`score_histogram`; scores of a single class, or another
            number of names or thresholds than of classes.
    """
    check_band(alpha, beta)
    check_int("bins", bins, 1)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or scores.shape[1] < 2:
        raise ValueError("scores must be [N, C] of several classes: see pauc.plot.score_histogram")
    if thresholds is not None and len(thresholds) != scores.shape[1]:
        raise ValueError(f"thresholds must be {scores.shape[1]} numbers, got {len(thresholds)}")
    names = class_names or [f"class {c}" for c in range(scores.shape[1])]
    lines = {} if thresholds is None else dict(zip(names, thresholds, strict=False))
    columns = columns_of(scores, targets, ignore_index, class_names)
    figure, axes = grid(len(columns))
    for column, ax in zip(columns, axes, strict=True):
        own = {"threshold": lines[column.name]} if lines else {}
        _draw(column, (alpha, beta), own, bins, ax)
        ax.set_title(column.name)
        ax.legend(fontsize="x-small")
    return figure


def grid(panels: int) -> tuple[Figure, list[Axes]]:
    """Return a new figure with so many axes, at most three beside each other."""
    across = min(3, panels) if panels != 4 else 2
    down = math.ceil(panels / across)
    figure = plt.figure(figsize=(4.8 * across, 3.6 * down), layout="constrained")
    return figure, [figure.add_subplot(down, across, k + 1) for k in range(panels)]


def _draw(
    column: Column,
    band: tuple[float, float],
    thresholds: Mapping[str, float],
    bins: int,
    ax: Axes,
) -> Axes:
    """Draw one histogram into ``ax``."""
    check_both_classes(column.targets == 1)
    scores, positive = column.scores.double().cpu(), column.targets.cpu() == 1
    if not bool(scores.isfinite().all()):
        infinite = int((~scores.isfinite()).sum())
        raise ValueError(f"scores must be finite to be put in bins, got {infinite} infinite ones")
    edges = band_edges(scores, ~positive, *band)
    t_alpha, t_beta = float(edges.t_alpha), float(edges.t_beta)
    ax.axvspan(t_beta, t_alpha, color=BAND, lw=0, label=f"band, FPR {span(*band)}")
    places = (float(scores.min()), float(scores.max()))
    for name, members, colour in (
        ("negatives", ~positive, COLOURS[0]),
        ("positives", positive, COLOURS[1]),
    ):
        _draw_bars(ax, scores[members], name, colour, bins, places)
    ax.axvline(t_beta, color="black", ls="-", lw=1, label=f"t_beta = {t_beta:.4g}")
    ax.axvline(t_alpha, color="black", ls=":", lw=1, label=f"t_alpha = {t_alpha:.4g}")
    for k, (name, value) in enumerate(thresholds.items()):
        fpr, tpr = (float((scores[side] > value).double().mean()) for side in (~positive, positive))
        label = f"{name} {value:.4g}: FPR {fpr:.3g}, TPR {tpr:.3g}"
        ax.axvline(value, color=COLOURS[2 + k % 4], ls=DASHES[k % 4], label=label)
    ax.set(yscale="log", xlabel="score", ylabel="share of the class (log scale)")
    ax.legend()
    return ax


def _draw_bars(
    ax: Axes, rows: Tensor, name: str, colour: str, bins: int, places: tuple[float, float]
) -> None:
    """Draw the outline of one class's histogram; matplotlib is given counts, not a million rows."""
    counts, edges = np.histogram(rows.numpy(), bins, places)
    middles = (edges[1:] + edges[:-1]) / 2
    ax.hist(
        middles,
        bins=edges.tolist(),
        weights=counts / len(rows),
        histtype="step",
        color=colour,
        label=f"{len(rows):,} {name}",
    )
