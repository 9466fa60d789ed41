"""The configuration that the coverage study supports, from what a person knows beforehand."""

from __future__ import annotations

import math
from typing import NamedTuple

from pauc.checks import check_int, check_real
from pauc.config import PAUCOptions
from pauc.core.queue import recommend_queue_size

# Negatives of a batch in the band: with fewer a step is mostly noise, and where the classes overlap
# down to a high FPR, a narrow band learns that noise by heart.
_LIVE_NEGATIVES = 50
# A band wider than this trains the middle of the curve and not its start.
_WIDEST_BAND = 0.1
# Positives to set against a negative of the batch: of the batch alone, or of the pool.
_POSITIVES = 50
# With fewer in a batch their number is no divisor to rely on: a lone one would weigh as much as
# five do in the next batch, and where there is none the negatives would be pushed alone.
_COUNTABLE = 5
_LONGEST_QUEUE = 65_536


class BudgetPreset(NamedTuple):
    """What :func:`preset_for_budget` chose.

    Attributes:
        queue_size: rows.
        options: keywords of :func:`pauc.pauc_loss_fn`.
    """

    queue_size: int
    options: PAUCOptions


def preset_for_budget(
    budget: float, *, batch_size: int, positive_rate: float, iid_share: float = 1.0
) -> BudgetPreset:
    """Return the training recipe for a budget of false alarms.

    BCE with a small weight holds scale and bulk of the scores; logistic pairs work on their top,
    in raw logit units and from a cold start.

    - The band goes from 0 to the budget, or further, until 50 negatives of a batch lie in it: with
      fewer the gradient is mostly noise. At most to an FPR of 0.1.
    - The queue is so long that some 100 of its iid negatives lie in the band
      (:func:`pauc.recommend_queue_size`); at most 65,536 rows.
    - Batches with 50 positives do without those of the queue (``pos_numerator="live"``), which are
      out of date. With fewer, the queue is so long that it has 50, within the same limit.
    - From 5 positives in a batch on, a long queue does not shrink the gradient
      (``gradient_scale="live"``). With fewer it does, so that every positive counts the same, and
      the BCE, whose gradient it does not shrink, leads.

    Args:
        budget: the false-positive rate to train for, a fraction in (0, 1].
        batch_size: rows that the loss sees in a step, of all ranks together.
        positive_rate: share of positives among the rows of a batch, in (0, 1); with several
            classes, that of the rarest that matters.
        iid_share: share of iid rows in a batch, in (0, 1]; :attr:`pauc.BandSampler.iid_share`, as
            ``positive_rate`` is then :attr:`pauc.BandSampler.positive_rate`.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """
    check_real("budget", budget)
    if not 0 < budget <= 1:
        raise ValueError(f"budget must be a fraction in (0, 1], got {budget!r}")
    check_int("batch_size", batch_size, 1)
    check_real("positive_rate", positive_rate)
    if not 0 < positive_rate < 1:
        raise ValueError(f"positive_rate must be a fraction in (0, 1), got {positive_rate!r}")
    check_real("iid_share", iid_share)
    if not 0 < iid_share <= 1:
        raise ValueError(f"iid_share must be a fraction in (0, 1], got {iid_share!r}")
    beta = max(budget, min(_LIVE_NEGATIVES / batch_size, _WIDEST_BAND))
    # About so many rows are iid negatives: more, where positives were added to the batch; fewer,
    # where hard negatives alone were.
    reference_share = iid_share * (1 - positive_rate)
    rows = recommend_queue_size(beta, positive_rate=1 - reference_share)
    positives = batch_size * positive_rate
    enough = positives >= _POSITIVES
    if not enough:
        rows = max(rows, math.ceil(_POSITIVES / positive_rate))
    options: PAUCOptions = {
        "beta": beta,
        "surrogate": "pairwise",
        "link": "logistic",
        "gradient_scale": "live" if positives >= _COUNTABLE else "pool",
        "pos_numerator": "live" if enough else "pool",
        "tau_scale": "unit",
        "temperature": 1.0,
        "bce_weight": 0.1,
    }
    return BudgetPreset(min(rows, _LONGEST_QUEUE), options)
