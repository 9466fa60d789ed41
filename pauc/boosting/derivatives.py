"""The objective as a pure function: scores and targets in, gradient and Hessian of each row out."""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor, in_kind
from pauc.boosting.band import band_of
from pauc.boosting.column import Column, make_column
from pauc.boosting.rows import Rows, make_rows
from pauc.boosting.workers import Alone
from pauc.checks import check_band, check_choice, check_int, check_real
from pauc.config import Interpolation, Link
from pauc.native.boosting import band_round_, log_loss_
from pauc.native.sweep import sweep_sums
from pauc.pairs.blocks import make_pairs, term_sums
from pauc.pairs.links import LINKS

MAX_STEP = 10.0
# Of a row's weight: a leaf of rows that nothing pulls at divides by no zero.
_LEAST_CURVATURE = 1e-6


class Options(NamedTuple):
    """What :func:`band_objective` is told beside rows; its docstring says what each is."""

    beta: float
    alpha: float = 0.0
    bce_weight: float = 1.0
    pauc_weight: float = 1.0
    link: Link = "logistic"
    interpolation: Interpolation = "higher"
    max_step: float = MAX_STEP

    def check(self) -> Options:
        """Return these options, or raise a TypeError or ValueError that names the wrong one."""
        check_band(self.alpha, self.beta)
        for name in ("bce_weight", "pauc_weight"):
            check_real(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if not self.bce_weight and not self.pauc_weight:
            raise ValueError("bce_weight or pauc_weight must be above 0, got 0 for both")
        check_choice("link", self.link, get_args(Link))
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        check_real("max_step", self.max_step)
        if self.max_step <= 0:
            raise ValueError(f"max_step must be above 0, got {self.max_step!r}")
        return self


def band_objective(
    scores: ArrayLike,
    targets: ArrayLike,
    *,
    beta: float,
    alpha: float = 0.0,
    bce_weight: float = 1.0,
    pauc_weight: float = 1.0,
    sample_weight: ArrayLike | None = None,
    link: Link = "logistic",
    interpolation: Interpolation = "higher",
    max_step: float = MAX_STEP,
) -> tuple[ArrayLike, ArrayLike]:
    """Return gradient and Hessian diagonal of log-loss and pairs in the band, for a boosting round.

    The objective is ``sum_r w_r (bce_weight * log-loss_r)`` over all rows, plus ``pauc_weight``
    times the sum over positives ``i`` of ``w_i`` times the mean over the band's negatives ``j``,
    weighted by ``w_j``, of ``softplus(s_j - s_i)``. So a positive weighs in the pairs what it
    weighs in the log-loss. With ``link="sigmoid"`` a pair counts ``sigmoid(s_j - s_i)``. The band
    is fixed within a round, as it is in a training step.

    Time is linear in the rows, and so is memory: a few arrays of ``N``. Only the band is sorted.

    The derivatives are exact but for a lower bound on the Hessian, ``abs(gradient) / max_step``.
    A leaf moves its rows by the sum of their gradients over that of their Hessians. Both links and
    the log-loss bend ever less where a row is far on the wrong side while their slope stays, so
    that the quotient has no limit. With the bound it is at most ``max_step`` in any leaf, whatever
    rows are in it, before the learning rate.

    Args:
        scores: ``[N]`` raw margins of binary rows, or ``[N, K]``: of ``K`` classes, one-vs-rest,
            each column with a band of its own. Any real dtype; computed in float64.
        targets: ``[N]`` of 0 and 1, or of the class, 0 to ``K - 1``, in any real dtype.
        alpha, beta: the band as FPR of the rows' negatives, ``0 <= alpha < beta <= 1``.
        bce_weight, pauc_weight: of the two parts, not negative, not both 0.
        sample_weight: ``[N]``, finite and not negative. A row of weight 2 counts as two, in the
            band's edges too.
        link: ``"logistic"`` or ``"sigmoid"``.
        interpolation: of the edges, as in :func:`pauc.band_edges`.
        max_step: the largest move of a leaf in units of the margin, above 0.

    Returns:
        Two float64 arrays in the shape of ``scores``: NumPy arrays, or tensors on its device for
        tensors. Both are proportional to the row's weight.

    Raises:
        TypeError, ValueError: a bad option; an array of another length or kind, a score that is not
            finite, a target that is no class, a bad weight; a class without positives or without
            negatives (of weight above 0); a band without negatives, which only an interpolated edge
            can make.
    """
    options = Options(beta, alpha, bce_weight, pauc_weight, link, interpolation, max_step).check()
    rows = make_rows(scores, targets, sample_weight)
    shape = as_tensor(scores, "scores").shape
    gradient, hessian = derivatives(rows, options, Alone())
    return in_kind(gradient.reshape(shape), scores), in_kind(hessian.reshape(shape), scores)


def derivatives(rows: Rows, options: Options, workers: Alone) -> tuple[Tensor, Tensor]:
    """Return gradient and Hessian diagonal ``[N, K]`` of the own rows, beside those of others."""
    # Columns lie one after the other in memory, as the work goes.
    gradient, hessian = (torch.empty_like(rows.scores.T).contiguous() for _ in range(2))
    for index in range(rows.scores.shape[1]):
        _fill_class_(gradient[index], hessian[index], make_column(rows, index), options, workers)
    return gradient.T, hessian.T


def _fill_class_(
    gradient: Tensor, hessian: Tensor, column: Column, options: Options, workers: Alone
) -> None:
    """Write gradient and Hessian ``[N]`` of a class against the rest.

    Most rows are negatives outside the band, which only the log-loss pulls at. All rows are written
    as if they were such, and then the others once more.
    """
    if type(workers) is Alone and _take_native_round_(gradient, hessian, column, options):
        return
    column.side_weights(workers)
    written = log_loss_(
        gradient, hessian, column.scores, column.weight, factor=options.bce_weight,
        max_step=options.max_step, least_curvature=_LEAST_CURVATURE,
    )  # fmt: skip
    if not written:
        _log_loss_(gradient, hessian, column.scores, options.bce_weight)
        _finish_(gradient, hessian, column.weight, options)
    at = column.positives
    pull = _pull_of_pairs(column, at, options, workers) if options.pauc_weight else Pull(at, 0, 0)
    scores = column.scores[pull.at]
    slope, curvature = torch.empty_like(scores), torch.empty_like(scores)
    _log_loss_(slope, curvature, scores, options.bce_weight)
    slope[: len(at)] -= options.bce_weight
    slope += pull.gradient
    curvature += pull.hessian
    weight = None if column.weight is None else column.weight[pull.at]
    _finish_(slope, curvature, weight, options)
    gradient.index_copy_(0, pull.at, slope)
    hessian.index_copy_(0, pull.at, curvature)


def _take_native_round_(
    gradient: Tensor, hessian: Tensor, column: Column, options: Options
) -> bool:
    """Write both ``[N]`` by native code, if it can, and return whether it did."""
    if not options.pauc_weight:
        return False
    return band_round_(
        gradient, hessian, column.scores, column.weight, column.positives,
        band=(options.alpha, options.beta, options.interpolation),
        weights=(options.bce_weight, options.pauc_weight), max_step=options.max_step,
        least_curvature=_LEAST_CURVATURE, link=LINKS[options.link],
    )  # fmt: skip


def _log_loss_(gradient: Tensor, hessian: Tensor, scores: Tensor, factor: float) -> None:
    """Write the derivatives of the log-loss by each score, as if all rows were negatives."""
    torch.sigmoid(scores, out=gradient)
    torch.addcmul(gradient, gradient, gradient, value=-1, out=hessian)
    if factor != 1:
        gradient.mul_(factor)
        hessian.mul_(factor)


def _finish_(gradient: Tensor, hessian: Tensor, weight: Tensor | None, options: Options) -> None:
    """Put the lower bound to the Hessian, and multiply both by the rows' weights."""
    bound = gradient.abs().div_(options.max_step).clamp_(_LEAST_CURVATURE)
    torch.maximum(hessian, bound, out=hessian)
    if weight is not None:
        gradient.mul_(weight)
        hessian.mul_(weight)


class Pull(NamedTuple):
    """The derivatives of the sum over pairs by the scores in it, divided by the row's weight."""

    at: Tensor  # [P + B] int64: the positives' rows, then those of the band's negatives
    gradient: Tensor | float  # [P + B]
    hessian: Tensor | float  # [P + B]


def _pull_of_pairs(column: Column, at: Tensor, options: Options, workers: Alone) -> Pull:
    """Return what pairs of the positives ``at`` some rows, and of the band, pull at."""
    scores, band = column.scores, (options.alpha, options.beta, options.interpolation)
    at_band, order = band_of(scores, column.negative(), column.weight, *band, workers)
    # Rows of a leaf have one score, so that a band has few scores that differ, at first only one.
    own, ascending = torch.unique_consecutive(scores[at_band][order], return_inverse=True)
    place = torch.empty_like(order).scatter_(0, order, ascending)
    v = torch.zeros_like(own).index_add_(0, place, column.weight_at(at_band))
    (y, v), start = workers.join(own, v)
    if not len(y):
        raise ValueError(
            f"no negative{column.name} lies in the band from alpha={options.alpha} to "
            f"beta={options.beta} with interpolation={options.interpolation!r}"
        )
    of_positives, of_negatives = _pair_sums(scores[at], column.weight_at(at), y, v, options)
    of_negatives = workers.total(of_negatives)[:, start : start + len(own)]
    scale = options.pauc_weight / float(v.sum())
    # What a pair counts is minus the link's core at u = s_i - s_j: the slope by s_j has its sign
    # turned once more.
    slope = torch.cat([-of_positives[0], of_negatives[0][place]])
    curvature = torch.cat([of_positives[1], of_negatives[1][place]])
    return Pull(torch.cat([at, at_band]), slope.mul_(scale), curvature.mul_(-scale))


def _pair_sums(
    x: Tensor, w: Tensor, y: Tensor, v: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """Return slope and curvature of the core, summed over ``v`` ``[2, P]`` and ``w`` ``[2, B]``."""
    link = LINKS[options.link]
    swept = sweep_sums(x, w, y, v, link.first, link.second)
    if swept is not None:
        return swept
    one = x.new_ones(1)
    pairs = make_pairs(x, torch.zeros_like(x, dtype=torch.int64), None, y[None], v[None], one)
    at = pairs.places[0]
    over_v, over_w = zip(*term_sums(w, pairs, link.first, link.second), strict=True)
    by_place = torch.stack(over_w).flatten(1)[:, : len(at)]
    return torch.stack(over_v), torch.zeros_like(by_place).index_copy_(1, at, by_place)


def log_odds(
    targets: ArrayLike, *, sample_weight: ArrayLike | None = None, num_class: int = 1
) -> ArrayLike:
    """Return the margin to start from: the log-odds of the positives' share of the weight.

    Engines average the targets for objectives of their own alone. A training that starts at 0
    spends its first rounds on this number.

    Args:
        targets: ``[N]`` of 0 and 1, or of the class.
        sample_weight: ``[N]``, finite and not negative.
        num_class: ``K`` for classes against the rest, 1 for binary targets.

    Returns:
        A float; for several classes an array ``[K]`` (a tensor if ``targets`` is one).

    Raises:
        TypeError, ValueError: bad rows as in :func:`band_objective`, or a class without positives
            or without negatives.
    """
    check_int("num_class", num_class, 1)
    labels = as_tensor(targets, "targets")
    rows = make_rows(
        torch.zeros(len(labels), num_class, device=labels.device), labels, sample_weight
    )
    found = []
    for index in range(num_class):
        positives, negatives = make_column(rows, index).side_weights(Alone())
        found.append(math.log(positives / negatives))
    return (
        found[0]
        if num_class == 1
        else in_kind(labels.new_tensor(found, dtype=torch.float64), targets)
    )
