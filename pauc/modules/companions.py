"""Recall at a quantile and Smooth-AP as modules, on the same queue as the partial AUC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pauc._public import public
from pauc.config import (
    RecallAtQuantileConfig,
    RecallAtQuantileOptions,
    SmoothAPConfig,
    SmoothAPOptions,
)
from pauc.modules.arguments import ModuleOptions
from pauc.modules.base import QueuedLoss
from pauc.modules.warn import Budget

if TYPE_CHECKING:
    from typing_extensions import Unpack

    class _RecallOptions(ModuleOptions, RecallAtQuantileOptions, total=False):
        """The keywords of the recall's constructor."""

    class _SmoothAPOptions(ModuleOptions, SmoothAPOptions, total=False):
        """The keywords of the Smooth-AP's constructor."""


@public
class RecallAtQuantileLoss(QueuedLoss):
    """One minus the soft recall above a quantile of all scores, with a queue of past rows.

    A thin holder of the queue around :func:`pauc.recall_at_quantile_loss_fn`, where the arithmetic
    is described.

    Args:
        num_classes: columns of the logits; 1 is binary. The other arguments that are no options are
            those of :class:`pauc.PAUCAtBudgetLoss`, but for ``shard_queue``, which must be False.
        **options: fields of :class:`pauc.RecallAtQuantileConfig`.

    Attributes:
        config: the :class:`pauc.RecallAtQuantileConfig`.

    Calls, return forms, errors, warnings and training on many ranks are those of
    :class:`pauc.PAUCAtBudgetLoss`; ``stats`` are those of :func:`pauc.recall_at_quantile_terms`.
    """

    config: RecallAtQuantileConfig
    _kind = RecallAtQuantileConfig

    if TYPE_CHECKING:

        def __init__(self, num_classes: int, **options: Unpack[_RecallOptions]) -> None: ...

    def _budget(self) -> Budget:
        return Budget(self.config.quantile)


@public
class SmoothAPLoss(QueuedLoss):
    """One minus the Smooth-AP, with a queue of past rows.

    A thin holder of the queue around :func:`pauc.smooth_ap_loss_fn`, where the arithmetic is
    described.

    Args:
        num_classes: columns of the logits; 1 is binary. The other arguments that are no options are
            those of :class:`pauc.PAUCAtBudgetLoss`, but for ``shard_queue``, which must be False.
        **options: fields of :class:`pauc.SmoothAPConfig`.

    Attributes:
        config: the :class:`pauc.SmoothAPConfig`.

    Calls, return forms, errors, warnings and training on many ranks are those of
    :class:`pauc.PAUCAtBudgetLoss`; ``stats`` are those of :func:`pauc.smooth_ap_terms`.
    """

    config: SmoothAPConfig
    _kind = SmoothAPConfig

    if TYPE_CHECKING:

        def __init__(self, num_classes: int, **options: Unpack[_SmoothAPOptions]) -> None: ...
