"""A step of any loss by torch operators: which function computes which kind of config."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pauc.config import LossConfig, PAUCConfig, RecallAtQuantileConfig, SmoothAPConfig
from pauc.core import partial_auc, recall, smooth_ap
from pauc.core.batch import Rows, make_batch
from pauc.core.outcome import Outcome
from pauc.core.queue import QueueState, check_counters
from pauc.support import Support


class _Core(NamedTuple):
    """How torch operators compute one kind of config."""

    support: Support
    take_step: Callable[..., Outcome]


_CORE: dict[type, _Core] = {
    PAUCConfig: _Core(partial_auc.SUPPORT, partial_auc.partial_auc_step),
    RecallAtQuantileConfig: _Core(recall.SUPPORT, recall.recall_step),
    SmoothAPConfig: _Core(smooth_ap.SUPPORT, smooth_ap.smooth_ap_step),
}


def core_refusal(config: LossConfig) -> str | None:
    """Return which option torch operators cannot compute, and why; None if they can all."""
    return _CORE[type(config)].support.refusal(config)


def core_step(
    rows: Rows,
    queue: QueueState,
    config: LossConfig,
    *,
    check_values: bool,
    read_values: bool,
    diagnostics: bool = False,
) -> Outcome:
    """Return the outcome that torch operators compute.

    Args:
        rows: have passed :func:`pauc.core.batch.check_rows`.
        queue: before the step.
        config: checked.
        check_values: look at targets and weights.
        read_values: look at the queue's counters, and size work arrays by what is in the rows.
        diagnostics: also compute ``stats``.

    Raises:
        ValueError: a value that is not legal.
    """
    if read_values:
        check_counters(queue)
    batch = make_batch(rows, queue, config.ignore_index, check_values=check_values)
    core = _CORE[type(config)]
    return core.take_step(batch, queue, config, read_values=read_values, diagnostics=diagnostics)
