"""Rules of thumb: how long a queue must be, and the options that the coverage study supports."""

from __future__ import annotations

import math
from typing import NamedTuple

from pauc.checks import check_band, check_int, check_real
from pauc.config import PAUCOptions

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
# With fewer expected reference rows in the band than this, chance decides where its edges lie: the
# loss warns, and the picture of the band's count draws a line here.
STARVED = 10


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


def recommend_queue_size(
    beta: float,
    *,
    alpha: float = 0.0,
    relative_error: float = 0.1,
    positive_rate: float = 0.0,
) -> int:
    """Return the fewest rows whose reference scores place the band's edges as well as asked.

    The FPR beyond the ``k``-th largest of ``n`` negatives is Beta(k, n + 1 - k) distributed,
    whatever the scores (David and Nagaraja 2003, section 2.5), and so is the FPR between two of
    them that are ``k`` apart. With ``k = n (beta - alpha)`` its standard deviation relative to its
    mean is below, and for a narrow band near, ``1 / sqrt(n (beta - alpha))``: 100 rows in the band
    for 10 %. Batch rows come on top, so that the pool is a little better than the queue alone.

    Args:
        beta, alpha: edges of the band as FPR, ``0 <= alpha < beta <= 1``.
        relative_error: standard deviation of the band's realised width over ``beta - alpha``,
            above 0 and at most 1. About 19 of 20 queues are within twice as much.
        positive_rate: share of the rows that are no reference rows, at least 0 and below 1:
            positives and rows that are not iid (with several classes, that of the worst class).

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of its range.
    """
    check_band(alpha, beta)
    check_real("relative_error", relative_error)
    if not 0 < relative_error <= 1:
        raise ValueError(f"relative_error must be above 0 and at most 1, got {relative_error!r}")
    check_real("positive_rate", positive_rate)
    if not 0 <= positive_rate < 1:
        raise ValueError(f"positive_rate must be in [0, 1), got {positive_rate!r}")
    return math.ceil(1 / (relative_error**2 * (beta - alpha) * (1 - positive_rate)))
