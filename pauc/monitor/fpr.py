"""The monitor as an object: a config, a state, and their checks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pauc._public import public
from pauc.checks import check_int, check_number
from pauc.monitor.evidence import TILTS
from pauc.monitor.step import (
    MonitorConfig,
    MonitorState,
    MonitorStatus,
    init_monitor,
    monitor_status,
    monitor_step,
)

__all__ = ["FPRMonitor"]

# The window that is taken if none is given: so many alerts are expected in it.
_EXPECTED_ALERTS = 200


@public
class FPRMonitor:
    """Watches the FPR of a deployed threshold by counts of alerts among negatives.

    As long as the true FPR is at most ``budget``, an alarm is ever raised with probability at most
    ``1 - confidence``. How that is done, and what the interval means: :mod:`pauc.monitor`. The pure
    functions there, :func:`pauc.monitor.monitor_step` and :func:`pauc.monitor.monitor_status`, do
    all the work.

    An alarm stays raised. After one, find out what has changed, choose a threshold on rows of the
    new population and begin a new monitor; that one may raise a false alarm of its own.

    Args:
        budget: the highest FPR that keeps the promise, above 0 and below 1. Any other share does as
            well, such as that of alerts among all rows, which is known before the labels are:
            :func:`pauc.budgets.alert_share_from_fpr`.
        confidence: above 0 and below 1.
        window: fewest rows that the interval is for, at least 1; None: so many that 200 alerts are
            expected at the budget. The alarm does not depend on it.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """

    def __init__(
        self, budget: float, *, confidence: float = 0.95, window: int | None = None
    ) -> None:
        for name, value in (("budget", budget), ("confidence", confidence)):
            check_number(name, value)
            if not 0 < value < 1:
                raise ValueError(f"{name} must be above 0 and below 1, got {value!r}")
        if window is None:
            window = math.ceil(_EXPECTED_ALERTS / budget)
        check_int("window", window, 1)
        self.config = MonitorConfig(float(budget), float(confidence), int(window))
        self.state = init_monitor()

    def update(self, alerts: int, rows: int = 1) -> bool:
        """Take in ``alerts`` among ``rows`` new negatives; return whether the budget still holds.

        Raises:
            TypeError, ValueError: as :func:`pauc.monitor.monitor_step`; nothing is taken in then.
        """
        self.state = monitor_step(self.state, self.config, alerts, rows)
        return self.holds

    @property
    def holds(self) -> bool:
        """Whether no alarm has been raised so far."""
        return self.state.alarm_row is None

    def status(self) -> MonitorStatus:
        """Return evidence and interval as of now."""
        return monitor_status(self.state, self.config)

    def state_dict(self) -> dict[str, Any]:
        """Return config and state as a dict that JSON can write."""
        return {"config": self.config._asdict(), "state": self.state._asdict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, here or in another process.

        Raises:
            ValueError: other keys than those of this version, or a config that is not this
                monitor's: evidence against one budget says nothing of another.
        """
        state = _state_from(state_dict, self.config)
        self.state = state

    def __repr__(self) -> str:
        budget, confidence, window = self.config
        return f"FPRMonitor({budget}, confidence={confidence}, window={window})"


def _state_from(state_dict: Mapping[str, Any], config: MonitorConfig) -> MonitorState:
    """Return the state in a dict of :meth:`FPRMonitor.state_dict`, or raise ValueError."""
    state = state_dict.get("state")
    if not isinstance(state, Mapping) or set(state) != set(MonitorState._fields):
        raise ValueError(
            f"state_dict must hold a state with {list(MonitorState._fields)}, got {state!r}"
        )
    if state_dict.get("config") != config._asdict():
        raise ValueError(
            f"state_dict must be of a monitor with {config._asdict()}, "
            f"got {state_dict.get('config')}"
        )
    if len(state["evidence"]) != len(TILTS):
        raise ValueError(f"evidence must have {len(TILTS)} entries, got {len(state['evidence'])}")
    return MonitorState(**{key: _without_lists(value) for key, value in state.items()})


def _without_lists(value: Any) -> Any:
    """Return a value as it was before JSON, which has no tuples."""
    return tuple(value) if isinstance(value, list) else value
