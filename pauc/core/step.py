"""What a step of every loss has in common: the pool, the positives, and the reduction over classes.

A loss brings a *score*: a pure function from :class:`ScoreInput` to :class:`Scored`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.config import LossConfig, Number, PosNumerator
from pauc.core.batch import Batch
from pauc.core.diagnostics import where_valid
from pauc.core.enqueue import BatchEntry
from pauc.core.explained import entropies_of, explained_weight
from pauc.core.outcome import Outcome
from pauc.core.pool import Pool, make_pool
from pauc.core.queue import QueueState
from pauc.core.subsample import Subsample, subsample
from pauc.core.surrogates import Positives, class_mean, class_sum, scale_gradient

# The smallest number above 0: a clamp to it changes nothing but a 0.
_SMALLEST = {
    dtype: torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    for dtype in (torch.float32, torch.float64)
}


class ScoreInput(NamedTuple):
    """What a score is computed from; ``P`` positives."""

    pool: Pool
    positives: Positives  # whose contributions are averaged
    places: Tensor | None  # [P], where those are in the pool's `numerator_weight`; None: all
    sample: Subsample | None  # the rows that enter the surrogate; None: all
    read_values: bool  # size work arrays by what is in them
    diagnostics: bool  # fill `measured`

    def all_positives(self, pos_numerator: PosNumerator) -> Positives:
        """Return the numerator's positives without subsampling."""
        if self.sample is None:
            return self.positives
        weight = self.pool.numerator_weight(pos_numerator)
        return self.pool.positives(*_counted(weight, self.read_values))


class Scored(NamedTuple):
    """What a loss makes of the rows. A class's loss is 1 minus the mean contribution."""

    contribution: Tensor  # [P], of each positive
    defined: Tensor  # [C] bool, what the class's positives are compared with is there
    degenerate: Tensor  # [C] bool
    ref_count: Tensor  # [C] int64
    measured: dict[str, Tensor]  # [C] each, floats or counts; empty unless asked for
    # As `measured`, but of the reference rows alone, so that they say something of any class.
    unmasked: dict[str, Tensor] = {}  # noqa: RUF012 (never changed)


class Weights(NamedTuple):
    """What the numerator positives of each class weigh together; ``[C]`` each."""

    total: Tensor  # in batch and queue, as the numerator counts them
    live: Tensor  # in the batch


def take_step(
    name: str,
    score: Callable[[ScoreInput], Scored],
    batch: Batch,
    queue: QueueState,
    config: LossConfig,
    *,
    max_pool_size: int | None = None,
    read_values: bool,
    diagnostics: bool,
) -> Outcome:
    """Return the loss whose value for a class ``score`` computes, and what comes with it.

    Args:
        name: of the score; ``stats`` has the variance over contributions as ``{name}_var``.
        score: pure; sees no invalid input.
        batch, queue: checked, and before the step.
        max_pool_size: cap on the rows that enter the surrogate.
        read_values: size work arrays by what is in them, which makes the host wait.
        diagnostics: also compute ``stats``.
    """
    pool = make_pool(batch, queue)
    sample = _sample(pool, queue, max_pool_size)
    weight = pool.numerator_weight(config.pos_numerator)
    positives, places = numerator_positives(pool, weight, sample, read_values)
    num_classes = batch.logits.shape[1]
    if sample is None:
        total = class_sum(positives.weight, positives.class_index, num_classes)
    else:
        total = class_weight(pool, weight)
    if config.gradient_scale == "live":
        live = class_weight(pool, pool.numerator_weight("live"))
        positives = scale_positives(positives, Weights(total, live))
    scored = score(ScoreInput(pool, positives, places, sample, read_values, diagnostics))

    divisor = total.clamp(min=_SMALLEST[total.dtype])
    value = class_mean(scored.contribution, positives, num_classes, divisor)
    valid = scored.defined.logical_and(total)  # which is never negative
    per_class, valid = losses_of_classes(value, valid, batch)
    explained = config.weight_scale == "explained"
    earned = explained_weight(entropies_of(pool)) if explained else None
    loss = reduce_classes(per_class, valid, earned, config)
    counts = has_entropy(config)
    entropy = batch.cross_entropy(batch.present_weight()) if counts else None
    loss = blend(loss, entropy, config)
    stats = {}
    if diagnostics:
        square = (scored.contribution - value[positives.class_index]) ** 2
        measured = {
            **scored.measured,
            f"{name}_var": class_mean(square, positives, num_classes, divisor),
            "grad_pos_count": batch.count_positives(),
        }
        always = {"ref_count": scored.ref_count, **scored.unmasked}
        stats = {**where_valid(measured, valid), **always}
    entry = BatchEntry(batch, pool)
    return Outcome(loss, per_class, valid, scored.degenerate, scored.ref_count, stats, entry)


def _sample(pool: Pool, queue: QueueState, cap: int | None) -> Subsample | None:
    """Return the rows that enter the surrogate, or None for all of them."""
    num_classes, rows = pool.scores.shape
    if cap is None:
        return None
    if cap < num_classes:
        raise ValueError(
            f"max_pool_size must be at least the number of classes {num_classes}, got {cap}"
        )
    return subsample(pool, cap, queue.step) if rows > cap else None


def class_weight(pool: Pool, weight: Tensor) -> Tensor:
    """Return ``[C]``: the sum over each class of a :meth:`~Pool.numerator_weight`."""
    return class_sum(weight, pool.own_class(), pool.scores.shape[0])


def numerator_positives(
    pool: Pool, weight: Tensor, sample: Subsample | None, read_values: bool
) -> tuple[Positives, Tensor | None]:
    """Return the positives to average over, and their places; None: all places.

    Args:
        pool: whose rows they are.
        weight: the pool's :meth:`~Pool.numerator_weight`.
        sample: the rows that enter the surrogate; None: all.
        read_values: leave out the places that hold no positive.
    """
    if sample is None:
        places, weight = _counted(weight, read_values)
    else:
        places = sample.places
        weight = weight[places] * sample.place_multiplicity
    return pool.positives(places, weight), places


def scale_positives(positives: Positives, weights: Weights) -> Positives:
    """Return the positives, whose gradient is scaled to that of the live ones.

    ``weights`` are those of all positives that the average is over, of all ranks.
    """
    factor = live_factor(weights.total, weights.live)[positives.class_index]
    scaled = scale_gradient(positives.scores, factor.to(positives.scores.dtype))
    return positives._replace(scores=scaled)


def _counted(weight: Tensor, read_values: bool) -> tuple[Tensor | None, Tensor]:
    """Return the places of positive weight and their weight; None for all places if unread."""
    if not read_values:
        return None, weight
    places = weight.nonzero().squeeze(-1)
    return places, weight[places]


def columns_of(members: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns ``[C, B]`` of each class's members and which of those are real.

    ``B`` is the largest ``count``; padding names column 0.
    """
    class_index, column = members.nonzero(as_tuple=True)
    start = count.cumsum(0) - count
    place = torch.arange(len(column), device=column.device) - start[class_index]
    shape = (members.shape[0], int(count.max()))
    columns = column.new_zeros(shape).index_put((class_index, place), column)
    real = torch.arange(shape[1], device=column.device) < count.unsqueeze(-1)
    return columns, real


def live_factor(total: Tensor, live: Tensor) -> Tensor:
    """Return what scales a pool's gradient to that of its live rows; 1 where nothing is live."""
    return torch.where(live > 0, total.double() / live.double(), 1.0)


def losses_of_classes(value: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of each class, nan where there is none, and which classes count."""
    # A non-finite logit makes its class's loss and gradient nan, whatever the surrogate made of it,
    # so that a gradient scaler or a person sees the step that brought it.
    poison = (batch.logits * 0).sum(dim=0)  # nan where one is not finite
    valid = valid | poison.isnan()
    losses = torch.addcmul(1 - value, poison, poison)  # the square has a gradient of nan as well
    return losses.masked_fill(~valid, math.nan), valid


def reduce_classes(
    per_class: Tensor, valid: Tensor, weight: Tensor | None, config: LossConfig
) -> Tensor:
    """Return the reduced loss of the classes that count, each times its weight ``[C]`` if any."""
    losses = per_class if weight is None else per_class * weight.to(per_class.dtype)
    if config.reduction == "none":
        return losses
    counted = losses.masked_fill(~valid, 0.0)
    if len(counted) == 1:
        return counted.squeeze(0)
    loss = counted.sum()
    if config.reduction == "mean":
        loss = loss / valid.sum().clamp(min=1)
    return loss


def blend(loss: Tensor, entropy: Tensor | None, config: LossConfig) -> Tensor:
    """Return the weighted sum of the reduced loss and the cross-entropy ``[C]``, if that counts."""
    loss = _times(loss, config.pauc_weight)
    if entropy is None:
        return loss
    if config.reduction != "none":
        entropy = entropy.mean() if config.reduction == "mean" else entropy.sum()
    return loss + _times(entropy, config.bce_weight)


def has_entropy(config: LossConfig) -> bool:
    """Return whether the cross-entropy counts, as far as that can be known without reading."""
    return isinstance(config.bce_weight, Tensor) or config.bce_weight != 0


def _times(loss: Tensor, weight: Number) -> Tensor:
    if not isinstance(weight, Tensor) and weight == 1:
        return loss
    return loss * (weight.to(loss.dtype) if isinstance(weight, Tensor) else weight)
