"""Rules of thumb: how long a queue must be, and the options that the studies support."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Collection
from typing import NamedTuple, Protocol

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
_RELATIVE_ERROR = 0.1  # of the band's realised width: 100 reference rows in it
_MOST_LIKELY_PERCENT = 0.2  # a budget above it is hardly a low one
# With fewer expected reference rows in the band than this, chance decides where its edges lie: the
# loss warns, and the picture of the band's count draws a line here.
STARVED = 10


_WHY_WEIGHT = (
    "BCE of weight 1, pairs of up to 1 as the scores of the pool explain its labels: none until "
    "the BCE has found the positives, little where the classes overlap"
)


class BudgetPreset(NamedTuple):
    """What :func:`preset_for_budget` chose.

    Attributes:
        queue_size: rows.
        options: keywords of :func:`pauc.pauc_loss_fn`.
        reasons: what was chosen and why, a sentence each.
        positive_rate, iid_share: of the batches that it was chosen for.
    """

    queue_size: int
    options: PAUCOptions
    reasons: tuple[str, ...]
    positive_rate: float
    iid_share: float

    def without(self, overridden: Collection[str]) -> BudgetPreset:
        """Return the preset without the reasons for what a caller has overridden, by name."""
        kept = zip(_DECIDED, self.reasons, strict=True)
        return self._replace(reasons=tuple(why for what, why in kept if what not in overridden))


# What each of the reasons is for.
_DECIDED = ("beta", "weight_scale", "queue_size")


class DrawsBatches(Protocol):
    """What a preset asks of a sampler; :class:`pauc.BandSampler` answers."""

    batch_size: int  # on each rank
    world_size: int
    positive_rate: float
    iid_share: float


def preset_for_budget(
    budget: float,
    *,
    batch_size: int | None = None,
    positive_rate: float | None = None,
    iid_share: float | None = None,
    sampler: DrawsBatches | None = None,
) -> BudgetPreset:
    """Return the training recipe for a budget of false alarms, from a cold start.

    BCE of weight 1, which moves every row, and logistic pairs in raw logit units, which work on the
    top of the scores:

    - The pairs weigh what the scores have earned (``weight_scale="explained"``): nothing at first,
      when the BCE must find where the positives are, up to 1 where the labels of the pool are
      explained, and little for good where the classes overlap. Heavy from the first step on, the
      few rows of the band would lead, and all others stay where random weights have put them.
    - The band goes from 0 to the budget, or further, until 50 iid negatives of a batch lie in it:
      with fewer the gradient is mostly noise. At most to an FPR of 0.1.
    - The queue is so long that, with the batch, some 100 iid negatives lie in the band
      (:func:`pauc.recommend_queue_size`), in whole batches; at most 65,536 rows.
    - Batches with 50 positives do without those of the queue (``pos_numerator="live"``), which are
      out of date. With fewer, the queue is so long that it has 50, within the same limit.
    - From 5 positives in a batch on, a long queue does not shrink the gradient
      (``gradient_scale="live"``). With fewer it does, so that every positive counts the same, and
      the BCE, whose gradient it does not shrink, leads.

    Args:
        budget: the false-positive rate to train for, a fraction in (0, 1].
        batch_size: rows of one call of the loss, of all ranks together. Micro-batches whose
            gradients are accumulated are calls of their own, unless the loss is called once for all
            their logits. None: that of the sampler.
        positive_rate: share of positives among the rows of a batch, in (0, 1); with several
            classes, that of the rarest that matters. None: that of the sampler.
        iid_share: share of iid rows in a batch, in (0, 1]. None: that of the sampler, or 1.
        sampler: what draws the batches, such as :class:`pauc.BandSampler`.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.

    Warns:
        UserWarning: a budget above 0.2, which may be meant in percent.
    """
    batch_size, positive_rate, iid_share = _of_batches(
        batch_size, positive_rate, iid_share, sampler
    )
    _check(budget, batch_size, positive_rate, iid_share)
    if budget > _MOST_LIKELY_PERCENT:
        warnings.warn(
            f"budget={budget!r} is a false-positive rate of {budget:.0%}. Cure, if it was meant in "
            f"percent: budget={budget / 100!r}",
            UserWarning,
            stacklevel=3,
        )
    # About so many rows are iid negatives: more, where positives were added to the batch; fewer,
    # where hard negatives alone were.
    negatives = iid_share * (1 - positive_rate)
    beta = max(budget, min(_LIVE_NEGATIVES / (batch_size * negatives), _WIDEST_BAND))
    positives = batch_size * positive_rate
    queue_size = _queue_size(beta, negatives, batch_size, positive_rate)
    options: PAUCOptions = {
        "beta": beta,
        "surrogate": "pairwise",
        "link": "logistic",
        "gradient_scale": "live" if positives >= _COUNTABLE else "pool",
        "pos_numerator": "live" if positives >= _POSITIVES else "pool",
        "tau_scale": "unit",
        "temperature": 1.0,
        "bce_weight": 1.0,
        "pauc_weight": 1.0,
        "weight_scale": "explained",
    }
    reasons = (
        _why_band(budget, beta, batch_size, negatives),
        _WHY_WEIGHT,
        _why_queue(queue_size, positives),
    )
    return BudgetPreset(queue_size, options, reasons, positive_rate, iid_share)


def _queue_size(beta: float, negatives: float, batch_size: int, positive_rate: float) -> int:
    """Return rows for the edges of the band and, where a batch has too few, for positives."""
    rows = _fewest_rows(beta, negatives, _RELATIVE_ERROR) - batch_size
    if batch_size * positive_rate < _POSITIVES:
        rows = max(rows, _POSITIVES / positive_rate)
    rows = math.ceil(min(max(rows, 0), _LONGEST_QUEUE))
    # Whole batches: ranks that share a batch in another order then hold the same rows.
    whole = -(-rows // batch_size) * batch_size
    return min(whole, _LONGEST_QUEUE)


def _of_batches(
    batch_size: int | None,
    positive_rate: float | None,
    iid_share: float | None,
    sampler: DrawsBatches | None,
) -> tuple[int, float, float]:
    """Return what is known of a batch: what was said, and else what the sampler says."""
    if sampler is None:
        for name, value in {"batch_size": batch_size, "positive_rate": positive_rate}.items():
            if value is None:
                raise TypeError(f"{name} must be given where no sampler is, got None")
        assert batch_size is not None
        assert positive_rate is not None
        return batch_size, positive_rate, 1.0 if iid_share is None else iid_share
    if positive_rate is not None or iid_share is not None:
        raise ValueError(
            "sampler must stand alone, since it knows positive_rate and iid_share; got "
            f"positive_rate={positive_rate!r} and iid_share={iid_share!r} beside it"
        )
    for name in ("batch_size", "world_size", "positive_rate", "iid_share"):
        if not hasattr(sampler, name):
            raise TypeError(
                f"sampler must have a {name}, as a BandSampler has, got {type(sampler).__name__}. "
                "Cure: batch_size, positive_rate and iid_share in its place"
            )
    if batch_size is None:
        batch_size = sampler.batch_size * sampler.world_size
    return batch_size, sampler.positive_rate, sampler.iid_share


def _check(budget: float, batch_size: int, positive_rate: float, iid_share: float) -> None:
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


def _why_band(budget: float, beta: float, batch_size: int, negatives: float) -> str:
    if beta == budget:
        inside = beta * batch_size * negatives
        return f"band {_percent(beta)}, the budget: a batch has {inside:,.0f} iid negatives in it"
    below = budget * batch_size * negatives
    enough = _LIVE_NEGATIVES / max(budget * negatives, sys.float_info.min)
    sentence = (
        f"band {_percent(beta)}, {beta / budget:.3g} times the budget of {_percent(budget)}: a "
        f"batch of {batch_size:,} has {below:.2g} iid negatives within the budget; from "
        f"{_counted(enough)} rows on the band is the budget"
    )
    larger = 8 * batch_size
    narrower = max(budget, _LIVE_NEGATIVES / (larger * negatives))
    if budget < narrower < beta:
        sentence += f", with {larger:,} rows it is {_percent(narrower)}"
    return sentence


def _why_queue(queue_size: int, positives: float) -> str:
    if queue_size == 0:
        return "no queue: a batch has enough negatives in the band, and enough positives"
    if positives >= _POSITIVES:
        return f"queue of {queue_size:,} rows, for the edges of the band"
    return (
        f"queue of {queue_size:,} rows, for the edges of the band and for positives: a batch has "
        f"{positives:.3g}"
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _counted(rows: float) -> str:
    return f"{math.ceil(rows):,}" if rows < 1e12 else f"{rows:.3g}"


def recommend_queue_size(
    beta: float,
    *,
    alpha: float = 0.0,
    relative_error: float = _RELATIVE_ERROR,
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
        ValueError: no float is as large as that number of rows.
    """
    check_band(alpha, beta)
    check_real("relative_error", relative_error)
    if not 0 < relative_error <= 1:
        raise ValueError(f"relative_error must be above 0 and at most 1, got {relative_error!r}")
    check_real("positive_rate", positive_rate)
    if not 0 <= positive_rate < 1:
        raise ValueError(f"positive_rate must be in [0, 1), got {positive_rate!r}")
    rows = _fewest_rows(beta - alpha, 1 - positive_rate, relative_error)
    if rows == math.inf:
        raise ValueError(
            "beta - alpha, relative_error and 1 - positive_rate must not be so near to 0 that no "
            f"queue is long enough, got {beta - alpha}, {relative_error} and {1 - positive_rate}"
        )
    return math.ceil(rows)


def _fewest_rows(width: float, reference_share: float, relative_error: float) -> float:
    """Return the rows of :func:`recommend_queue_size`; inf where no float holds their number."""
    inverse = relative_error**2 * width * reference_share
    return 1 / inverse if inverse > 0 else math.inf
