"""After deployment: whether a threshold still keeps its FPR, answered at any time and as often.

A monitor is fed with counts, *alerts* among *rows*, and looked at whenever one likes. Both of its
answers allow for that; a test repeated every day would raise a false alarm sooner or later.

- **The alarm.** As long as the FPR is at most the budget, the chance that an alarm is *ever* raised
  is at most ``1 - confidence``. The FPR may move below the budget as it likes.
- **The interval.** With probability ``confidence``, each interval that is ever reported holds the
  average FPR of its own rows, the last ``window`` to ``2 * window`` to within a call of `update`.
  The FPR may move here too.

The alarm rests on *evidence*, a process that starts at 1 and that nobody can expect to grow while
the budget is kept (a nonnegative supermartingale): the chance that it ever reaches
``1 / (1 - confidence)`` is at most ``1 - confidence`` (Ville 1939). For one start and one *tilt*
``l > 0`` it is ``exp(l alerts) / (1 + budget (exp(l) - 1)) ** rows``, the likelihood ratio of an
FPR whose odds are ``exp(l)`` times those of the budget. It is averaged over tilts, since the new
FPR is not known (Robbins 1970, method of mixtures), and over starts, since the time of the change
is not (Shin, Ramdas and Rinaldo 2023): evidence from the first row alone would have to make up for
all it lost while the FPR was low. Half the weight is on the first row, and ``1 / (2 sqrt(1 + m))``
on all starts after ``m`` expected alerts, ``m = budget * rows``.

The interval is all rates that the same ratios, from the interval's first row on and in both
directions, do not exclude. It holds for the average of a rate that moves, since ``log(1 + p (exp(l)
- 1))`` is concave in ``p``. Each new interval has a smaller error than the one before, so that all
of them together have ``1 - confidence``.
"""

from pauc.monitor.fpr import FPRMonitor
from pauc.monitor.step import (
    MonitorConfig,
    MonitorState,
    MonitorStatus,
    init_monitor,
    monitor_status,
    monitor_step,
)

__all__ = [
    "FPRMonitor",
    "MonitorConfig",
    "MonitorState",
    "MonitorStatus",
    "init_monitor",
    "monitor_status",
    "monitor_step",
]
