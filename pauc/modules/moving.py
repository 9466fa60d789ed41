"""The options of a loss module, some of which a schedule moves from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pauc.config import LossConfig, options_of
from pauc.modules.buffers import QueueBuffers

if TYPE_CHECKING:
    from typing_extensions import Self


class MovingConfig(QueueBuffers):
    """A holder of a queue and of options, once :meth:`_take_config` is called."""

    def _take_config(self, config: LossConfig) -> None:
        for name, value in options_of(config).items():
            if isinstance(value, Tensor):
                raise TypeError(f"{name} must be a number in a module, got a tensor")
        self._moving: dict[str, Tensor] = {}
        self.config = config

    @property
    def config(self) -> Any:
        """The options of the loss; to be replaced as a whole."""
        return self._config

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config
        self._write_moving()

    def move_config(self, values: Mapping[str, Any], moving: Iterable[str]) -> None:
        """Set fields of ``config``; those that are ``moving`` will be set again and again.

        A step that is compiled or captured takes these from tensors, which are written in place, so
        that one graph serves all their values. For :class:`pauc.PAUCSchedule`.
        """
        if self._moving.keys() != set(moving):
            self._moving = {name: self._new_number() for name in moving}
        self.config = self.config._replace(**values)

    def _new_number(self) -> Tensor:
        with torch.inference_mode(False):  # it will be written in training, too
            return torch.zeros((), dtype=torch.float64, device=self.queue_fill.device)

    def _write_moving(self) -> None:
        """Bring the tensors up to date with ``config``, in place unless the queue has moved."""
        for name, tensor in self._moving.items():
            if tensor.device != self.queue_fill.device:
                self._moving[name] = tensor = self._new_number()
            tensor.fill_(getattr(self.config, name))

    def _step_config(self) -> Any:
        """Return what the step is to use: ``config``, or one with tensors for what moves."""
        if not self._moving or not self._is_recorded():
            return self.config
        # Not `_replace`, which would make a graph depend on the numbers that are replaced.
        fields: dict[str, Any] = {
            name: self._moving[name] if name in self._moving else getattr(self.config, name)
            for name in type(self.config)._fields
        }
        return type(self.config)(**fields)

    def _is_recorded(self) -> bool:
        """Return whether a graph is being made, which will run again with other numbers."""
        if torch.compiler.is_compiling():
            return True
        return self.queue_fill.is_cuda and torch.cuda.is_current_stream_capturing()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._write_moving()
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._write_moving()  # the queue may be on another device now
