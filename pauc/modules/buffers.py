"""The queue's state as the buffers of a module: moves, copies and checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pauc.core.queue import QueueState, init_queue, resize_queue

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self


class QueueBuffers(nn.Module):
    """A module with a queue in its buffers, once :meth:`_make_queue` is called.

    Copies share the process group, a pickle leaves it out.
    """

    num_classes: int
    multilabel: bool
    process_group: ProcessGroup | None
    queue_scores: Tensor
    queue_targets: Tensor
    queue_iid: Tensor
    queue_weight: Tensor
    queue_cursor: Tensor
    queue_fill: Tensor
    queue_step: Tensor

    _version = 1

    def _make_queue(self, rows: int) -> None:
        empty = init_queue(rows, self.num_classes, multilabel=self.multilabel)
        for name, value in empty._asdict().items():
            self.register_buffer(f"queue_{name}", value)

    @property
    def queue(self) -> QueueState:
        """The queue's state; its tensors are the module's buffers."""
        held: dict[str, Any] = self._buffers  # nn.Module looks into several places for a name
        return QueueState(
            scores=held["queue_scores"],
            targets=held["queue_targets"],
            iid=held["queue_iid"],
            weight=held["queue_weight"],
            cursor=held["queue_cursor"],
            fill=held["queue_fill"],
            step=held["queue_step"],
        )

    def reset_queue(self) -> None:
        """Empty the queue."""
        held = self.queue_scores
        empty = init_queue(
            held.shape[1],
            self.num_classes,
            multilabel=self.multilabel,
            dtype=held.dtype,
            device=held.device,
        )
        self._store(empty)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy over the same process group, which itself cannot be copied."""
        twin = copy.copy(self)
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy({**self.__dict__, "process_group": None}, memo)
        twin.process_group = self.process_group
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "process_group": None}

    def _store(self, state: QueueState) -> None:
        for name, new in state._asdict().items():
            held: Any = self._buffers[f"queue_{name}"]
            if held is new:
                continue  # its rows have been written in place
            if held.dtype == new.dtype:
                held.copy_(new)  # in place: whoever shares or broadcasts the buffer keeps it
            else:
                setattr(self, f"queue_{name}", new)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the buffers with the model, but keep them in float32 when it goes to half precision.

        Scores that are compared for their order cannot afford the rounding.
        """
        wide = {name: getattr(self, name) for name in ("queue_scores", "queue_weight")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in wide.items():
            after = getattr(self, name)
            if after.dtype in (torch.float16, torch.bfloat16):
                setattr(self, name, before.to(after.device))
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load a checkpoint of any ``queue_size``: the newest rows that fit are kept."""
        keys = {name: f"{prefix}queue_{name}" for name in QueueState._fields}
        missing = [key for key in keys.values() if key not in state_dict]
        if missing:
            missing_keys.extend(missing)  # the parts belong together: none is taken
            return
        saved = QueueState(**{name: state_dict[key] for name, key in keys.items()})
        if saved.scores.shape[0] != self.num_classes:
            error_msgs.append(
                f"the checkpoint's queue {keys['scores']} has {saved.scores.shape[0]} classes, "
                f"this {type(self).__name__} has num_classes={self.num_classes}"
            )
            return
        if saved.multilabel is not self.multilabel:
            error_msgs.append(
                f"the checkpoint's queue {keys['targets']} has multilabel={saved.multilabel}, "
                f"this {type(self).__name__} has multilabel={self.multilabel}"
            )
            return
        fitting = resize_queue(saved, self.queue_scores.shape[1])
        for name in ("queue_scores", "queue_weight"):
            setattr(self, name, getattr(self, name).to(fitting.scores.dtype))
        resized = {keys[name]: value for name, value in fitting._asdict().items()}
        super()._load_from_state_dict(
            {**state_dict, **resized},
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )
