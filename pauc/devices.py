"""What the package asks of a device: one answer for core, the pairs and the modules."""

from __future__ import annotations

import torch

_MOST_GROUPS = 32  # each of them costs all its calls again


def may_look(device: torch.device) -> bool:
    """Return whether the host may read a tensor there at once.

    On an accelerator it would wait for everything that was asked of the device before. So there,
    sizes do not depend on data, and values are checked by the device itself.
    """
    return device.type == "cpu"


def class_groups(classes: int, columns: int, entries: int, device: torch.device) -> list[slice]:
    """Return which classes to take at once, so that work arrays of all are not held together.

    As many as have so many ``entries``, or a 32nd of all. One group on a CPU, where sizes may
    depend on data: there, what does not count is left out instead.
    """
    if may_look(device):
        return [slice(0, classes)]
    entries = max(entries, -(-classes * columns // _MOST_GROUPS))
    size = max(1, entries // max(columns, 1))
    return [slice(start, min(start + size, classes)) for start in range(0, classes, size)]
