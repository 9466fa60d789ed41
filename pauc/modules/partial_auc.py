"""The partial AUC as a module: a queue around :func:`pauc.pauc_loss_terms`, whole or in shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pauc.checks import check_flag
from pauc.config import PAUCConfig, PAUCOptions, make_config, options_of
from pauc.core.partial_auc import composed_terms
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms
from pauc.distributed.gather import sharded_terms, world_size
from pauc.distributed.sharded import check_shardable
from pauc.modules.base import QueuedLoss
from pauc.native.step import Entry, enter_, native_options, pauc_step
from pauc.presets import preset_for_budget

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Self, Unpack


class _Advance(NamedTuple):
    """What a step does to the queue, where it does not make a new one."""

    before: QueueState
    entry: Entry


class PAUCAtBudgetLoss(QueuedLoss):
    """One minus the partial AUC over a band of FPR, with a memory of past rows.

    A thin holder of the queue around :func:`pauc.pauc_loss_fn`, where the arithmetic is described.

    Args:
        num_classes: columns of the logits; 1 is binary.
        multilabel: targets are ``[N, C]`` of 0, 1 and ``ignore_index``, each class with its own.
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
    all ranks' rows, by the exchanges of :mod:`pauc.distributed.sharded`. The process group must
    be there when the module is built. Each rank's ``state_dict()`` has its own part of the queue and is to be
    saved and loaded by that rank; inside a model that DDP wraps, ``exclude_queues`` is a must. Not
    with ``max_pool_size``; the diagnostics ``pauc`` and ``realised_fpr``
    are nan.

    The ``stats`` of a call are described at :func:`pauc.core.diagnostics.diagnose`.
    """

    config: PAUCConfig

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
        **options: Unpack[PAUCOptions],
    ) -> None:
        check_flag("shard_queue", shard_queue)
        # Not a buffer, since it is no state: a step without it has the same outcome.
        self._bounds: Tensor | None = None
        self._advance: _Advance | None = None
        self.shard_queue = shard_queue  # before the buffers, whose size it decides
        super().__init__(
            make_config(options),
            num_classes,
            multilabel=multilabel,
            queue_size=queue_size,
            update_queue_in_eval=update_queue_in_eval,
            gather_distributed=gather_distributed,
            process_group=process_group,
            validate_args=validate_args,
        )
        self._checked = self.config
        self._native_options = native_options(self.config)

    @classmethod
    def for_budget(
        cls,
        budget: float,
        *,
        batch_size: int,
        positive_rate: float,
        iid_share: float = 1.0,
        num_classes: int = 1,
        **overrides: Any,
    ) -> Self:
        """Return the loss that needs no tuning and no warm-up; `print` shows what was chosen.

        Args:
            budget, batch_size, positive_rate, iid_share: see
                :func:`pauc.presets.preset_for_budget`, which says what follows from them and why.
            num_classes: columns of the logits; 1 is binary.
            **overrides: arguments of the class, in place of what the preset chose.

        Raises:
            TypeError, ValueError: a bad argument, named with what was expected and what came.
        """
        preset = preset_for_budget(
            budget, batch_size=batch_size, positive_rate=positive_rate, iid_share=iid_share
        )
        chosen: dict[str, Any] = {"queue_size": preset.queue_size, **preset.options, **overrides}
        return cls(num_classes, **chosen)

    def _own_rows(self) -> int:
        if not self.shard_queue:
            return self.queue_size
        check_shardable(self.config)
        if self.gather_distributed is False:
            raise ValueError("shard_queue=True needs gathering, got gather_distributed=False")
        return -(-self.queue_size // world_size(self.process_group))

    def _settings(self, **more: object) -> dict[str, object]:
        return super()._settings(shard_queue=self.shard_queue, **more)

    def _budget(self) -> tuple[float, str]:
        alpha, beta = float(self.config.alpha), float(self.config.beta)
        return beta - alpha, f"the band [{alpha}, {beta}]"

    def _step(
        self, logits: Tensor, targets: Tensor, diagnostics: bool, **side: Any
    ) -> tuple[PAUCTerms, int]:
        if not self.shard_queue:
            return super()._step(logits, targets, diagnostics, **side)
        terms_and_rows: tuple[PAUCTerms, int] = sharded_terms(
            logits,
            targets,
            self.queue,
            self.config,
            diagnostics=diagnostics,
            **side,
            **self._agreement(),
        )
        return terms_and_rows

    def _terms(self, logits: Tensor, targets: Tensor, diagnostics: bool, **side: Any) -> PAUCTerms:
        if torch.compiler.is_compiling():  # nothing but the queue may change then
            config = make_config(options_of(self._step_config()))
            return composed_terms(
                logits, targets, self.queue, config, diagnostics=diagnostics, **side
            )
        if self.config is not self._checked:  # a schedule, or a person, has set another
            # Not `config`, which would write what moves, and a CUDA graph would record that.
            self._config = self._checked = make_config(options_of(self.config))
            self._native_options = native_options(self._checked)
        queue = self.queue
        moves = self.training or self.update_queue_in_eval
        terms, entry, self._bounds = pauc_step(
            logits,
            targets,
            queue,
            self._bounds,
            self._step_config(),
            self._native_options,
            diagnostics=diagnostics,
            queue_moves=moves,
            **side,
        )
        self._advance = _Advance(queue, entry) if moves and entry is not None else None
        return terms

    def _store(self, state: QueueState) -> None:
        """Take over a state; of a native step, write only the rows that enter."""
        advance, self._advance = self._advance, None
        if advance is None or state is not advance.before:
            super()._store(state)
            return
        enter_(self.queue, advance.entry)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_advance": None}
