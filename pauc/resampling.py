"""Draws from the bootstrap of a TPR at a fixed FPR, made without resampling all rows.

A resample that may raise ``a`` false alarms has its threshold at the ``a + 1``-th highest of the
drawn negatives, and its TPR is the share of the drawn positives above that. Drawing just these two
gives the values that :func:`pauc.intervals.tpr_at_fpr_interval` gets from whole resamples, in the
same distribution, at a cost that hardly depends on the number of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta

from pauc.intervals import Interval
from pauc.intervals.resamples import with_percentiles
from pauc.metrics.inputs import check_both_classes, only_column
from pauc.metrics.rates import allowed_rows, check_rates

__all__ = [
    "Progress",
    "difference_draws",
    "percentile_interval",
    "resamples_for",
    "tpr_draws",
    "tpr_interval",
]

N_RESAMPLES = 2000
_MOST_RESAMPLES = 100_000
# Entries of a scratch array, 8 MB of int64.
_CHUNK = 1 << 20

Progress = Callable[[Iterable[int]], Iterable[int]]


class _Column(NamedTuple):
    """One model, each class sorted, and the false alarms that a resample may have."""

    negatives: Tensor  # [n], the highest first
    positives: Tensor  # [p], the lowest first
    allowed: Tensor  # [K] int64


class _Problem(NamedTuple):
    """Two models on the same rows, and the false alarms that a resample may have."""

    negatives: Tensor  # [2, n]
    positives: Tensor  # [2, p]
    allowed: int  # below n


def tpr_interval(
    scores: Tensor,
    targets: Tensor,
    fpr: Tensor,
    *,
    confidence: float,
    seed: int = 0,
    ignore_index: int = -100,
) -> Interval:
    """Return the percentile interval of the TPR at each of ``fpr [K]``.

    Raises:
        TypeError, ValueError: as :func:`pauc.metrics.tpr_at_fpr` and :func:`resamples_for`.
    """
    n_resamples = resamples_for(confidence)
    column = _column(scores, targets, fpr, ignore_index)
    estimate = _caught(column, column.allowed).double() / len(column.positives)
    return percentile_interval(estimate, _draws(column, n_resamples, seed), confidence)


def tpr_draws(
    scores: Tensor,
    targets: Tensor,
    fpr: Tensor,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    ignore_index: int = -100,
) -> Tensor:
    """Return ``[n_resamples, K]`` float64: draws of the TPR at each of ``fpr [K]``.

    Columns are drawn independently: each has the right distribution, all together have not.
    """
    return _draws(_column(scores, targets, fpr, ignore_index), n_resamples, seed)


def difference_draws(
    first: Tensor,
    second: Tensor,
    targets: Tensor,
    fpr: float,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    ignore_index: int = -100,
    progress: Progress = iter,
) -> Tensor:
    """Return ``[n_resamples]`` float64: draws of ``TPR(second) - TPR(first)`` at ``fpr``.

    Both models see the same drawn rows (a paired bootstrap); ``fpr`` is below 1. ``progress`` is
    given a range over the resamples, in large steps, and may show how far it is.
    """
    problem = _problem(first, second, targets, fpr, ignore_index)
    p = problem.positives.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thresholds = _thresholds(problem, n_resamples, progress)
        gained, lost = (count / p for count in _changes(problem.positives, thresholds))
        everyone = torch.full_like(gained, p)
        more = torch.binomial(everyone, gained)
        # Of the positives that are not drawn among the gained; rounding may exceed 1.
        rest = (lost / (1 - gained).clamp(min=1e-300)).clamp(max=1)
        fewer = torch.binomial(everyone - more, rest)
        return (more - fewer) / p


def resamples_for(confidence: float) -> int:
    """Return how many draws an interval takes: 2,000, or so many that its ends are among them.

    Raises:
        ValueError: ``confidence`` is so high that it would take more than 100,000.
    """
    needed = math.ceil(2 / (1 - confidence) * (1 - 1e-9))
    if needed > _MOST_RESAMPLES:
        highest = 1 - 2 / _MOST_RESAMPLES
        raise ValueError(f"confidence must be at most {highest} for intervals, got {confidence}")
    return max(N_RESAMPLES, needed)


def percentile_interval(estimate: Tensor, draws: Tensor, confidence: float) -> Interval:
    """Return the interval between order statistics of ``draws [B, ...]``.

    The ranks are those of :func:`pauc.intervals.bootstrap_interval`, and ``B`` is at least
    :func:`resamples_for` of the confidence.
    """
    return Interval(*with_percentiles(estimate, draws, confidence))


def _column(scores: Tensor, targets: Tensor, fpr: Tensor, ignore_index: int) -> _Column:
    """Check the rows of one model, and sort each class."""
    budgets, slack = check_rates(fpr, "fpr")
    kept = only_column(scores, targets, ignore_index)
    check_both_classes(kept.positive)
    scores, positive = kept.scores.cpu(), kept.positive.cpu()
    negatives = scores[~positive].sort(descending=True).values
    allowed = allowed_rows(budgets.cpu(), torch.tensor(len(negatives)), slack)
    return _Column(negatives, scores[positive].sort().values, allowed)


def _caught(column: _Column, place: Tensor) -> Tensor:
    """Return how many positives are above the negative at each place, int64; all behind the last.

    The places begin at 0, the highest negative.
    """
    negatives, positives, _ = column
    last = len(negatives) - 1
    threshold = negatives[place.clamp(max=last)].contiguous()
    above = len(positives) - torch.searchsorted(positives, threshold, right=True)
    return torch.where(place > last, len(positives), above)


def _draws(column: _Column, n_resamples: int, seed: int) -> Tensor:
    """Return ``[n_resamples, K]``, see :func:`tpr_draws`."""
    n, p = len(column.negatives), len(column.positives)
    all_may_alert = column.allowed >= n
    rank = column.allowed.clamp(max=n - 1).double() + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The k-th smallest of n uniforms is Beta(k, n + 1 - k) (David and Nagaraja 2003).
        uniform = Beta(rank, n + 1 - rank).sample((n_resamples,))
        place = torch.where(all_may_alert, n, (uniform * n).long().clamp(max=n - 1))
        caught = _caught(column, place).double()
        return torch.binomial(torch.full_like(caught, p), caught / p) / p


def _problem(
    first: Tensor, second: Tensor, targets: Tensor, fpr: float, ignore_index: int
) -> _Problem:
    """Check the rows of both models and part them by class."""
    budget, slack = check_rates(fpr, "fpr")
    one = only_column(first, targets, ignore_index)
    other = only_column(second, targets, ignore_index)
    check_both_classes(one.positive)
    both = torch.stack([_ranks(one.scores.cpu()), _ranks(other.scores.cpu())])
    negative = ~one.positive.cpu()
    count = int(negative.sum())
    allowed = int(allowed_rows(budget, torch.tensor(count), slack))
    return _Problem(both[:, negative], both[:, ~negative], min(allowed, count - 1))


def _ranks(scores: Tensor) -> Tensor:
    """Return ``[N]`` int64 in the order of the scores, ties alike: two models in one dtype."""
    ranks: Tensor = torch.unique(scores, return_inverse=True)[1]
    return ranks


def _thresholds(problem: _Problem, n_resamples: int, progress: Progress) -> Tensor:
    """Return ``[n_resamples, 2]``: the ``allowed + 1``-th highest of the drawn negatives.

    Only negatives near the top can be that. How many of the draws fall on them is binomial.
    """
    n = problem.negatives.shape[1]
    near = problem.negatives[:, _top_rows(problem)]
    width = near.shape[1]
    share = torch.tensor(width / n, dtype=torch.float64).expand(n_resamples)
    hits = torch.binomial(torch.full_like(share, n), share).long()
    found = []
    size = max(1, _CHUNK // width)
    for begin in progress(range(0, n_resamples, size)):
        counts = _counts(hits[begin : begin + size], width)
        found.append(torch.stack([_nth_highest(own, counts, problem.allowed) for own in near], 1))
    return torch.cat(found)


def _counts(hits: Tensor, width: int) -> Tensor:
    """Return ``[r, width]`` int64: how often each row is drawn, ``hits [r]`` draws in all."""
    resample = torch.arange(len(hits)).repeat_interleave(hits)
    drawn = torch.randint(width, (len(resample),)) + resample * width
    return torch.bincount(drawn, minlength=len(hits) * width).view(len(hits), width)


def _nth_highest(ranks: Tensor, counts: Tensor, allowed: int) -> Tensor:
    """Return ``[r]``: the rank of the ``allowed + 1``-th highest row in each resample."""
    order = ranks.argsort(descending=True)
    so_far = counts[:, order].cumsum(dim=1)
    wanted = torch.full((len(counts), 1), allowed + 1)
    place = torch.searchsorted(so_far, wanted)[:, 0]
    return ranks[order][place.clamp(max=len(order) - 1)]


def _top_rows(problem: _Problem) -> Tensor:
    """Return the negatives that can set a threshold in either model, but for one draw in 1e14."""
    n = problem.negatives.shape[1]
    allowed = problem.allowed + 1
    count = allowed + math.ceil(8 * math.sqrt(allowed)) + 40
    if count >= n:
        return torch.arange(n)
    chosen = torch.zeros(n, dtype=torch.bool)
    for ranks in problem.negatives:
        chosen[ranks.topk(count, sorted=False).indices] = True
    return chosen.nonzero()[:, 0]


def _changes(positives: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``[B]`` each: how many positives the second model catches alone, and the first alone.

    A positive that is above all thresholds of a model, or below them all, is counted once.
    """
    low, high = thresholds.amin(dim=0), thresholds.amax(dim=0)
    always = positives > high.unsqueeze(1)
    moves = ((positives > low.unsqueeze(1)) & ~always).any(dim=0)
    fixed = always[:, ~moves]
    gained = (fixed[1] & ~fixed[0]).sum().expand(len(thresholds)).double().clone()
    lost = (fixed[0] & ~fixed[1]).sum().expand(len(thresholds)).double().clone()
    moving = positives[:, moves]
    step = max(1, _CHUNK // max(1, moving.shape[1]))
    for begin in range(0, len(thresholds), step):
        part = slice(begin, begin + step)
        one, other = (moving[m] > thresholds[part, m, None] for m in (0, 1))
        gained[part] += (other & ~one).sum(dim=1)
        lost[part] += (one & ~other).sum(dim=1)
    return gained, lost
