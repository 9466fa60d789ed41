"""Sums of a link over pairs of scores in linear memory, without the matrix of pairs.

For ``u >= 0`` and ``z = exp(-u)`` in (0, 1], ``sigmoid(-u) = z / (1 + z)`` and
``softplus(-u) = log(1 + z)`` are analytic in ``z`` with their nearest singularity at ``z = -1``, so
a Chebyshev series over [0, 1] converges like ``(3 + sqrt 8) ** -degree``. As a polynomial in ``z``
it turns the sum over sorted negatives ``y_j <= x`` into sums of ``exp(-k (x - y_j))``, each of
which a scan carries from one negative to the next: exact at any band width, for ties and for
outliers alike, since nothing is placed on a grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.config import Link
from pauc.pair_matrix import matrix_sum

# (3 + sqrt 8) ** -16 is 6e-13, below what the sums lose to rounding in float64.
_DEGREE = 16
_RHO = 3 + math.sqrt(8)
_BLOCK = 16  # of the scan
# Where the matrix is faster than the scan, measured on a CPU: few pairs, or not many per score.
# The bound is linear in the scores, so memory is too.
_FEW_PAIRS = 1 << 20
_FEW_PER_SCORE = 32


def mean_link(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    total: Tensor,
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return for each positive the mean of the link over the negatives of its class.

    Args:
        pos_scores: ``[P]``, with ``class_index`` ``[P]`` into the rows of ``negatives``.
        negatives: ``[C, B]``, in any order.
        multiplicity: ``[C, B]``, how many rows a negative stands for; 0 for padding, whose value
            is not looked at.
        total: ``[C]``, what the sum over negatives is divided by.
        tau: ``[C]``.
        link: see :class:`pauc.PAUCConfig`.
    """
    return (
        sum_link(pos_scores, class_index, negatives, multiplicity, tau, link) / total[class_index]
    )


def sum_link_of_parts(
    pos_scores: Tensor,
    class_index: Tensor,
    num_live: int,
    live: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return for each positive the sum of the link over its negatives, most of them at rest.

    Pairs without a live row need no gradient; with a long queue they are nearly all.

    Args:
        pos_scores, class_index, tau, link: as for :func:`mean_link`.
        num_live: the first positives are live; no gradient reaches the others.
        live: negatives ``[C, B]`` and their multiplicity.
        held: further negatives alike, which no gradient reaches.
    """
    held = held[0].detach(), held[1]
    if num_live * held[0].shape[-1] <= _FEW_PAIRS:
        parts = (
            (pos_scores[:num_live], class_index[:num_live]),
            (pos_scores[num_live:].detach(), class_index[num_live:]),
        )
        with_held = torch.cat([sum_link(*part, *held, tau, link) for part in parts])
    else:  # not a matrix for the live and a scan for the others, but one scan for all
        with_held = sum_link(pos_scores, class_index, *held, tau, link)
    return with_held + sum_link(pos_scores, class_index, *live, tau, link)


def sum_link(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return for each positive the sum of the link over its negatives; see :func:`mean_link`."""
    pairs = pos_scores.shape[0] * negatives.shape[-1]
    scores = pos_scores.shape[0] + 8 * negatives.numel()
    if pairs <= _FEW_PAIRS + _FEW_PER_SCORE * scores:
        return matrix_sum(pos_scores, class_index, negatives, multiplicity, tau, link)
    return _scan_sum(pos_scores, class_index, negatives, multiplicity, tau, link)


def count_not_above(ascending: Tensor, queries: Tensor, class_index: Tensor) -> Tensor:
    """Return ``[P]``: how many of ``ascending[class_index[p]]`` are at most ``queries[p]``.

    A binary search by class; :func:`torch.searchsorted` wants the queries as a rectangle.
    """
    columns = ascending.shape[-1]
    flat, start = ascending.reshape(-1), class_index * columns
    found = torch.zeros_like(class_index)
    for bit in reversed(range(columns.bit_length())):
        probe = found + (1 << bit)
        value = flat[start + probe.clamp(max=columns) - 1]
        found = torch.where((probe <= columns) & (value <= queries), probe, found)
    return found


def _scan_sum(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return ``[P]``, the sums over negatives from sums of exponentials, in float64."""
    # Padding takes the place of the lowest real score, where its zero count is harmless.
    real = multiplicity > 0
    lowest = torch.where(real, negatives, math.inf).amin(dim=-1, keepdim=True).detach()
    padding = torch.where(lowest.isfinite(), lowest, 0.0)
    y, order = torch.where(real, negatives, padding).double().sort(dim=-1)
    counts = multiplicity.double().gather(-1, order)
    x, width = pos_scores.double(), tau.double()

    at_most = count_not_above(y.detach(), x.detach(), class_index)
    has_below, has_above = at_most > 0, at_most < y.shape[-1]
    below, above = (at_most - 1).clamp(min=0), at_most.clamp(max=y.shape[-1] - 1)
    # Scores enter as differences of neighbours, so that a far outlier costs the others no digits.
    decay_below = torch.where(has_below, x - y[class_index, below], 0.0) / width[class_index]
    decay_above = torch.where(has_above, y[class_index, above] - x, 0.0) / width[class_index]
    values = counts.unsqueeze(-1).expand(-1, -1, _DEGREE)
    sums_below = _decayed_sums(y, values, width)[class_index, below]
    sums_above = _decayed_sums(-y.flip(-1), values.flip(1), width).flip(1)[class_index, above]
    coefficients = _SIGMOID if link == "sigmoid" else _SOFTPLUS
    tail_below = torch.where(has_below, _series(sums_below, decay_below, coefficients), 0.0)
    tail_above = torch.where(has_above, _series(sums_above, decay_above, coefficients), 0.0)

    if link == "sigmoid":
        rows_below = pad(counts.cumsum(dim=-1), (1, 0))[class_index, at_most]
        summed = rows_below - tail_below + tail_above
        return summed.to(pos_scores.dtype)
    # softplus(u) = u + softplus(-u), and u adds up from the top.
    from_top = torch.stack([counts, counts * y]).flip(-1).cumsum(dim=-1).flip(-1)
    rows_above, moment_above = pad(from_top, (0, 1))[:, class_index, at_most]
    linear = (moment_above - rows_above * x) / width[class_index]
    loss: Tensor = (linear + tail_below + tail_above) / math.log(2)
    return (counts.sum(dim=-1)[class_index] - loss).to(pos_scores.dtype)


def _series(sums: Tensor, distance: Tensor, coefficients: list[float]) -> Tensor:
    """Return ``[P]``: ``sum_k coefficients_k sums_k exp(-k distance)`` by Horner's rule.

    The coefficients stay Python numbers: a tensor of them would be copied to an accelerator, which
    makes the host wait.
    """
    z = torch.exp(-distance)
    total = torch.zeros_like(z)
    for coefficient, column in zip(reversed(coefficients), reversed(sums.unbind(-1)), strict=True):
        total = (total + coefficient * column) * z
    return total


def _powers(distance: Tensor) -> Tensor:
    """Return ``exp(-k distance)`` for ``k = 1 ... degree`` as a last dimension."""
    # Not by products, each of which the backward pass would need: this keeps its result alone.
    k = torch.arange(1, _DEGREE + 1, dtype=distance.dtype, device=distance.device)
    return torch.exp(distance.unsqueeze(-1) * -k)


def _decayed_sums(y: Tensor, values: Tensor, tau: Tensor) -> Tensor:
    """Return ``[C, B, degree]``: ``sum_{l <= j} values_l exp(-k (y_j - y_l) / tau)``, y ascending.

    A scan in linear time: one entry after the other in all blocks at once, by itself over the
    blocks' last entries, whose sums are then carried into the following blocks. Every exponent is
    negative, so nothing overflows, and terms of one sign are added, so nothing cancels.
    """
    columns = y.shape[-1]
    blocks = -(-columns // _BLOCK)
    length = min(columns, _BLOCK)
    padding = blocks * length - columns
    y_blocks = torch.cat([y, y[:, -1:].expand(-1, padding)], dim=1).reshape(-1, blocks, length)
    values = pad(values, (0, 0, 0, padding)).reshape(-1, blocks, length, _DEGREE)
    width = tau.reshape(-1, 1, 1)
    within = _scan_in_turn(y_blocks.diff(dim=-1) / width, values)
    if blocks == 1:
        return within.squeeze(1)
    carry = _decayed_sums(y_blocks[:, :, -1], within[:, :, -1], tau)[:, :-1].unsqueeze(2)
    distance = (y_blocks[:, 1:] - y_blocks[:, :-1, -1:]) / width
    carried = torch.addcmul(within[:, 1:], carry, _powers(distance))
    return torch.cat([within[:, :1], carried], dim=1).flatten(1, 2)[:, :columns]


def _scan_in_turn(gaps: Tensor, values: Tensor) -> Tensor:
    """Return the decayed sums over the last two dimensions of ``values`` ``[..., B, degree]``."""
    total, *following = values.unbind(-2)
    sums = [total]
    # The entries come first in memory, so that each step reads and writes without gaps.
    for entry, decay in zip(following, _powers(gaps.movedim(-1, 0).contiguous()), strict=True):
        total = torch.addcmul(entry, total, decay)
        sums.append(total)
    return torch.stack(sums, dim=-2)


def _to_powers(chebyshev: list[float]) -> list[float]:
    """Return the power series of a Chebyshev series on [0, 1] (argument ``2 z - 1``)."""
    powers = [0.0] * len(chebyshev)
    previous, current = [0] * len(chebyshev), [1] + [0] * (len(chebyshev) - 1)
    for degree, coefficient in enumerate(chebyshev):
        powers = [total + coefficient * c for total, c in zip(powers, current, strict=True)]
        shifted = [0, *current[:-1]]
        step = 1 if degree == 0 else 2  # T_1 = x T_0, then T_(n+1) = 2 x T_n - T_(n-1)
        following = [
            step * (2 * s - c) - p for s, c, p in zip(shifted, current, previous, strict=True)
        ]
        previous, current = current, following
    return powers


def _sigmoid_coefficients() -> list[float]:
    """Return the coefficients of ``z, z**2, ...`` in ``z / (1 + z)``; 1 / (3 + x) is classical."""
    series = [4 / math.sqrt(8) * (-1 / _RHO) ** n for n in range(_DEGREE)]
    return _to_powers([series[0] / 2, *series[1:]])


def _softplus_coefficients() -> list[float]:
    """Return the coefficients of ``z, z**2, ...`` in ``log(1 + z)``, whose constant term is 0."""
    series = [-2 / n * (-1 / _RHO) ** n for n in range(1, _DEGREE + 1)]
    return _to_powers([math.log(_RHO / 4), *series])[1:]


_SIGMOID = _sigmoid_coefficients()
_SOFTPLUS = _softplus_coefficients()
