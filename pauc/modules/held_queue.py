"""The queue of a module: how it moves, is copied, is averaged and is kept in checkpoints.

The queue is no buffer. Whoever walks over the buffers of a model averages them, casts them,
broadcasts them or leaves them uninitialised, and rows that were averaged are no rows. In their
place stands the *mark*, one number: it is moved and overwritten as a buffer is, and by it the
queue learns of that. In a ``state_dict`` the queue has an entry for each of its tensors.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from pauc.core.queue import QueueState, check_counters, init_queue, resize_queue

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self

_NAMES = tuple(f"queue_{part}" for part in QueueState._fields)
_MARK = "queue_mark"


def _part(name: str) -> Any:
    """Return the property of a module that is one of the queue's tensors."""
    return property(lambda module: getattr(module.queue, name))


class QueueHolder(nn.Module):
    """A module with a queue, once :meth:`_make_queue` is called.

    Copies share the process group, a pickle leaves it out. A copy has its own queue; but when its
    buffers are averaged with those of its original, or overwritten by them, as
    :class:`torch.optim.swa_utils.AveragedModel` does, it takes the original's queue as it is. That
    ends with the copy's first own step.
    """

    num_classes: int
    multilabel: bool
    process_group: ProcessGroup | None

    queue_scores: Tensor = _part("scores")
    queue_targets: Tensor = _part("targets")
    queue_iid: Tensor = _part("iid")
    queue_weight: Tensor = _part("weight")
    queue_cursor: Tensor = _part("cursor")
    queue_fill: Tensor = _part("fill")
    queue_step: Tensor = _part("step")

    _version = 1

    # A model that is scripted takes its loss along as something it cannot call.
    __jit_ignored_attributes__: ClassVar[tuple[str, ...]] = _NAMES
    __jit_unused_properties__: ClassVar[tuple[str, ...]] = (
        *("queue", "config", "_is_hf_initialized"),
        *_NAMES,
    )

    def _make_queue(self, rows: int) -> None:
        # Registered without a tensor: the names are known as buffers to whoever loads weights by
        # name, and then sets one. Nobody who walks over the buffers meets them.
        self._buffers.update(dict.fromkeys(_NAMES))
        self._queue = init_queue(rows, self.num_classes, multilabel=self.multilabel)
        # How many copies stand between this module and one that was built: a copy's mark differs
        # from its original's, so that a mixture of both is no mark of either.
        self._generation = 0
        # In a tuple: the original is not a part of its copy, as an attribute that is a module were.
        self._original: tuple[QueueHolder, ...] = ()
        self.register_buffer(_MARK, None, persistent=False)
        self._renew_mark(self._queue.scores.device)

    def _renew_mark(self, device: torch.device) -> None:
        with torch.inference_mode(False):  # it may be written in training, too
            self._buffers[_MARK] = torch.full(
                (), float(self._generation), dtype=torch.float32, device=device
            )

    @property
    def queue(self) -> QueueState:
        """The queue's state; its tensors are the module's, which a step writes in place."""
        if not torch.compiler.is_compiling():
            self._settle()
        given = self._buffers
        for name in _NAMES:
            if given[name] is not None:
                return self._with_given()
        return self._queue

    def _with_given(self) -> QueueState:
        """Return the queue with the tensors in it that somebody has set by name."""
        given: dict[str, Any] = self._buffers
        parts = zip(_NAMES, self._queue, strict=True)
        return QueueState(*[own if given[name] is None else given[name] for name, own in parts])

    def _settle(self) -> None:
        """Do what has happened to the mark: go to its device, and follow the original."""
        mark: Any = self._buffers[_MARK]
        if mark.device != self._queue.scores.device and not mark.is_meta:
            self._queue = _moved(self._queue, mark.device)
        if self._original and not mark.is_meta and float(mark) != self._generation:
            queue = self._original[0].queue
            self._hold(QueueState(*(part.to(mark.device, copy=True) for part in queue)))
            self._renew_mark(mark.device)

    def _hold(self, queue: QueueState) -> None:
        """Let this be the queue, its floats as wide as they must be."""
        self._buffers.update(dict.fromkeys(_NAMES))
        # Scores that are compared for their order cannot afford the rounding of half precision.
        if queue.scores.dtype not in (torch.float32, torch.float64):
            queue = queue._replace(scores=queue.scores.float())
        self._queue = queue._replace(weight=queue.weight.to(queue.scores.dtype))

    def _empty(self, device: torch.device, dtype: torch.dtype = torch.float32) -> QueueState:
        """Return an empty queue of this one's size."""
        size, labels = self._queue.weight.shape[0], self.multilabel
        return init_queue(size, self.num_classes, multilabel=labels, dtype=dtype, device=device)

    def reset_queue(self) -> None:
        """Empty the queue."""
        held = self.queue.scores
        self._store(self._empty(held.device, held.dtype))

    def _store(self, state: QueueState) -> None:
        held = self.queue
        if any(old.dtype != new.dtype for old, new in zip(held, state, strict=True)):
            self._hold(state)
            return
        for old, new in zip(held, state, strict=True):
            if old is not new:
                old.copy_(new)  # in place: a captured graph knows the tensors by their addresses

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy over the same process group, which itself cannot be copied."""
        _ = self.queue  # settled, so that the copy begins with what this module would compute from
        twin = copy.copy(self)
        memo[id(self)] = twin
        alone = {**self.__dict__, "process_group": None, "_original": ()}
        twin.__dict__ = copy.deepcopy(alone, memo)
        twin.process_group = self.process_group
        twin._original = (self,)
        twin._generation = self._generation + 1
        for module in (self, twin):  # what an average has left in the original's mark goes
            module._renew_mark(self._queue.scores.device)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        _ = self.queue
        return {**self.__dict__, "process_group": None, "_original": ()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the queue with the model, but keep it in float32 when that goes to half precision.

        After what leaves no values, as ``to_empty`` does, it is empty.
        """
        before = self.queue
        self._hold(before)
        self._renew_mark(before.scores.device)  # whoever has set the tensors by name knew no mark
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = QueueState(*(fn(part) for part in before))
        device = after.scores.device
        if not after.scores.is_meta and not _keeps_values(fn, before.scores.device):
            after = self._empty(device)
        elif after.scores.dtype in (torch.float16, torch.bfloat16):
            after = after._replace(scores=before.scores.to(device), weight=before.weight.to(device))
        self._hold(after)
        self._renew_mark(device)
        return self

    @property
    def _is_hf_initialized(self) -> bool:
        """Whether transformers has filled this module; it asks for this name, and sets it.

        ``from_pretrained`` sets what is in the file by name, and tells it by the same attribute of
        the tensor; what is not in the file it sets to uninitialised memory, of which a loss that it
        does not know would never hear but by this call at the end.
        """
        return bool(self.__dict__.get("_filled_by_hf", False))

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, filled: bool) -> None:
        self.__dict__["_filled_by_hf"] = filled
        given = [tensor for name in _NAMES if (tensor := self._buffers[name]) is not None]
        if not given or given[0].is_meta:
            return
        is_whole = len(given) == len(_NAMES)
        if is_whole and all(getattr(tensor, "_is_hf_initialized", False) for tensor in given):
            check_counters(QueueState(*given))
            self._hold(QueueState(*(tensor.detach() for tensor in given)))
        else:
            self._hold(self._empty(given[0].device))
        self._renew_mark(given[0].device)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, part in zip(_NAMES, self.queue, strict=True):
            # Copies: what averages weights by walking over two state_dicts writes into them.
            destination[prefix + name] = part if keep_vars else part.detach().clone()

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
        keys = [prefix + name for name in _NAMES]
        others = {key: value for key, value in state_dict.items() if key not in keys}
        super()._load_from_state_dict(
            others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing = [key for key in keys if key not in state_dict]
        if missing:
            missing_keys.extend(missing)  # the parts belong together: none is taken
            return
        saved = QueueState(*(state_dict[key].detach() for key in keys))
        problem = self._misfit(saved, dict(zip(QueueState._fields, keys, strict=True)))
        if problem:
            error_msgs.append(problem)
            return
        fitting = resize_queue(saved, self._queue.weight.shape[0])
        if local_metadata.get("assign_to_params_buffers", False):
            self._hold(QueueState(*(part.clone() for part in fitting)))
            self._renew_mark(fitting.scores.device)
        elif not self._queue.scores.is_meta:  # torch leaves parameters without memory alone, too
            self._store(QueueState(*(part.to(self.queue.scores.device) for part in fitting)))

    def _misfit(self, saved: QueueState, keys: dict[str, str]) -> str:
        """Return why this module cannot take a checkpoint's queue; "" if it can."""
        name = type(self).__name__
        if saved.scores.shape[0] != self.num_classes:
            return (
                f"the checkpoint's queue {keys['scores']} has {saved.scores.shape[0]} classes, "
                f"this {name} has num_classes={self.num_classes}"
            )
        if saved.multilabel is not self.multilabel:
            return (
                f"the checkpoint's queue {keys['targets']} has multilabel={saved.multilabel}, "
                f"this {name} has multilabel={self.multilabel}"
            )
        problem = _misshapen(saved, self._queue, keys)
        if problem:
            return f"the checkpoint's {problem}"
        try:
            check_counters(saved)
        except ValueError as error:
            return f"the checkpoint's {keys['fill']} and {keys['cursor']} are wrong: {error}"
        return ""


def _misshapen(saved: QueueState, held: QueueState, keys: dict[str, str]) -> str:
    """Return which part of a saved queue, of any size, differs in shape or dtype; "" if none."""
    size = saved.scores.shape[-1]
    for name, part, own in zip(QueueState._fields, saved, held, strict=True):
        shape = (*own.shape[:-1], size) if own.ndim else ()
        floats = own.is_floating_point() and part.is_floating_point()  # of any width: see `_hold`
        if part.shape != shape or not (floats or part.dtype == own.dtype):
            return (
                f"{keys[name]} must have the shape {list(shape)} of a queue of {size} rows, and "
                f"the dtype {own.dtype}, got {list(part.shape)} and {part.dtype}"
            )
    return ""


def _moved(queue: QueueState, device: torch.device) -> QueueState:
    """Return the queue on a device; an empty one if it had no memory."""
    if queue.scores.is_meta:
        classes, size = queue.scores.shape
        return init_queue(size, classes, multilabel=queue.multilabel, device=device)
    return QueueState(*(part.to(device) for part in queue))


def _keeps_values(fn: Callable[[Tensor], Tensor], device: torch.device) -> bool:
    """Return whether a function that is applied to all tensors of a model keeps their values.

    It is tried on random numbers, small enough for any dtype: memory that was freed a moment ago
    may still hold whatever was tried before.
    """
    if device.type == "meta":
        return False
    tried = torch.tensor([byte % 16 for byte in os.urandom(64)], dtype=torch.float32, device="cpu")
    return torch.equal(fn(tried.to(device)).to("cpu", torch.float32), tried)
