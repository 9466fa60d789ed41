"""The configuration that the coverage study supports, from what a person knows beforehand."""

from __future__ import annotations

import math
from typing import NamedTuple

from pauc.checks import check_int, check_real
from pauc.config import PAUCOptions
from pauc.queue import recommend_queue_size

# Negatives of a batch in the band: with fewer a step is mostly noise, and where the classes overlap
# down to a high FPR, a narrow band learns that noise by heart.
_LIVE_NEGATIVES = 50
# A band wider than this trains the middle of the curve and not its start.
_WIDEST_BAND = 0.1
# Positives in the pool, to set against a negative of the batch.
_POOL_POSITIVES = 50
_LONGEST_QUEUE = 65_536


class BudgetPreset(NamedTuple):
    """What :func:`preset_for_budget` chose.

    Attributes:
        queue_size: rows.
        options: keywords of :func:`pauc.pauc_loss_fn`.
    """

    queue_size: int
    options: PAUCOptions


def preset_for_budget(budget: float, *, batch_size: int, positive_rate: float) -> BudgetPreset:
    """Return the training recipe for a budget of false alarms.

    BCE with a small weight holds scale and bulk of the scores; logistic pairs work on their top,
    in raw logit units, from a cold start, and with a gradient that a long queue does not shrink.

    - The band goes from 0 to the budget, or further, until 50 negatives of a batch lie in it: with
      fewer the gradient is mostly noise. At most to an FPR of 0.1.
    - The queue is so long that 100 of its negatives lie in the band
      (:func:`pauc.recommend_queue_size`) and that it has 50 positives; at most 65,536 rows.

    Args:
        budget: the false-positive rate to train for, a fraction in (0, 1].
        batch_size: rows that the loss sees in a step, of all ranks together.
        positive_rate: share of positives among the rows, in (0, 1); with several classes, that of
            the rarest that matters.

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
    beta = max(budget, min(_LIVE_NEGATIVES / batch_size, _WIDEST_BAND))
    rows = max(
        recommend_queue_size(beta, positive_rate=positive_rate),
        math.ceil(_POOL_POSITIVES / positive_rate),
    )
    options: PAUCOptions = {
        "beta": beta,
        "surrogate": "pairwise",
        "link": "logistic",
        "gradient_scale": "live",
        "tau_scale": "unit",
        "temperature": 1.0,
        "bce_weight": 0.1,
    }
    return BudgetPreset(min(rows, _LONGEST_QUEUE), options)
