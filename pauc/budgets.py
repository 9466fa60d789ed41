"""Budgets in people's units, and what they are as an FPR or a share of alerts.

Metrics, thresholds, ``for_budget`` and the losses take a budget as a false-positive rate (a share
of the negatives: ``beta``, ``budget``, ``fpr``) or as a share of all rows that alert
(``alert_share``; of the losses ``budget_basis="population"``). People have a number of alerts a
day, of false alarms an hour, or a precision. Each function here is one line of arithmetic.

With ``base_rate`` the share of positives among all rows, of which a share ``tpr`` alerts, and
``fpr`` that of the negatives::

    alert_share = base_rate * tpr + (1 - base_rate) * fpr
    precision   = base_rate * tpr / alert_share

``base_rate`` is that of the rows to come, which may differ from that of the rows at hand. Where the
``tpr`` is not known, a higher one is the safe guess for a share of alerts, and a lower one for a
precision; :func:`fpr_at_precision` takes the scores instead.

All arguments and results are plain numbers, but for the last two functions, which take rows as
:mod:`pauc.metrics` does. Every function raises ``TypeError`` for an argument that is no number and
``ValueError`` for one out of its range, or a budget that cannot be met.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pauc.arrays import Answer, ArrayLike, in_kind
from pauc.checks import check_number, check_real
from pauc.metrics.inputs import Column, UndefinedError, by_column, check_both_classes, table_of
from pauc.metrics.vertices import vertices_of

__all__ = [
    "alert_share_from_alerts",
    "alert_share_from_fpr",
    "alerts_from_alert_share",
    "false_alarms_from_fpr",
    "fpr_at_precision",
    "fpr_from_alert_share",
    "fpr_from_false_alarms",
    "fpr_from_precision",
    "precision_from_fpr",
    "weights_at_base_rate",
]


def alert_share_from_alerts(alerts: float, rows: float) -> float:
    """Return ``alerts / rows``: so many alerts a day, for so many rows a day.

    200 alerts a day for 50,000 payments a day are a share of 200 / 50,000 = 0.004.

    Args:
        alerts: at least 0 and at most ``rows``, of any time.
        rows: above 0, of the same time.
    """
    _check_rows("rows", rows)
    check_real("alerts", alerts)
    if not 0 <= alerts <= rows:
        raise ValueError(f"alerts must be in [0, rows] = [0, {rows}], got {alerts!r}")
    return alerts / rows


def alerts_from_alert_share(alert_share: float, rows: float) -> float:
    """Return ``alert_share * rows``, the reverse of :func:`alert_share_from_alerts`."""
    _check_rows("rows", rows)
    _check_share("alert_share", alert_share)
    return alert_share * rows


def fpr_from_alert_share(alert_share: float, *, base_rate: float, tpr: float) -> float:
    """Return ``(alert_share - base_rate * tpr) / (1 - base_rate)``.

    If 1 % of the rows alert, 0.2 % are positive and 80 % of these alert, then 0.16 % of the rows
    are caught positives. The other 0.84 % are false alarms, and 0.84 / 99.8 = 0.842 % of the
    negatives.

    Args:
        alert_share, tpr: in [0, 1].
        base_rate: in [0, 1).

    Raises:
        ValueError: the caught positives alone are more than ``alert_share``, or the negatives too
            few for the rest of it.
    """
    _check_share("alert_share", alert_share)
    _check_rates(base_rate, tpr=tpr)
    fpr = (alert_share - base_rate * tpr) / (1 - base_rate)
    if not 0 <= fpr <= 1:
        least, most = base_rate * tpr, base_rate * tpr + 1 - base_rate
        raise ValueError(
            f"alert_share must be in [{least:g}, {most:g}] for base_rate={base_rate} and "
            f"tpr={tpr}, got {alert_share}"
        )
    return fpr


def alert_share_from_fpr(fpr: float, *, base_rate: float, tpr: float) -> float:
    """Return ``base_rate * tpr + (1 - base_rate) * fpr``.

    The reverse of :func:`fpr_from_alert_share`, with its arguments.
    """
    _check_rates(base_rate, fpr=fpr, tpr=tpr)
    return base_rate * tpr + (1 - base_rate) * fpr


def fpr_from_false_alarms(false_alarms: float, windows: float, *, base_rate: float = 0.0) -> float:
    """Return ``false_alarms / (windows * (1 - base_rate))``: so many an hour, of windows an hour.

    A detector that is asked every 20 ms has 180,000 windows an hour. Half a false alarm an hour is
    then an FPR of 0.5 / 180,000 = 2.8e-6. A false alarm is a window: where neighbours are merged
    to one alarm, the FPR may be higher by the length of an alarm in windows.

    Args:
        false_alarms: at least 0, in any time.
        windows: above 0, in the same time.
        base_rate: share of the windows that hold what is looked for, in [0, 1).
    """
    _check_rows("windows", windows)
    _check_rates(base_rate)
    check_real("false_alarms", false_alarms)
    negatives = windows * (1 - base_rate)
    if not 0 <= false_alarms <= negatives:
        raise ValueError(f"false_alarms must be in [0, {negatives:g}], got {false_alarms!r}")
    return false_alarms / negatives


def false_alarms_from_fpr(fpr: float, windows: float, *, base_rate: float = 0.0) -> float:
    """Return ``fpr * windows * (1 - base_rate)``, the reverse of :func:`fpr_from_false_alarms`."""
    _check_rows("windows", windows)
    _check_rates(base_rate, fpr=fpr)
    return fpr * windows * (1 - base_rate)


def fpr_from_precision(precision: float, *, base_rate: float, tpr: float) -> float:
    """Return ``base_rate * tpr * (1 - precision) / ((1 - base_rate) * precision)``.

    If one alert in four is to be right, there may be three false alarms for each caught positive.
    With 0.1 % positives, of which 60 % are caught, those are 3 * 0.06 % = 0.18 % of the rows, and
    0.18 / 99.9 = 0.18018 % of the negatives.

    Args:
        precision: in (0, 1].
        base_rate: in [0, 1).
        tpr: in [0, 1].

    Raises:
        ValueError: the FPR would be above 1: even alerts on all negatives keep the precision.
    """
    _check_share("precision", precision)
    if precision == 0:
        raise ValueError("precision must be above 0, got 0")
    _check_rates(base_rate, tpr=tpr)
    fpr = base_rate * tpr * (1 - precision) / ((1 - base_rate) * precision)
    if fpr > 1:
        raise ValueError(
            f"precision must be at least {base_rate * tpr / (base_rate * tpr + 1 - base_rate):g}, "
            f"that of an alert on every negative, got {precision}"
        )
    return fpr


def precision_from_fpr(fpr: float, *, base_rate: float, tpr: float) -> float:
    """Return ``base_rate * tpr / (base_rate * tpr + (1 - base_rate) * fpr)``.

    The reverse of :func:`fpr_from_precision`, with its arguments.

    Raises:
        ValueError: there is no alert at all.
    """
    alerts = alert_share_from_fpr(fpr, base_rate=base_rate, tpr=tpr)
    if alerts == 0:
        raise ValueError("fpr or base_rate * tpr must be above 0: without alerts is no precision")
    return base_rate * tpr / alerts


def fpr_at_precision(
    scores: ArrayLike,
    targets: ArrayLike,
    precision: float,
    *,
    base_rate: float,
    sample_weight: ArrayLike = None,
    ignore_index: int = -100,
) -> Answer:
    """Return the highest FPR of a threshold that has the precision at this base rate.

    The TPR is that of the same threshold: of the held-out curve the last vertex counts at which
    ``base_rate * tpr >= precision * (base_rate * tpr + (1 - base_rate) * fpr)``. The FPR can then
    be a budget for :func:`pauc.select_threshold`, for training by ``for_budget``, or for
    :func:`pauc.metrics.tpr_at_fpr` on other rows.

    Args:
        scores, targets, sample_weight, ignore_index: rows and columns, see :mod:`pauc.metrics`.
        precision: in (0, 1].
        base_rate: share of positives among the rows to come, in (0, 1); that of the rows at hand
            plays no part.

    Returns:
        0-dim float64, at least 0; of several columns ``[C]``.

    Raises:
        ValueError: no threshold has the precision; see also :mod:`pauc.metrics`.
    """
    _check_share("precision", precision)
    _check_base_rate(base_rate)

    def measure(column: Column) -> Tensor:
        vertices = vertices_of(column)
        fpr, tpr = vertices.fp.double() / vertices.fp[-1], vertices.tp.double() / vertices.tp[-1]
        caught = base_rate * tpr
        asked = precision * (caught + (1 - base_rate) * fpr)
        # For products that should be equal and differ by rounding.
        fits = (caught >= asked * (1 - 8 * torch.finfo(torch.float64).eps)) & (tpr > 0)
        if not bool(fits.any()):
            raise UndefinedError(
                f"targets must allow a precision of {precision} at a base rate of {base_rate}: no "
                "threshold on these rows has it"
            )
        return fpr[fits.nonzero()[-1, 0]]

    table = table_of(scores, targets, sample_weight, ignore_index)
    return in_kind(by_column(measure, table), scores)


def weights_at_base_rate(
    targets: ArrayLike, base_rate: float, *, ignore_index: int = -100
) -> Answer:
    """Return ``sample_weight [N]`` by which the positives are a share ``base_rate`` of the rows.

    A positive weighs ``base_rate * N / positives``, a negative ``(1 - base_rate) * N / negatives``,
    and an ignored row 0; ``N`` is the number of the others, and the sum of the weights. Shares of
    alerts and precisions of metrics and thresholds are then those at the base rate. The FPR and the
    TPR stay as they are.

    Args:
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1, both present.
        base_rate: in (0, 1).
        ignore_index: target of rows that are absent.
    """
    _check_base_rate(base_rate)
    table = table_of(targets, targets, None, ignore_index)
    if not table.is_single:
        raise ValueError(f"targets must be [N] or [N, 1], got {list(table.labels.shape)}")
    labels = table.labels[:, 0]
    check_both_classes(table.column(0).positive)
    positive, negative = labels == 1, labels == 0
    rows = (positive | negative).sum().double()
    each = base_rate * rows / positive.sum(), (1 - base_rate) * rows / negative.sum()
    weight = torch.where(positive, each[0], torch.where(negative, each[1], 0.0))
    return in_kind(weight, targets)


def _check_share(name: str, value: float) -> None:
    """Raise unless ``value`` is a number in [0, 1]."""
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def _check_base_rate(base_rate: float) -> None:
    """Raise unless ``base_rate`` is a number above 0 and below 1."""
    check_number("base_rate", base_rate)
    if not 0 < base_rate < 1:
        raise ValueError(f"base_rate must be above 0 and below 1, got {base_rate!r}")


def _check_rates(base_rate: float, **shares: float) -> None:
    """Raise unless ``base_rate`` is in [0, 1), and each share in [0, 1]."""
    check_number("base_rate", base_rate)
    if not 0 <= base_rate < 1:
        raise ValueError(f"base_rate must be in [0, 1), got {base_rate!r}")
    for name, share in shares.items():
        _check_share(name, share)


def _check_rows(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    check_real(name, value)
    if value <= 0:
        raise ValueError(f"{name} must be above 0, got {value!r}")
