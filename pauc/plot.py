"""Pictures of a model at its budget: ROC curves over the band, scores, diagnostics over training.

Needs matplotlib: ``pip install 'torch-pauc[plot]'``. ``import pauc`` does not import this module.

Every function draws into ``ax``, or into a new figure, and returns the ``Axes``: titles, limits and
files are the caller's. No function shows a figure or changes matplotlib's global style. Colours are
those of Okabe and Ito (2008), and neighbouring lines differ in their dashes too, so that a reader
who is colour-blind, or has a grey print, can tell the lines apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_band, check_int
from pauc.core.band import band_edges
from pauc.metrics.roc import roc_curve_in_band, tpr_at_fpr
from pauc.presets import STARVED

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
except ImportError as error:
    raise ImportError(
        "pauc.plot needs matplotlib, which is not installed. Cure: pip install 'torch-pauc[plot]'"
    ) from error

__all__ = ["roc", "score_histogram", "training"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("--", "-", ":", "-.")
_BAND = "0.90"  # light grey

# What the axis of a diagnostic says; any other key is its own label.
_LABELS = {
    "t_alpha": "score at FPR alpha",
    "t_beta": "score at FPR beta",
    "edges": "score at the band's edges",
    "tau_eff": "width of the link (logits)",
    "pauc": "partial AUC of the pool",
    "pauc_var": "variance of the contributions",
    "band_neg_count": "negatives in the band",
    "grad_pos_count": "positives of the batch",
    "ref_count": "reference rows",
    "realised_fpr": "realised FPR",
}

History = Sequence[Mapping[str, Any]] | Mapping[str, Any]


def roc(
    scores: ArrayLike | Mapping[str, ArrayLike],
    targets: ArrayLike,
    beta: float,
    *,
    alpha: float = 0.0,
    intervals: Mapping[str, tuple[Any, Any, Any]] | None = None,
    ignore_index: int = -100,
    ax: Axes | None = None,
) -> Axes:
    """Draw ROC curves on a logarithmic FPR axis, with the band ``[alpha, beta]`` shaded.

    A linear axis would squeeze a budget of 0.5 % into the left edge. The curve is a staircase: at
    each FPR the best TPR among the thresholds that can be deployed within it, as in
    :func:`pauc.metrics.tpr_at_fpr`. Its value at ``beta`` is marked, and stands in the legend. The
    axis begins at the FPR of a single false alarm, or at a tenth of ``beta`` if that is less.

    Args:
        scores: ``[N]`` or ``[N, 1]``, a tensor, an array, a column of a data frame or a list; or a
            mapping from names to such scores.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1, likewise.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        intervals: a mapping from names in ``scores`` (``"model"`` if that is one tensor) to three
            sequences ``[K]``: FPRs, and the lower and the upper end of an interval for the TPR at
            each of them. Drawn as a ribbon.
        ignore_index: target of the rows to drop.
        ax: where to draw; None: a new figure.

    Raises:
        TypeError: as for :func:`pauc.metrics.roc_curve_in_band`.
        ValueError: as there; ``scores`` without any model, or an interval for a name that is not in
            ``scores``.
    """
    check_band(alpha, beta)
    named = scores if isinstance(scores, Mapping) else {"model": scores}
    models = {name: as_tensor(own, "scores").cpu() for name, own in named.items()}
    targets = as_tensor(targets, "targets").cpu()
    intervals = intervals or {}
    unknown = sorted(set(intervals) - set(models))
    if not models or unknown:
        raise ValueError(
            f"intervals must be for names in scores, {sorted(models)}, got {unknown}"
            if unknown
            else "scores must hold at least one model, got none"
        )
    curves = {name: _staircase(s, targets, ignore_index) for name, s in models.items()}
    negatives = int(((targets != 1) & (targets != ignore_index)).sum())
    left = min(1 / negatives, beta / 10)
    ax = _axes(ax)
    ax.axvspan(max(alpha, left), beta, color=_BAND, lw=0, label=f"band, FPR {_span(alpha, beta)}")
    styles = zip(curves.items(), cycle(_COLOURS), cycle(_DASHES), strict=False)
    for (name, (fpr, tpr)), colour, dash in styles:
        at_beta = float(tpr_at_fpr(models[name], targets, beta, ignore_index=ignore_index))
        ax.plot(
            fpr.clamp(min=left).tolist(),
            tpr.tolist(),
            dash,
            color=colour,
            drawstyle="steps-post",
            label=f"{name}: TPR {at_beta:.3f} at FPR {beta:.3g}",
        )
        ax.plot([beta], [at_beta], "o", color=colour)
        if name in intervals:
            at, low, high = (_numbers(part) for part in intervals[name])
            ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    ax.set(xscale="log", xlim=(left, 1), ylim=(0, 1.01))
    ax.set(xlabel="false-positive rate (log scale)", ylabel="true-positive rate")
    ax.legend()
    return ax


def score_histogram(
    scores: ArrayLike,
    targets: ArrayLike,
    beta: float,
    *,
    alpha: float = 0.0,
    bins: int = 60,
    ignore_index: int = -100,
    ax: Axes | None = None,
) -> Axes:
    """Draw how the scores of both classes are spread, and where the band's edges lie among them.

    Each bar is a share of its own class, so that rare positives are drawn as tall as the negatives;
    the axis is logarithmic, since the band lies in the thin tail of the negatives. The edges are
    the quantiles of the negatives that the loss would use, see :func:`pauc.band_edges`.

    Args:
        scores: ``[N]`` or ``[N, 1]``, finite; a tensor, an array, a column of a data frame or a
            list.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1, both present, likewise.
        alpha, beta: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        bins: how many bins, over the range of both classes.
        ignore_index: target of the rows to drop.
        ax: where to draw; None: a new figure.

    Raises:
        TypeError, ValueError: as for :func:`pauc.metrics.roc_curve_in_band`; scores that are not
            finite, or a number of bins below 1.
    """
    check_int("bins", bins, 1)
    scores, targets = as_tensor(scores, "scores"), as_tensor(targets, "targets")
    roc_curve_in_band(scores, targets, alpha, beta, ignore_index=ignore_index)  # for its checks
    scores, targets = scores.reshape(-1).double().cpu(), targets.reshape(-1).cpu()
    kept = targets != ignore_index
    scores, positive = scores[kept], targets[kept] == 1
    if not bool(scores.isfinite().all()):
        infinite = int((~scores.isfinite()).sum())
        raise ValueError(f"scores must be finite to be put in bins, got {infinite} infinite ones")
    edges = band_edges(scores, ~positive, alpha, beta)
    t_alpha, t_beta = float(edges.t_alpha), float(edges.t_beta)
    ax = _axes(ax)
    ax.axvspan(t_beta, t_alpha, color=_BAND, lw=0, label=f"band, FPR {_span(alpha, beta)}")
    span = (float(scores.min()), float(scores.max()))
    for name, members, colour in (
        ("negatives", ~positive, _COLOURS[0]),
        ("positives", positive, _COLOURS[1]),
    ):
        rows = scores[members].tolist()
        ax.hist(
            rows,
            bins=bins,
            range=span,
            weights=[1 / len(rows)] * len(rows),
            histtype="step",
            color=colour,
            label=f"{len(rows):,} {name}",
        )
    ax.axvline(t_beta, color="black", ls="-", lw=1, label=f"t_beta = {t_beta:.4g}")
    ax.axvline(t_alpha, color="black", ls=":", lw=1, label=f"t_alpha = {t_alpha:.4g}")
    ax.set(yscale="log", xlabel="score", ylabel="share of the class (log scale)")
    ax.legend()
    return ax


def training(
    history: History,
    key: str,
    *,
    steps: Sequence[float] | None = None,
    class_index: int = 0,
    beta: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one diagnostic over training; one call and one ``Axes`` for each.

    Where a class was invalid its value is nan, and the line has a gap. For two keys a dotted line
    is drawn to compare with: for ``"band_neg_count"`` at 10 rows, with fewer of which the loss
    warns of starvation, and for ``"realised_fpr"`` at ``beta``, around which it should scatter.

    Args:
        history: the ``stats`` of the loss, one dict for each step: ``history.append(stats)``. Or
            one dict of sequences ``[T]`` or ``[T, C]``. Tensors or numbers; a caller's own keys
            are drawn like any other.
        key: which diagnostic to draw; ``"edges"`` draws ``t_alpha`` and ``t_beta`` together.
        steps: ``[T]``, the training step of each entry; None: 0, 1, 2, ...
        class_index: which of the ``C`` classes, from 0.
        beta: the band's outer edge, drawn beside ``"realised_fpr"``.
        ax: where to draw; None: a new figure.

    Raises:
        TypeError: ``class_index`` is no integer.
        ValueError: a history without entries, a key or class that an entry does not have, or
            ``steps`` of another length.
    """
    check_int("class_index", class_index, 0)
    keys = ("t_alpha", "t_beta") if key == "edges" else (key,)
    lines = {name: _series(history, name, class_index) for name in keys}
    length = len(lines[keys[0]])
    at = list(range(length)) if steps is None else _numbers(steps)
    if len(at) != length:
        raise ValueError(f"steps must have one entry for each of {length}, got {len(at)}")
    ax = _axes(ax)
    for (name, values), colour, dash in zip(lines.items(), _COLOURS, ("-", "--"), strict=False):
        ax.plot(at, values, dash, color=colour, label=name)
    if key == "band_neg_count":
        ax.axhline(STARVED, color="black", ls=":", label=f"starved below {STARVED}")
    if key == "realised_fpr" and beta is not None:
        ax.axhline(beta, color="black", ls=":", label=f"beta = {beta:g}")
    ax.set(xlabel="training step", ylabel=_LABELS.get(key, key))
    if len(ax.get_lines()) > 1:
        ax.legend()
    return ax


def _axes(ax: Axes | None) -> Axes:
    """Return ``ax``, or the axes of a new figure."""
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _span(alpha: float, beta: float) -> str:
    """Return the band as a legend shows it."""
    return f"{alpha:g} to {beta:g}"


def _staircase(scores: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return FPR and TPR ``[K]``, float64, of the points of the ROC curve at which the TPR rises.

    With a point for each negative too, a picture of a million rows would be too large to save.
    """
    curve = roc_curve_in_band(scores, targets, ignore_index=ignore_index)
    fpr, tpr = curve.fpr.cpu(), curve.tpr.cpu()
    rises = torch.ones_like(tpr, dtype=torch.bool)
    rises[1:-1] = tpr[1:-1] > tpr[:-2]
    return fpr[rises], tpr[rises]


def _numbers(values: Any) -> list[float]:
    """Return ``[K]`` plain numbers of a tensor, an array or a sequence."""
    return [float(value) for value in values]


def _series(history: History, key: str, class_index: int) -> list[float]:
    """Return one class's values of a diagnostic, one for each entry of the history."""
    entries: list[Mapping[str, Any]] = [history] if isinstance(history, Mapping) else list(history)
    if not entries:
        raise ValueError("history must have at least one entry, got none")
    for entry in entries:
        if key not in entry:
            raise ValueError(
                f"key must be in every entry of history, one has {sorted(entry)}, got {key!r}"
            )
    values = history[key] if isinstance(history, Mapping) else [entry[key] for entry in entries]
    rows = [torch.as_tensor(value, dtype=torch.float64).detach().reshape(-1) for value in values]
    if not rows:
        raise ValueError(f"history must have at least one entry, got none for {key!r}")
    classes = min(len(row) for row in rows)
    if class_index >= classes:
        raise ValueError(f"class_index must be below {classes} for {key!r}, got {class_index}")
    return [float(row[class_index]) for row in rows]
