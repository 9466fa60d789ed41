"""A loss that watches itself: what it warns of, how often, and when it looks at its queue.

The sentences are those of :mod:`pauc.modules.warn` (of a step) and :mod:`pauc.modules.health` (of
the queue). Here it is decided which of them are looked for in a call, and that each comes once.
"""

from __future__ import annotations

import warnings
from typing import Any

from pauc.core.outcome import Outcome
from pauc.core.queue import check_counters
from pauc.devices import may_look
from pauc.modules.health import find_mistakes, find_other_rate, is_due
from pauc.modules.held_queue import QueueHolder
from pauc.modules.warn import Budget, no_dispersion, no_iid_mask, starvation, subsampling
from pauc.presets import BudgetPreset


class _Seen:
    """What a loss has seen of its training; no state, it says only when to look and to warn."""

    def __init__(self) -> None:
        self.calls = 0  # that have let rows enter
        self.kinds: set[str] = set()  # of mistakes that have been warned of


class WatchedLoss(QueueHolder):
    """A queue, and the warnings of a loss that lets rows enter it."""

    config: Any
    queue_size: int
    update_queue_in_eval: bool

    def _watch_from_here(self) -> None:
        self._preset: BudgetPreset | None = None  # what a recipe chose, and from what
        # An object of its own, since a module takes a microsecond to set a number.
        self._seen = _Seen()

    def _queue_moves(self) -> bool:
        return self.training or self.update_queue_in_eval

    def _budget(self) -> Budget | None:
        """Return the share of the reference rows that the loss rests on, if it rests on one."""
        return None

    def _warn(self, outcome: Outcome, batch_rows: int, has_iid_mask: bool) -> None:
        """Warn, once per kind, about what makes the numbers worth less than they look."""
        moves, seen = self._queue_moves(), self._seen
        seen.calls += moves
        due = moves and is_due(seen.calls)
        found = {}
        # An accelerator would be waited for, so that there it is asked as rarely as the queue is.
        if due or may_look(outcome.ref_count.device):
            found = self._look_at_outcome(outcome, batch_rows)
        if moves and self._preset is not None and not has_iid_mask:
            found["iid_mask"] = no_iid_mask(self._preset.iid_share)
        if due:
            found |= self._look_at_queue()
        for kind, message in found.items():
            if message and kind not in seen.kinds:
                seen.kinds.add(kind)
                # The caller is behind forward and two frames of nn.Module.
                warnings.warn(f"{type(self).__name__}: {message}.", UserWarning, stacklevel=5)

    def _look_at_outcome(self, outcome: Outcome, batch_rows: int) -> dict[str, str]:
        """Return what is wrong with a step by kind of mistake, in words."""
        config = self.config
        found = {
            "degenerate": no_dispersion(outcome, config),
            "starved": starvation(outcome, batch_rows, self.queue_size, self._budget()),
        }
        # `queue_fill` is read only where it decides something: the host waits for it.
        if found["starved"] and int(self.queue.fill) < self.queue.weight.shape[0]:
            found["starved"] = ""  # more rows are on their way
        cap = getattr(config, "max_pool_size", None)  # not an option of every loss
        if cap is not None:
            found["subsampled"] = subsampling(batch_rows + int(self.queue.fill), cap)
        return found

    def _look_at_queue(self) -> dict[str, str]:
        """Return what is wrong with the rows of the queue by kind of mistake, in words."""
        if not may_look(self.queue.fill.device):
            check_counters(self.queue)  # elsewhere every step does
        found = find_mistakes(self.queue)
        if self._preset is not None:
            found["rate"] = find_other_rate(self.queue, self._preset.positive_rate)
        return found
