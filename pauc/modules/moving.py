"""Options of a loss module that a schedule moves from step to step, as tensors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class MovingOptions:
    """A 0-dim tensor for each option that moves, so that one recorded graph serves all values.

    A graph that is compiled or captured would take a number for a constant.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def follow(self, names: Iterable[str], device: torch.device) -> None:
        """Let just these options move; their tensors stay the same as long as the names do."""
        if self._tensors.keys() != set(names):
            self._tensors = {name: _new_number(device) for name in names}

    def write(self, config: Any, device: torch.device) -> None:
        """Bring the tensors up to date, in place unless the queue is on another device now."""
        for name, tensor in self._tensors.items():
            if tensor.device != device:
                self._tensors[name] = tensor = _new_number(device)
            tensor.fill_(getattr(config, name))

    def are_read(self, on_queue: Tensor) -> bool:
        """Return whether a graph is being made, which will run again with other numbers."""
        if not self._tensors:
            return False
        if torch.compiler.is_compiling():
            return True
        return on_queue.is_cuda and torch.cuda.is_current_stream_capturing()

    def options_of(self, loss: Any) -> dict[str, Any]:
        """Return the options of a loss, by name, with the tensors in place of what moves."""
        # A graph must not depend on the numbers that move. It would if the config were copied, or
        # handed over as one value: so each option that stands still is read from the loss itself.
        return {
            name: self._tensors[name] if name in self._tensors else getattr(loss.config, name)
            for name in type(loss.config)._fields
        }


def _new_number(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it will be written in training, too
        return torch.zeros((), dtype=torch.float64, device=device)
