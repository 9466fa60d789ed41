"""The most that a call holds of what it allocates, from PyTorch's own allocation events."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler chats on stderr


def allocated_peak(call: Callable[[], object]) -> int:
    """Return the greatest sum, in bytes, of what ``call`` allocated and had not freed, on a CPU.

    Exact and repeatable, but blind to what a kernel takes from `malloc` on its own.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(max(accumulate((event.nbytes() for event in events), initial=0)))
