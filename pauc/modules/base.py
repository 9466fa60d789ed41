"""What the loss modules have in common: the constructor, and the way of a batch in ``forward``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from torch import Tensor

from pauc.backends import Plan, fitting_bounds, plan_step, take_step
from pauc.config import LossConfig, make_any_config, options_of
from pauc.core.batch import Rows
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState
from pauc.distributed.gather import gather
from pauc.distributed.ranks import is_gathering, queue_rows_of_a_rank
from pauc.distributed.sharded import check_shardable, sharded_step
from pauc.modules.arguments import check_arguments
from pauc.modules.moving import MovingOptions
from pauc.modules.passing import refuse_passing_calls
from pauc.modules.scripted import not_in_scripts
from pauc.modules.watched import WatchedLoss

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self


class QueuedLoss(WatchedLoss):
    """A queue around the pure functions; a loss says which config it has, and on what it rests.

    The arguments are described at :class:`pauc.PAUCAtBudgetLoss`.
    """

    _kind: ClassVar[type[LossConfig]]  # of the config

    def __init__(
        self,
        num_classes: int,
        *,
        multilabel: bool = False,
        queue_size: int = 1024,
        update_queue_in_eval: bool = False,
        gather_distributed: bool | None = None,
        process_group: ProcessGroup | None = None,
        shard_queue: bool = False,
        validate_args: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        check_arguments(
            num_classes,
            queue_size,
            gather_distributed,
            process_group,
            multilabel=multilabel,
            update_queue_in_eval=update_queue_in_eval,
            shard_queue=shard_queue,
            validate_args=validate_args,
        )
        config = make_any_config(self._kind, options)
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.queue_size = queue_size
        self.update_queue_in_eval = update_queue_in_eval
        self.gather_distributed = gather_distributed
        self.process_group = process_group
        self.shard_queue = shard_queue
        self.validate_args = validate_args
        self._watch_from_here()
        if shard_queue:
            check_shardable(config, gather_distributed)
            queue_size = queue_rows_of_a_rank(queue_size, process_group)
        self._make_queue(queue_size)
        # Where the native step looks first. No state: a step without it has the same outcome.
        self._bounds = fitting_bounds(None, self._queue)
        self._moving = MovingOptions()
        self.config = config

    @property
    def config(self) -> Any:
        """The options of the loss; to be replaced as a whole."""
        return self._config

    @config.setter
    def config(self, config: Any) -> None:
        if not isinstance(config, self._kind):
            raise TypeError(f"config must be a {self._kind.__name__}, got {type(config).__name__}")
        options = options_of(config)
        for name, value in options.items():
            if isinstance(value, Tensor):
                raise TypeError(f"{name} must be a number in a module, got a tensor")
        if self.shard_queue:
            check_shardable(config, self.gather_distributed)
        self._plan = plan_step(make_any_config(self._kind, options))
        self._config = config
        self._moving.write(config, self.queue.fill.device)

    def move_config(self, values: Mapping[str, Any], moving: Iterable[str]) -> None:
        """Set fields of ``config``; those that are ``moving`` will be set again and again.

        A step that is compiled or captured takes these from tensors, which are written in place, so
        that one graph serves all their values. For :class:`pauc.PAUCSchedule`.
        """
        self.config = self.config._replace(**values)  # first: it may be refused
        self._moving.follow(moving, self.queue.fill.device)
        self._moving.write(self.config, self.queue.fill.device)

    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: Literal[False] = ...,
        return_diagnostics: Literal[False] = ...,
        *,
        sample_weight: Tensor | None = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        *,
        return_per_class: Literal[True],
        return_diagnostics: Literal[False] = ...,
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: Literal[False] = ...,
        *,
        return_diagnostics: Literal[True],
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        *,
        return_per_class: Literal[True],
        return_diagnostics: Literal[True],
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]: ...
    @overload  # flags by position, or known at run time only
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: bool = ...,
        return_diagnostics: bool = ...,
        *,
        sample_weight: Tensor | None = ...,
    ) -> Any: ...
    @not_in_scripts
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = None,
        return_per_class: bool = False,
        return_diagnostics: bool = False,
        *,
        sample_weight: Tensor | None = None,
    ) -> Any:
        """Return the loss; the batch then enters the queue (in ``eval()`` only if asked).

        Args:
            logits, targets, iid_mask, sample_weight: see :func:`pauc.pauc_loss_fn`.
            return_per_class: also return the losses ``[C]`` (nan where invalid) and ``valid``
                ``[C]`` bool.
            return_diagnostics: also return ``stats``, ``[C]`` tensors that the loss's class
                describes. With gathering, they are those of all ranks' rows; ``grad_pos_count`` is
                this rank's.

        Returns:
            ``loss``, ``(loss, per_class, valid)``, ``(loss, stats)`` or
            ``(loss, per_class, valid, stats)``.

        Raises:
            TypeError, ValueError: see :func:`pauc.pauc_loss_fn`.
            RuntimeError, ValueError: see :func:`pauc.distributed.gather_rows`.
            RuntimeError: the queue would move inside a backward pass, as where activation
                checkpointing computes the loss a second time, in a replica of ``DataParallel``, or
                in a trace.
        """
        moves, compiling = self._queue_moves(), torch.compiler.is_compiling()
        if moves and not compiling:
            refuse_passing_calls(self)
        rows = Rows(logits, targets, iid_mask, sample_weight)
        queue = self.queue
        outcome, batch_rows = self._compute(rows, queue, return_diagnostics)
        if self.validate_args and not compiling:
            self._warn(outcome, batch_rows, iid_mask is not None)
        if moves:
            after = outcome.entry.into(queue, in_place=True)
            if after is not queue:  # not written in place
                self._store(after)
            if self._original:
                self._original = ()  # a copy with rows of its own follows nobody any more
        returned: tuple[Any, ...] = (outcome.loss,)
        if return_per_class:
            returned += (outcome.per_class, outcome.valid)
        if return_diagnostics:
            returned += (outcome.stats,)
        return returned if len(returned) > 1 else outcome.loss

    if TYPE_CHECKING:
        __call__ = forward  # so that the types follow the flags in a call, too

    def _compute(self, rows: Rows, queue: QueueState, diagnostics: bool) -> tuple[Outcome, int]:
        """Return the outcome of all ranks' rows, before they enter, and how many rows those are."""
        if not is_gathering(self.gather_distributed, self.process_group):
            outcome = self._take_step(rows, queue, diagnostics)
            return outcome, rows.logits.shape[0]
        agreement = {
            "settings": {**self._settings(), "training": self.training},
            "group": self.process_group,
        }
        given = (rows, queue, self.config, self.validate_args)
        if self.shard_queue:
            outcome, count = sharded_step(*given, diagnostics, **agreement)
            return outcome, count
        gathered, own = gather(*given, **agreement)
        outcome = self._take_step(gathered, queue, diagnostics, are_checked=True)
        if diagnostics:
            outcome.stats["grad_pos_count"] = torch.where(outcome.valid, own.count_positives(), 0)
        return outcome, gathered.logits.shape[0]

    def _take_step(
        self, rows: Rows, queue: QueueState, diagnostics: bool, are_checked: bool = False
    ) -> Outcome:
        outcome, bounds = take_step(
            rows,
            queue,
            self._current_plan(),
            bounds=self._bounds,
            validate_args=self.validate_args,
            are_checked=are_checked,
            diagnostics=diagnostics,
            queue_moves=self._queue_moves(),
        )
        if bounds is self._bounds:
            return outcome
        if not torch.compiler.is_compiling():
            self._bounds = bounds
        elif bounds is not None and self._bounds is not None:
            self._bounds.copy_(bounds)  # a graph changes tensors, and no attributes
        return outcome

    def _current_plan(self) -> Plan:
        """Return the plan for ``config``, or for one with tensors in place of what moves."""
        if not self._moving.are_read(self._queue.fill):
            return self._plan
        return plan_step(make_any_config(self._kind, self._moving.options_of(self)))

    def extra_repr(self) -> str:
        """Return the configuration: classes, queue, every option; then a recipe's reasons."""
        shown = {**self._settings(), "gather_distributed": self.gather_distributed}
        settings = f"{self.num_classes}, " + ", ".join(f"{k}={v!r}" for k, v in shown.items())
        reasons = () if self._preset is None else self._preset.reasons
        return "\n".join([settings, *(f"# {reason}" for reason in reasons)])

    def _settings(self) -> dict[str, object]:
        return {
            "queue_size": self.queue_size,
            "multilabel": self.multilabel,
            **options_of(self.config),
            "update_queue_in_eval": self.update_queue_in_eval,
            "shard_queue": self.shard_queue,
            "validate_args": self.validate_args,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the plan, which follows from the config and is of private types."""
        return {name: value for name, value in super().__getstate__().items() if name != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._plan = plan_step(self._config)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._bounds = fitting_bounds(self._bounds, self.queue)
        self._moving.write(self.config, self.queue.fill.device)
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self._moving.write(self.config, self.queue.fill.device)  # the queue may have moved
