"""The partial AUC as a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pauc._public import public
from pauc.config import PAUCConfig, PAUCOptions
from pauc.modules.arguments import ModuleOptions
from pauc.modules.base import QueuedLoss
from pauc.modules.health import find_idle, find_stall
from pauc.modules.warn import Budget
from pauc.presets import DrawsBatches, preset_for_budget

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    class _Options(ModuleOptions, PAUCOptions, total=False):
        """The keywords of the constructor."""


@public
class PAUCAtBudgetLoss(QueuedLoss):
    """One minus the partial AUC over a band of FPR, with a queue of past rows.

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
        shard_queue: experimental: each rank keeps its own rows, ``queue_size`` of them in all, so
            that memory and work of a rank do not grow with the number of ranks; see below.
        validate_args: check values and warn; see :func:`pauc.pauc_loss_fn`. On an accelerator the
            warnings come in the calls that look at the queue, and no other call waits.
        **options: fields of :class:`pauc.PAUCConfig`.

    Attributes:
        config: the :class:`pauc.PAUCConfig`.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.

    Warns:
        UserWarning: once per instance each, when a class has no dispersion, when the reference set
            is too small for the band, and when ``max_pool_size`` begins to subsample. At the 32nd
            call, the 64th and so on the queue is looked at, for a class that never comes, scores
            that have collapsed or look like probabilities, and a training that is stalled.

    With gathering, every rank calls the module in every step, in ``eval()`` too, with as many rows
    as it has, none included. The loss is that of the concatenated batch, the same on all ranks, and
    the gradient of a rank's rows is multiplied by the number of ranks: after the average over
    ranks that DDP and FSDP take, it is that of one process. Who sums gradients instead divides the
    loss by the number of ranks. See :func:`pauc.distributed.gather_rows`.

    With ``shard_queue``, which is experimental, rows do not travel, but for the negatives in the
    band: the loss is that of all ranks' rows, by exchanges of sums. The process group must be there
    when the module is built. Each rank's ``state_dict()`` has its own part of the queue and is to
    be saved and loaded by that rank. Not with ``max_pool_size``; the diagnostics ``pauc`` and
    ``realised_fpr`` are nan.

    It may stand inside a model that is averaged, copied, cast or loaded by name; not inside
    :class:`torch.nn.DataParallel` or a region of activation checkpointing, where it raises.

    The ``stats`` of a call are described at :func:`pauc.pauc_loss_terms`.
    """

    config: PAUCConfig
    _kind = PAUCConfig

    if TYPE_CHECKING:

        def __init__(self, num_classes: int, **options: Unpack[_Options]) -> None: ...

    @classmethod
    def for_budget(
        cls,
        budget: float,
        *,
        batch_size: int | None = None,
        positive_rate: float | None = None,
        iid_share: float | None = None,
        sampler: DrawsBatches | None = None,
        num_classes: int = 1,
        **overrides: Any,
    ) -> Self:
        """Return the loss that needs no tuning and no warm-up; `print` says what it chose and why.

        Args:
            budget, batch_size, positive_rate, iid_share, sampler: see
                :func:`pauc.presets.preset_for_budget`, which says what follows from them and why.
            num_classes: columns of the logits; 1 is binary.
            **overrides: arguments of the class, in place of what the preset chose.

        Raises:
            TypeError, ValueError: a bad argument, named with what was expected and what came.

        Warns:
            UserWarning: once per instance each, on top of what the class warns of, where no
                ``iid_mask`` comes with batches that are not iid, and where their rate of positives
                is another than was told.
        """
        preset = preset_for_budget(
            budget,
            batch_size=batch_size,
            positive_rate=positive_rate,
            iid_share=iid_share,
            sampler=sampler,
        )
        chosen: dict[str, Any] = {"queue_size": preset.queue_size, **preset.options, **overrides}
        loss = cls(num_classes, **chosen)
        loss._preset = preset.without(overrides)
        return loss

    def _look_at_queue(self) -> dict[str, str]:
        found = super()._look_at_queue()
        if float(self.config.pauc_weight) > 0:  # in a warm-up, BCE alone may take its time
            band = float(self.config.alpha), float(self.config.beta)
            found["stalled"] = find_stall(self.queue, *band, self._seen.calls)
            if self.config.weight_scale == "explained" and not found["stalled"]:
                found["idle"] = find_idle(self.queue, *band, self._seen.calls)
        return found

    def _budget(self) -> Budget:
        config = self.config
        return Budget(float(config.beta), float(config.alpha))
