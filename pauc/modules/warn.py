"""What makes the numbers of a step worth less than they look, in words."""

from __future__ import annotations

from typing import NamedTuple

from pauc.config import LossConfig
from pauc.core.outcome import Outcome
from pauc.presets import STARVED, recommend_queue_size


class Budget(NamedTuple):
    """The shares of the reference rows, from the top, between which those lie that count."""

    high: float
    low: float | None = None  # None: from the top score on

    def __str__(self) -> str:
        if self.low is None:
            return f"the top {self.high}"
        return f"the band [{self.low}, {self.high}]"


def no_dispersion(outcome: Outcome, config: LossConfig) -> str:
    """Return what to say of classes whose reference scores have no dispersion; "" if none."""
    # Lists: an operator on a few numbers costs more than they do.
    flags = outcome.degenerate.tolist()
    if True not in flags:
        return ""
    classes = [c for c, degenerate in enumerate(flags) if degenerate]
    shown = f"class {', '.join(map(str, classes[:5]))}" + (", ..." if classes[5:] else "")
    return (
        f"the reference scores of {shown} ({len(classes)} of {len(flags)}) have no "
        f"dispersion (tau_scale={config.tau_scale!r}, "
        f"temperature={config.temperature}): all equal, or too few for the scale. Such "
        "classes are left out of the loss. Cure: a larger queue_size or batch, another "
        "tau_scale or a wider band, or logits that have not collapsed"
    )


def starvation(outcome: Outcome, batch_rows: int, queue_size: int, budget: Budget | None) -> str:
    """Return what to say of a queue with too few rows for so small a budget; "" if enough.

    Args:
        outcome: of the step.
        batch_rows: of all ranks together.
        queue_size: rows of the queue, taken to be full.
        budget: what the loss rests on; None: on all rows.
    """
    if budget is None:
        return ""
    width = budget.high - (budget.low or 0.0)
    smallest = min(outcome.ref_count.tolist())
    # Without any reference row there is no share to extrapolate from.
    if smallest == 0 or smallest * width >= STARVED:
        return ""
    # At most 1: the parts of a sharded queue may together hold more than queue_size.
    share = min(smallest / (batch_rows + queue_size), 1.0)
    rows = recommend_queue_size(width, relative_error=STARVED**-0.5, positive_rate=1 - share)
    return (
        f"band starvation: {smallest} reference rows put {smallest * width:.3g} in {budget}, "
        f"fewer than {STARVED}, so that its edges are noise. Cure: "
        f"queue_size={rows - batch_rows} or more"
    )


def subsampling(rows: int, cap: int) -> str:
    """Return what to say of a pool of more rows than enter the surrogate; "" if all do."""
    if rows <= cap:
        return ""
    return (
        f"the pool of {rows} rows is above max_pool_size={cap}: the surrogate sees a random, "
        "reweighted part of it"
    )


def no_iid_mask(iid_share: float) -> str:
    """Return what to say of a call without ``iid_mask``; "" if its rows are all iid."""
    if iid_share == 1:
        return ""
    return (
        f"no iid_mask came with batches of which {iid_share:.3g} are iid, so that rows added by "
        "class or score count as a sample of the population, and the band lies too high. Cure: "
        "iid_mask=sampler.iid_mask"
    )
