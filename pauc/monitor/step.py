"""What a monitor remembers, and the pure functions that move it and read it."""

from __future__ import annotations

import math
from typing import NamedTuple

from pauc._public import public_in
from pauc.checks import check_int
from pauc.monitor.evidence import TILTS, log_add, log_ratio, log_sum, lower_end

__all__ = [
    "MonitorConfig",
    "MonitorState",
    "MonitorStatus",
    "init_monitor",
    "monitor_status",
    "monitor_step",
]


@public_in("pauc.monitor")
class MonitorConfig(NamedTuple):
    """What is promised, and how surely; see :class:`pauc.FPRMonitor`."""

    budget: float  # highest FPR that keeps the promise, a fraction
    confidence: float  # 1 minus the chance of ever raising a false alarm
    window: int  # fewest rows that an interval is for, once there are so many


@public_in("pauc.monitor")
class MonitorState(NamedTuple):
    """All that a monitor remembers: plain numbers, of constant size."""

    rows: int  # fed so far
    alerts: int  # among them
    evidence: tuple[float, ...]  # log of the evidence of each tilt, over the starts so far
    released: int  # row up to which the weight of starts has been handed out
    peak: float  # log of the highest evidence so far
    alarm_row: int | None  # rows that had been fed when the alarm was raised; None: none was
    span: int  # 1 for the interval that begins at the first row, 2 for the next one
    since: tuple[int, int]  # rows and alerts before the interval began
    upcoming: tuple[int, int]  # rows and alerts before the next interval begins


@public_in("pauc.monitor")
class MonitorStatus(NamedTuple):
    """What a monitor says at one moment, as plain numbers."""

    holds: bool  # no alarm has been raised so far
    rows: int  # fed so far
    alerts: int  # among them
    evidence: float  # against the budget; an alarm is raised at 1 / (1 - confidence)
    p_value: float  # 1 / the highest evidence so far; at most x with probability x, ever
    alarm_row: int | None  # rows that had been fed when the alarm was raised
    recent_rows: int  # rows that the next three are for, the last ones
    estimate: float  # share of alerts among them; nan without rows
    low: float  # lower end of the confidence interval
    high: float  # upper end


def init_monitor() -> MonitorState:
    """Return the state of a monitor that has seen no row."""
    share = math.log(_later(0.0) / len(TILTS))  # the other half of the weight is for later starts
    return MonitorState(0, 0, (share,) * len(TILTS), 0, 0.0, None, 1, (0, 0), (0, 0))


def monitor_step(
    state: MonitorState, config: MonitorConfig, alerts: int, rows: int
) -> MonitorState:
    """Return the state after ``alerts`` among ``rows`` more rows.

    The order of rows within a call does not count. Whether rows come one by one or many at a time
    moves the evidence a little, since starts lie between calls; what is promised holds either way,
    and a call may end wherever one likes.

    Args:
        state: of :func:`init_monitor`, or of the last call.
        config: the same in every call.
        alerts: from 0 to ``rows``.
        rows: at least 0.

    Raises:
        TypeError: no integers.
        ValueError: a negative number, or more alerts than rows.
    """
    _check_counts(alerts, rows)
    if rows == 0:
        return state
    alerts, rows = int(alerts), int(rows)  # numbers of NumPy would not go into JSON
    evidence = _next_evidence(state, config.budget, alerts, rows)
    state = state._replace(
        rows=state.rows + rows,
        alerts=state.alerts + alerts,
        evidence=evidence,
        released=state.rows,
    )
    return _raise_alarm(_begin_span(state, config.window), config)


def monitor_status(state: MonitorState, config: MonitorConfig) -> MonitorStatus:
    """Return what the state says; the work does not grow with the rows."""
    rows, alerts = state.rows - state.since[0], state.alerts - state.since[1]
    # Over all spans these errors sum to 1 - confidence.
    error = (1 - config.confidence) / (state.span * (state.span + 1))
    return MonitorStatus(
        holds=state.alarm_row is None,
        rows=state.rows,
        alerts=state.alerts,
        evidence=_exp(_log_evidence(state, config.budget)),
        p_value=math.exp(-state.peak),
        alarm_row=state.alarm_row,
        recent_rows=rows,
        estimate=alerts / rows if rows else math.nan,
        low=lower_end(alerts, rows, error / 2),
        high=1 - lower_end(rows - alerts, rows, error / 2),
    )


def _later(expected_alerts: float) -> float:
    """Return the weight of all starts that come after so many expected alerts."""
    return 0.5 / math.sqrt(1 + expected_alerts)


def _next_evidence(state: MonitorState, budget: float, alerts: int, rows: int) -> tuple[float, ...]:
    """Return the log evidence of each tilt after a batch.

    The starts that are due by now begin with this batch. Their weight comes from rows fed before:
    one that depended on this batch's size could be chosen by its alerts.
    """
    due = _later(budget * state.released) - _later(budget * state.rows)
    each = math.log(due / len(TILTS)) if due > 0 else -math.inf
    return tuple(
        log_add(old, each) + log_ratio(tilt, budget, alerts, rows)
        for tilt, old in zip(TILTS, state.evidence, strict=True)
    )


def _log_evidence(state: MonitorState, budget: float) -> float:
    """Return the log of the evidence: the starts so far, and the weight of those to come."""
    to_come = math.log(_later(budget * state.released))
    return log_sum((*state.evidence, to_come))


def _raise_alarm(state: MonitorState, config: MonitorConfig) -> MonitorState:
    """Return the state with its highest evidence, and with an alarm if that is high enough."""
    peak = max(state.peak, _log_evidence(state, config.budget))
    raised = peak >= -math.log1p(-config.confidence)
    first = state.rows if raised and state.alarm_row is None else state.alarm_row
    return state._replace(peak=peak, alarm_row=first)


def _begin_span(state: MonitorState, window: int) -> MonitorState:
    """Return the state with the next interval begun, once that would hold ``window`` rows."""
    if state.rows - state.upcoming[0] < window:
        return state
    now = (state.rows, state.alerts)
    if state.upcoming == state.since:  # the first interval goes on until the second is long enough
        return state._replace(upcoming=now)
    return state._replace(span=state.span + 1, since=state.upcoming, upcoming=now)


def _exp(log: float) -> float:
    """Return ``exp(log)``; inf where that is too large for float64."""
    return math.exp(log) if log < 709 else math.inf


def _check_counts(alerts: int, rows: int) -> None:
    """Raise unless the two are integers with ``0 <= alerts <= rows``."""
    check_int("rows", rows, 0)
    check_int("alerts", alerts, 0)
    if alerts > rows:
        raise ValueError(f"alerts must be at most rows={rows}, got {alerts}")
