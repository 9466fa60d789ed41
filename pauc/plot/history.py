"""What moves: the diagnostics of a training, and a deployed threshold under a monitor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pauc.checks import check_int, check_number
from pauc.monitor import MonitorStatus
from pauc.plot.canvas import COLOURS, new_axes, numbers
from pauc.plot.histograms import grid
from pauc.presets import STARVED

__all__ = ["dashboard", "monitoring", "training"]

# What the axis of a diagnostic says, in the order of a dashboard; other keys are their own label.
_LABELS = {
    "pauc": "partial AUC of the pool",
    "recall": "recall of the pool",
    "ap": "average precision of the pool",
    "realised_fpr": "realised FPR",
    "t_alpha": "score at FPR alpha",
    "t_beta": "score at FPR beta",
    "edges": "score at the band's edges",
    "band_neg_count": "negatives in the band",
    "grad_pos_count": "positives of the batch",
    "ref_count": "reference rows",
    "tau_eff": "width of the link (logits)",
    "pauc_var": "variance of the contributions",
    "recall_var": "variance of the contributions",
    "threshold": "score at the quantile",
    "false_alert_count": "negatives above the threshold",
    "ap_var": "variance of the contributions",
}

History = Sequence[Mapping[str, Any]] | Mapping[str, Any]


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
    at = list(range(length)) if steps is None else numbers(steps)
    if len(at) != length:
        raise ValueError(f"steps must have one entry for each of {length}, got {len(at)}")
    ax = new_axes(ax)
    for (name, values), colour, dash in zip(lines.items(), COLOURS, ("-", "--"), strict=False):
        ax.plot(at, values, dash, color=colour, label=name)
    if key == "band_neg_count":
        ax.axhline(STARVED, color="black", ls=":", label=f"starved below {STARVED}")
    if key == "realised_fpr" and beta is not None:
        ax.axhline(beta, color="black", ls=":", label=f"beta = {beta:g}")
    ax.set(xlabel="training step", ylabel=_LABELS.get(key, key))
    if len(ax.get_lines()) > 1:
        ax.legend()
    return ax


def dashboard(
    history: History,
    *,
    steps: Sequence[float] | None = None,
    class_index: int = 0,
    beta: float | None = None,
) -> Figure:
    """Draw every diagnostic of a training, each as :func:`training` does; ``t_alpha`` and
    ``t_beta`` share a picture.

    Args:
        history, steps, class_index, beta: as for :func:`training`.

    Raises:
        TypeError, ValueError: as there.
    """
    keys = _keys(history)
    figure, axes = grid(len(keys))
    for key, ax in zip(keys, axes, strict=True):
        training(history, key, steps=steps, class_index=class_index, beta=beta, ax=ax)
    return figure


def monitoring(history: Sequence[MonitorStatus], budget: float, *, ax: Axes | None = None) -> Axes:
    """Draw what a monitor said over time: the recent rate with its interval, budget and alarm.

    Args:
        history: of :meth:`pauc.FPRMonitor.status`, ``history.append(monitor.status())`` after each
            update or less often.
        budget: the monitor's, a dotted line.
        ax: where to draw; None: a new figure.

    Raises:
        TypeError: ``budget`` is no number.
        ValueError: a history without entries.
    """
    check_number("budget", budget)
    if not history:
        raise ValueError("history must have at least one entry, got none")
    rows = [status.rows for status in history]
    low, high = [status.low for status in history], [status.high for status in history]
    rates = [status.estimate for status in history]
    ax = new_axes(ax)
    ax.fill_between(rows, low, high, color=COLOURS[0], alpha=0.2, lw=0, label="interval")
    ax.plot(rows, rates, color=COLOURS[0], label="recent rate")
    ax.axhline(budget, color="black", ls=":", label=f"budget {budget:g}")
    alarm = history[-1].alarm_row
    if alarm is not None:
        ax.axvline(alarm, color=COLOURS[1], ls="--", label=f"alarm after {alarm:,} rows")
    # The first intervals reach up to 1 and would flatten all that follows.
    top = max(3 * budget, *(1.3 * max(pair) for pair in zip(low, rates, strict=True)))
    ax.set(ylim=(0, min(1, top)), xlabel="rows", ylabel="share of alerts")
    ax.legend()
    return ax


def _keys(history: History) -> list[str]:
    """Return the diagnostics that all entries have, in the order of the labels, others last."""
    entries = [history] if isinstance(history, Mapping) else list(history)
    if not entries:
        raise ValueError("history must have at least one entry, got none")
    common = [key for key in entries[0] if all(key in entry for entry in entries)]
    if {"t_alpha", "t_beta"} <= set(common):
        common = ["edges", *(key for key in common if key not in ("t_alpha", "t_beta"))]
    if not common:
        raise ValueError("history must have a key that all entries share, got none")
    order = list(_LABELS)
    return sorted(common, key=lambda key: order.index(key) if key in _LABELS else len(order))


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
    rows = [
        torch.as_tensor(value, dtype=torch.float64, device="cpu").detach().reshape(-1)
        for value in values
    ]
    if not rows:
        raise ValueError(f"history must have at least one entry, got none for {key!r}")
    classes = min(len(row) for row in rows)
    if class_index >= classes:
        raise ValueError(f"class_index must be below {classes} for {key!r}, got {class_index}")
    return [float(row[class_index]) for row in rows]
