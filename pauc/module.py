"""The loss as a module: buffers for the queue around :func:`pauc.pauc_loss_terms`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from pauc.checks import check_int
from pauc.config import PAUCOptions, make_config
from pauc.distributed import (
    check_process_group,
    count_positives,
    gather_rows,
    is_gathering,
    sharded_terms,
    world_size,
)
from pauc.functional import PAUCTerms, pauc_loss_terms
from pauc.queue import QueueState, init_queue, recommend_queue_size, resize_queue
from pauc.sharded import check_shardable

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self, Unpack

# Fewer expected reference rows in the band than this make the edge a lottery.
_STARVED = 10


class PAUCAtBudgetLoss(nn.Module):
    """One minus the partial AUC over a band of FPR, with a memory of past rows.

    A thin holder of the queue around :func:`pauc.pauc_loss_fn`, where the arithmetic is described.

    Args:
        num_classes: columns of the logits; 1 is binary.
        queue_size: rows to remember; 0 disables the queue.
        update_queue_in_eval: let rows enter in ``eval()`` too.
        gather_distributed: compute the loss of all ranks' rows, with one queue on all ranks; see
            below. None: where :mod:`torch.distributed` runs with more than one rank. False: each
            rank is a world of its own.
        process_group: the ranks to gather over, where that is not all of them (the data-parallel
            group of a hybrid). Copies of the module share it, a pickle leaves it out.
        shard_queue: each rank keeps its own rows, ``queue_size`` of them in all, so that memory and
            work of a rank do not grow with the number of ranks; see below.
        validate_args: check values and warn; see :func:`pauc.pauc_loss_fn`. Off, a step has no
            host synchronisation.
        **options: fields of :class:`pauc.PAUCConfig`.

    Attributes:
        config: the :class:`pauc.PAUCConfig`.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.

    Warns:
        UserWarning: once per instance each, when a class has no dispersion, when the reference set
            is too small for the band, and when ``max_pool_size`` begins to subsample.

    With gathering, every rank calls the module in every step, in ``eval()`` too, with as many rows
    as it has, none included. The loss is that of the concatenated batch, the same on all ranks, and
    the gradient of a rank's rows is multiplied by the number of ranks: after the average over
    ranks that DDP and FSDP take, it is that of one process. Who sums gradients instead divides the
    loss by the number of ranks. See :func:`pauc.distributed.gather_rows`, and
    :func:`pauc.distributed.exclude_queues` for a loss inside the model that DDP wraps.

    With ``shard_queue``, rows do not travel, but for the negatives in the band: the loss is that of
    all ranks' rows, by the exchanges of :mod:`pauc.sharded`. The process group must be there when
    the module is built. Each rank's ``state_dict()`` has its own part of the queue and is to be
    saved and loaded by that rank; inside a model that DDP wraps, ``exclude_queues`` is a must. Not
    with ``max_pool_size``; the diagnostics ``pauc`` and ``realised_fpr`` are nan.
    """

    queue_scores: Tensor
    queue_targets: Tensor
    queue_iid: Tensor
    queue_weight: Tensor
    queue_cursor: Tensor
    queue_fill: Tensor
    queue_step: Tensor

    _version = 1

    def __init__(
        self,
        num_classes: int,
        *,
        queue_size: int = 1024,
        update_queue_in_eval: bool = False,
        gather_distributed: bool | None = None,
        process_group: ProcessGroup | None = None,
        shard_queue: bool = False,
        validate_args: bool = True,
        **options: Unpack[PAUCOptions],
    ) -> None:
        super().__init__()
        check_int("num_classes", num_classes, 1)
        check_int("queue_size", queue_size, 0)
        flags = {
            "update_queue_in_eval": update_queue_in_eval,
            "shard_queue": shard_queue,
            "validate_args": validate_args,
        }
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be a bool, got {value!r}")
        if gather_distributed is not None and not isinstance(gather_distributed, bool):
            raise TypeError(
                f"gather_distributed must be a bool or None, got {gather_distributed!r}"
            )
        check_process_group(process_group)
        self.config = make_config(options)
        self.num_classes = num_classes
        self.queue_size = queue_size
        self.update_queue_in_eval = update_queue_in_eval
        self.gather_distributed = gather_distributed
        self.process_group = process_group
        self.validate_args = validate_args
        self.shard_queue = shard_queue
        self._warned: set[str] = set()
        rows = self._shard_rows() if shard_queue else queue_size
        for name, value in init_queue(rows, num_classes)._asdict().items():
            self.register_buffer(f"queue_{name}", value)

    @property
    def queue(self) -> QueueState:
        """The queue's state; its tensors are the module's buffers."""
        return QueueState(*(getattr(self, f"queue_{name}") for name in QueueState._fields))

    # Each return form twice: flags by keyword, and by position behind iid_mask.
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
        iid_mask: Tensor | None,
        return_per_class: Literal[True],
        return_diagnostics: Literal[False] = ...,
        *,
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
        iid_mask: Tensor | None,
        return_per_class: Literal[False],
        return_diagnostics: Literal[True],
        *,
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
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None,
        return_per_class: Literal[True],
        return_diagnostics: Literal[True],
        *,
        sample_weight: Tensor | None = ...,
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]: ...
    @overload
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = ...,
        return_per_class: bool = ...,
        return_diagnostics: bool = ...,
        *,
        sample_weight: Tensor | None = ...,
    ) -> Tensor | tuple[Any, ...]: ...
    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        iid_mask: Tensor | None = None,
        return_per_class: bool = False,
        return_diagnostics: bool = False,
        *,
        sample_weight: Tensor | None = None,
    ) -> Tensor | tuple[Any, ...]:
        """Return the loss; the batch then enters the queue (in ``eval()`` only if asked).

        Args:
            logits, targets, iid_mask, sample_weight: see :func:`pauc.pauc_loss_fn`.
            return_per_class: also return the losses ``[C]`` (nan where invalid) and ``valid``
                ``[C]`` bool.
            return_diagnostics: also return ``stats``, see :func:`pauc.diagnostics.diagnose`. With
                gathering, they are those of all ranks' rows; ``grad_pos_count`` is this rank's.

        Returns:
            ``loss``, ``(loss, per_class, valid)``, ``(loss, stats)`` or
            ``(loss, per_class, valid, stats)``.

        Raises:
            TypeError, ValueError: see :func:`pauc.pauc_loss_fn`.
            RuntimeError, ValueError: see :func:`pauc.distributed.gather_rows`.
        """
        own_targets, gathering = targets, is_gathering(self.gather_distributed, self.process_group)
        arguments: dict[str, Any] = {
            "iid_mask": iid_mask,
            "sample_weight": sample_weight,
            "validate_args": self.validate_args,
        }
        ranks = {
            "settings": {**self._settings(), "training": self.training},
            "group": self.process_group,
        }
        if self.shard_queue:
            terms, batch_rows = sharded_terms(
                logits,
                targets,
                self.queue,
                self.config,
                diagnostics=return_diagnostics,
                **arguments,
                **ranks,
            )
        else:
            if gathering:
                logits, targets, iid_mask, sample_weight = gather_rows(
                    logits, targets, self.queue, self.config, **arguments, **ranks
                )
                arguments |= {"iid_mask": iid_mask, "sample_weight": sample_weight}
            terms = pauc_loss_terms(
                logits,
                targets,
                self.queue,
                diagnostics=return_diagnostics,
                **arguments,
                **self.config._asdict(),
            )
            batch_rows = logits.shape[0]
        if self.validate_args and not torch.compiler.is_compiling():
            self._warn(terms, batch_rows)
        if self.training or self.update_queue_in_eval:
            self._store(terms.queue)
        if gathering and return_diagnostics and not self.shard_queue:
            own = count_positives(own_targets, self.num_classes, self.config.ignore_index)
            terms.stats["grad_pos_count"] = torch.where(terms.valid, own, 0)
        returned: tuple[Any, ...] = (terms.loss,)
        if return_per_class:
            returned += (terms.per_class, terms.valid)
        if return_diagnostics:
            returned += (terms.stats,)
        return returned if len(returned) > 1 else terms.loss

    if TYPE_CHECKING:
        __call__ = forward  # so that the types follow the flags in a call, too

    def reset_queue(self) -> None:
        """Empty the queue."""
        held = self.queue_scores
        empty = init_queue(held.shape[1], self.num_classes, dtype=held.dtype, device=held.device)
        self._store(empty)

    def extra_repr(self) -> str:
        """Return the configuration: the number of classes, the queue, then every option."""
        shown = {**self._settings(), "gather_distributed": self.gather_distributed}
        return f"{self.num_classes}, " + ", ".join(f"{k}={v!r}" for k, v in shown.items())

    def _settings(self) -> dict[str, object]:
        return {
            "queue_size": self.queue_size,
            **self.config._asdict(),
            "update_queue_in_eval": self.update_queue_in_eval,
            "shard_queue": self.shard_queue,
            "validate_args": self.validate_args,
        }

    def _shard_rows(self) -> int:
        """Return how many rows of the queue this rank keeps."""
        check_shardable(self.config)
        if self.gather_distributed is False:
            raise ValueError("shard_queue=True needs gathering, got gather_distributed=False")
        return -(-self.queue_size // world_size(self.process_group))

    def __deepcopy__(self, memo: dict[int, Any]) -> PAUCAtBudgetLoss:
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
            held = getattr(self, f"queue_{name}")
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

    def _warn(self, terms: PAUCTerms, batch_rows: int) -> None:
        """Warn, once per kind, about what makes the numbers worth less than they look."""
        found = {
            "degenerate": self._no_dispersion(terms),
            "starved": self._starvation(terms, batch_rows),
            "subsampled": self._subsampling(batch_rows),
        }
        for kind, message in found.items():
            if message and kind not in self._warned:
                self._warned.add(kind)
                # The caller is behind forward and two frames of nn.Module.
                warnings.warn(f"PAUCAtBudgetLoss: {message}.", UserWarning, stacklevel=5)

    def _no_dispersion(self, terms: PAUCTerms) -> str:
        classes = terms.degenerate.nonzero().flatten().tolist()
        if not classes:
            return ""
        shown = f"class {', '.join(map(str, classes[:5]))}" + (", ..." if classes[5:] else "")
        return (
            f"the reference scores of {shown} ({len(classes)} of {self.num_classes}) have no "
            f"dispersion (tau_scale={self.config.tau_scale!r}, "
            f"temperature={self.config.temperature}): all equal, or too few for the band. Such "
            "classes are left out of the loss. Cure: a larger queue_size or batch, a wider "
            "band, or logits that have not collapsed"
        )

    def _starvation(self, terms: PAUCTerms, batch_rows: int) -> str:
        smallest = int(terms.ref_count.min())
        width = self.config.beta - self.config.alpha
        full = int(self.queue_fill) == self.queue_scores.shape[1]
        # Without any reference row there is no share to extrapolate from.
        if not full or smallest == 0 or smallest * width >= _STARVED:
            return ""
        # At most 1: the parts of a sharded queue may together hold more than queue_size.
        share = min(smallest / (batch_rows + self.queue_size), 1.0)
        rows = recommend_queue_size(
            self.config.beta,
            alpha=self.config.alpha,
            relative_error=_STARVED**-0.5,
            positive_rate=1 - share,
        )
        enough = rows - batch_rows
        return (
            f"band starvation: {smallest} reference rows put {smallest * width:.3g} in the band "
            f"[{self.config.alpha}, {self.config.beta}], fewer than {_STARVED}, so that its edges "
            f"are noise. Cure: queue_size={enough} or more"
        )

    def _subsampling(self, batch_rows: int) -> str:
        rows, cap = batch_rows + int(self.queue_fill), self.config.max_pool_size
        if cap is None or rows <= cap:
            return ""
        return (
            f"the pool of {rows} rows is above max_pool_size={cap}: the surrogate sees a random, "
            "reweighted part of it"
        )

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
                f"this PAUCAtBudgetLoss has num_classes={self.num_classes}"
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
