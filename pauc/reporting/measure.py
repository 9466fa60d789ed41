"""The numbers of a report; what a page says about them is not decided here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.intervals import Interval, partial_auc_interval, wilson_interval
from pauc.resampling import (
    Progress,
    difference_draws,
    percentile_interval,
    resamples_for,
    tpr_interval,
)
from pauc.thresholds import OperatingPoint, select_threshold

__all__ = [
    "Costs",
    "Difference",
    "Group",
    "ModelResult",
    "Need",
    "compare",
    "costs_of",
    "fewest_negatives",
    "groups_of",
    "measure_model",
    "needs_of",
]

_LISTED_GROUPS = 20  # the largest


class ModelResult(NamedTuple):
    """What one model does on the held-out rows."""

    name: str
    tpr: Interval  # [K], at the report's FPRs
    partial_auc: Interval  # mean TPR up to the budget, 0-dim
    point: OperatingPoint
    caught: Interval  # TPR at the point's threshold, 0-dim


class Difference(NamedTuple):
    """TPR at the budget of a model, less that of the first model."""

    name: str
    against: str
    tpr: Interval  # 0-dim


class Costs(NamedTuple):
    """What a day brings, in rows, as the held-out rates say."""

    alerts: float
    false_alarms: float
    caught: float
    missed: float
    precision: float  # nan without alerts


class Need(NamedTuple):
    """How many negatives a promise takes."""

    budget: float
    confidence: float
    fewest: int  # with fewer there is no such threshold
    ample: int  # about: the threshold uses nine tenths of the budget


class Group(NamedTuple):
    """Rates of one group of rows at a model's threshold."""

    name: str
    negatives: int
    positives: int
    fpr: Interval  # 0-dim, nan without negatives
    tpr: Interval  # 0-dim, nan without positives


def measure_model(
    name: str, scores: Tensor, targets: Tensor, fprs: Tensor, budget: float, confidence: float,
    promised: bool,
) -> ModelResult:  # fmt: skip
    """Return a model's TPRs, partial AUC and threshold, with a promise if there can be one."""
    point = select_threshold(scores, targets, budget, confidence=confidence if promised else None)
    # The threshold rests on the negatives alone: for the positives it was fixed before.
    alerts = scores[targets == 1] >= point.threshold
    return ModelResult(
        name,
        tpr_interval(scores, targets, fprs, confidence=confidence),
        partial_auc_interval(scores, targets, 0.0, budget, confidence=confidence),
        point,
        wilson_interval(int(alerts.sum()), len(alerts), confidence=confidence),
    )


def compare(
    scores: Mapping[str, Tensor],
    targets: Tensor,
    budget: float,
    confidence: float,
    results: Sequence[ModelResult],
    at: int,
    progress: Progress,
) -> list[Difference]:
    """Return the difference of each model to the first; ``at`` is the budget's place in FPRs."""
    first, *others = results
    found = []
    for other in others:
        estimate = other.tpr.estimate[at] - first.tpr.estimate[at]
        draws = difference_draws(
            scores[first.name],
            scores[other.name],
            targets,
            budget,
            n_resamples=resamples_for(confidence),
            progress=progress,
        )
        interval = percentile_interval(estimate, draws, confidence)
        found.append(Difference(other.name, first.name, interval))
    return found


def costs_of(point: OperatingPoint, rows_a_day: float, positive_rate: float) -> Costs:
    """Return what so many rows a day cost, of which ``positive_rate`` are positive."""
    positives = rows_a_day * positive_rate
    false_alarms, caught = (rows_a_day - positives) * point.fpr, positives * point.tpr
    alerts = false_alarms + caught
    precision = caught / alerts if alerts else math.nan
    return Costs(alerts, false_alarms, caught, positives - caught, precision)


def needs_of(budget: float, confidence: float) -> list[Need]:
    """Return what this promise takes, and what tighter ones would take."""
    promises = [(budget / by, confidence) for by in (1, 2, 5, 10)]
    surer = [c for c in (0.99, 0.999) if c > confidence]
    return [_need(*promise) for promise in (*promises, *((budget, c) for c in surer))]


def fewest_negatives(budget: float, confidence: float) -> int:
    """Return with how many negatives a threshold that lets none of them by keeps the promise."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-budget) * (1 - 1e-12))


def _need(budget: float, confidence: float) -> Need:
    """Return the fewest negatives, and about how many use nine tenths of the budget.

    ``k`` alerts of ``n`` are promised where ``k`` is some ``z`` standard deviations below
    ``budget n`` (the normal approximation); ``k = 0.9 budget n`` is solved for ``n``.
    """
    z = float(torch.special.ndtri(torch.tensor(confidence, dtype=torch.float64)))
    ample = math.ceil((z / 0.1) ** 2 * (1 - budget) / budget)
    fewest = fewest_negatives(budget, confidence)
    return Need(budget, confidence, fewest, max(ample, fewest))


def groups_of(
    scores: Tensor, targets: Tensor, groups: Sequence[str], threshold: float, confidence: float
) -> list[Group]:
    """Return the rates of the largest groups, the largest first."""
    names = {name: code for code, name in enumerate(dict.fromkeys(groups))}
    codes = torch.tensor([names[name] for name in groups])
    kept = targets >= 0
    codes, labels, alerts = codes[kept], targets[kept], (scores >= threshold)[kept]
    # [groups, 4]: negatives and positives that did not alert, then those that did.
    counts = torch.bincount(codes * 4 + alerts * 2 + labels, minlength=4 * len(names)).view(-1, 4)
    order = counts.sum(dim=1).argsort(descending=True, stable=True)[:_LISTED_GROUPS]
    listed = list(names)
    return [_group(listed[k], counts[k].tolist(), confidence) for k in order.tolist()]


def _group(name: str, counts: list[int], confidence: float) -> Group:
    quiet_negatives, quiet_positives, false_alarms, caught = counts
    negatives, positives = quiet_negatives + false_alarms, quiet_positives + caught
    return Group(
        name,
        negatives,
        positives,
        _rate(false_alarms, negatives, confidence),
        _rate(caught, positives, confidence),
    )


def _rate(hits: int, trials: int, confidence: float) -> Interval:
    if trials == 0:
        return Interval(*torch.full((3,), math.nan, dtype=torch.float64))
    return wilson_interval(hits, trials, confidence=confidence)
