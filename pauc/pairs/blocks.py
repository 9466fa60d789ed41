"""Sums of a link over pairs in linear memory, and their gradients, without autograd.

The negatives of a class are sorted and cut into blocks. A positive is compared one by one with
those of the block that it falls into. What lies above and below that enters by series in
``exp(-distance)`` (:mod:`pauc.pairs.flanks`): each block adds up its powers, and a scan carries the
sums from block to block. So the sums are exact at any band width, for ties and for outliers alike,
since nothing is placed on a grid. With one block nothing is far: that is the matrix of pairs.

Shapes depend on shapes alone; but on a CPU, where looking costs nothing, what does not count is
left out first.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.devices import may_look
from pauc.pairs.flanks import Flank, at_negatives, at_positives, make_flank
from pauc.pairs.links import Link, Term

_BLOCK = 32
_TILE = 1 << 15  # pairs that a processor's cache holds
# On an accelerator, whose memory they take instead: few calls, and some 64 MB.
_LARGE_TILE = 1 << 21
# Pairs that it compares one by one in less time than many blocks need for their calls.
_FEW_THERE = 1 << 26
ENTRIES = 1 << 19  # of scores that many blocks are made of at once, in some 64 MB


class Pairs(NamedTuple):
    """``P`` positives, and the negatives of ``C`` classes in ``n`` blocks of ``b``."""

    x: Tensor  # [P]; all float64 if there is more than one block
    class_index: Tensor  # [P] int64
    block: Tensor  # [P] int64, the block of its class that a positive falls into
    y: Tensor  # [C, n, b], descending in a class if there is more than one block
    counts: Tensor  # [C, n, b], 0 for padding
    tau: Tensor  # [C]
    kept: Tensor  # [P] int64, where the positives stood in the caller's tensor
    places: Tensor  # [C, K] int64, where the first K negatives of a class stood in the caller's

    @property
    def flat(self) -> Tensor:
        """The block of each positive among those of all classes, ``[P]``."""
        return self.class_index * self.y.shape[1] + self.block


def few_pairs(positives: int, classes: int, columns: int) -> bool:
    """Return whether the matrix of pairs is faster than many blocks, as measured on a CPU.

    Many blocks cost a fixed price, and for each positive and each negative as much as some pairs.
    """
    return positives * columns <= 300_000 + 100 * positives + 40 * classes * columns


def make_pairs(
    x: Tensor, index: Tensor, counted: Tensor | None, y: Tensor, counts: Tensor, tau: Tensor
) -> Pairs:
    """Return the pairs of positives ``[P]``, those that are counted, and of ``y`` ``[C, B]``."""
    classes, depth = y.shape
    counts = counts.to(y.dtype)
    real = counts > 0
    kept = torch.arange(len(x), device=x.device)
    if may_look(x.device):
        depth = max(int(real.sum(dim=-1).max()), 1)
        if counted is not None:
            kept = counted.nonzero().squeeze(-1)
            x, index = x[kept], index[kept]
    few = few_pairs(len(x), classes, depth)
    if not may_look(x.device):
        few = few or len(x) * depth <= _FEW_THERE
    blocks = 1 if few else -(-depth // _BLOCK)
    if blocks == 1 and depth == y.shape[1]:  # none to leave out, and none to put in order
        places = torch.arange(depth, device=y.device).expand_as(y)
        y, counts = torch.where(real, y, 0.0).unsqueeze(1), counts.unsqueeze(1)
        return Pairs(x, index, torch.zeros_like(index), y, counts, tau, kept, places)
    if blocks > 1:
        x, y, counts, tau = (part.double() for part in (x, y, counts, tau))
    # Only many blocks need the order: one block is compared with every positive.
    y, places = torch.where(real, y, -math.inf).topk(depth, dim=-1, sorted=blocks > 1)
    counts = counts.gather(-1, places)
    # Padding takes the place of the lowest real score, where its zero count is harmless.
    lowest = torch.where(counts > 0, y, math.inf).amin(dim=-1, keepdim=True)
    y = torch.where(counts > 0, y, torch.where(lowest.isfinite(), lowest, 0.0))
    width = depth if blocks == 1 else _BLOCK
    end = y[:, -1:].expand(-1, blocks * width - depth)
    y = torch.cat([y, end], dim=1).reshape(classes, blocks, width)
    counts = pad(counts, (0, end.shape[1])).reshape(y.shape)
    # Blocks whose lowest is not below a positive lie above it; it falls into the next.
    block = count_not_above(-y[..., -1], -x, index).clamp(max=blocks - 1)
    return Pairs(x, index, block, y, counts, tau, kept, places)


def sums(pairs: Pairs, link: Link) -> Tensor:
    """Return ``[P]``, the sum of the link over each positive's negatives."""
    near = torch.cat([_near_sums(tile, link) for tile in _tiles(pairs)])
    if pairs.y.shape[1] == 1:
        return near
    at, per_block = (pairs.class_index, pairs.block), pairs.counts.sum(dim=-1)
    rows_above, rows_below = _before(per_block)[at], _after(per_block)[at]
    core = link.above.constant * rows_above + link.below.constant * rows_below
    if link.above.linear or link.below.linear:  # |u| adds up from the blocks' moments
        moments, tau = (pairs.counts * pairs.y).sum(dim=-1), pairs.tau[pairs.class_index]
        above = (_before(moments)[at] - rows_above * pairs.x) / tau
        below = (rows_below * pairs.x - _after(moments)[at]) / tau
        core = core + link.above.linear * above + link.below.linear * below
    core = core + at_positives(_below(pairs), link.below.powers)[0]
    core = core + at_positives(_above(pairs), link.above.powers)[0]
    return near + (link.offset * (rows_above + rows_below) + core / link.unit)


def gradients(g: Tensor, pairs: Pairs, link: Link) -> tuple[Tensor, Tensor]:
    """Return ``[P]`` and ``[C, n, b]``: the gradients, by ``x`` and ``y``, of the sums times ``g``.

    A negative's is a sum over positives: the transpose of :func:`sums`, step by step.
    """
    weighted = g / (pairs.tau * link.unit)[pairs.class_index]
    ((by_x, by_y),) = term_sums(weighted, pairs, link.first)
    return weighted * by_x, -pairs.counts * by_y


def second_gradients(
    a: Tensor, b: Tensor, g: Tensor, pairs: Pairs, link: Link
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by ``g``, ``x``, ``y`` of the :func:`gradients` times ``a`` and ``b``.

    With ``a`` ``[P]`` and ``b`` ``[C, n, b]`` that product is
    ``sum_ij g_i counts_j (a_i - b_j) slope(u_ij) / (tau unit)``, and each part of it a sum over
    negatives or over positives.
    """
    width, terms = pairs.tau[pairs.class_index], (link.first, link.second)
    b = torch.where(pairs.counts > 0, b, 0.0)
    factor = g / (width * width * link.unit)
    (first, _), (second, by_y) = term_sums(factor, pairs, *terms)
    of_b = pairs._replace(counts=pairs.counts * b)
    (first_b, _), (second_b, by_y_a) = term_sums(factor * a, of_b, *terms)
    by_g = (a * first - first_b) / (width * link.unit)
    return by_g, factor * (a * second - second_b), pairs.counts * (b * by_y - by_y_a)


def term_sums(weight: Tensor, pairs: Pairs, *terms: Term) -> list[tuple[Tensor, Tensor]]:
    """Return for each term ``[P]`` and ``[C, n, b]``: its sums over negatives, and over positives.

    Over each positive's negatives, times their counts, and over each negative's positives, times
    their ``weight`` ``[P]``. Terms share the powers of far pairs.
    """
    near = [_near_sums_of(weight, pairs, term) for term in terms]
    if pairs.y.shape[1] == 1:
        return near
    far_x, far_y = _far_negatives(pairs, *terms), _far_positives(weight, pairs, *terms)
    parts = zip(near, far_x, far_y, strict=True)
    return [(by_x + more_x, by_y + more_y) for (by_x, by_y), more_x, more_y in parts]


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


def _tile_length(pairs: Pairs) -> int:
    """Return how many positives to take at once, so that a processor's cache holds their pairs."""
    return max(1, (_TILE if may_look(pairs.x.device) else _LARGE_TILE) // pairs.y.shape[2])


def _tiles(pairs: Pairs) -> list[Pairs]:
    by_positive = (pairs.x, pairs.class_index, pairs.block)
    parts = zip(*(torch.split(part, _tile_length(pairs)) for part in by_positive), strict=True)
    return [pairs._replace(x=x, class_index=index, block=block) for x, index, block in parts]


def _margins(tile: Pairs) -> Tensor:
    """Return ``[P, b]``, the margins over the negatives of a positive's own block."""
    width = tile.tau[tile.class_index].unsqueeze(-1)
    return (tile.x.unsqueeze(-1) - _rows(tile.y, tile)).div_(width)


def _near_sums(tile: Pairs, link: Link) -> Tensor:
    """Return ``[P]``: the sums of the link over the negatives of the own block."""
    counts = _rows(tile.counts, tile)
    core = link.core(_margins(tile)).mul_(counts).sum(dim=-1) / link.unit
    return core + link.offset * counts.sum(dim=-1) if link.offset else core


def _near_sums_of(weight: Tensor, pairs: Pairs, term: Term) -> tuple[Tensor, Tensor]:
    """Return :func:`term_sums` of a term over the pairs of a block."""
    by_x, by_y = [], weight.new_zeros(pairs.y.shape)
    parts = torch.split(weight, _tile_length(pairs))
    for tile, part in zip(_tiles(pairs), parts, strict=True):
        value = term.value(_margins(tile))
        by_x.append((value * _rows(tile.counts, tile)).sum(dim=-1))
        by_y.flatten(0, 1).index_add_(0, tile.flat, value.mul_(part.unsqueeze(-1)))
    return torch.cat(by_x), by_y


def _rows(of_blocks: Tensor, tile: Pairs) -> Tensor:
    """Return the block of each positive, ``[P, b]``."""
    rows = of_blocks.flatten(0, 1)
    return rows if len(rows) == 1 else rows.index_select(0, tile.flat)  # broadcasting will do


def _before(of_blocks: Tensor) -> Tensor:
    """Return ``[C, n]``: the sums over the blocks before each."""
    return pad(of_blocks[..., :-1].cumsum(dim=-1), (1, 0))


def _after(of_blocks: Tensor) -> Tensor:
    return _before(of_blocks.flip(-1)).flip(-1)


def _far_negatives(pairs: Pairs, *terms: Term) -> list[Tensor]:
    """Return ``[P]`` for each term: its sums over the negatives of other blocks."""
    above = at_positives(_above(pairs), *(term.above.powers for term in terms))
    below = at_positives(_below(pairs), *(term.below.powers for term in terms))
    at, per_block = (pairs.class_index, pairs.block), pairs.counts.sum(dim=-1)
    rows_above, rows_below = _before(per_block)[at], _after(per_block)[at]
    return [
        (high + low)
        .add_(rows_above, alpha=term.above.constant)
        .add_(rows_below, alpha=term.below.constant)
        for high, low, term in zip(above, below, terms, strict=True)
    ]


def _far_positives(weight: Tensor, pairs: Pairs, *terms: Term) -> list[Tensor]:
    """Return ``[C, n, b]`` for each term: its sums over the weighted positives of other blocks."""
    above = at_negatives(_above(pairs), weight, *(term.above.powers for term in terms))
    below = at_negatives(_below(pairs), weight, *(term.below.powers for term in terms))
    shape = pairs.y.shape[:2]
    falling = weight.new_zeros(shape).flatten().index_add(0, pairs.flat, weight)
    falling = falling.view(shape)  # by the block that each positive falls into
    after, before = _after(falling).unsqueeze(-1), _before(falling).unsqueeze(-1)
    return [
        (high + low.flip(1, 2))
        .add_(after, alpha=term.above.constant)
        .add_(before, alpha=term.below.constant)
        for high, low, term in zip(above, below, terms, strict=True)
    ]


def _above(pairs: Pairs) -> Flank:
    return make_flank(pairs.x, pairs.class_index, pairs.block, pairs.y, pairs.counts, pairs.tau)


def _below(pairs: Pairs) -> Flank:
    """Return the flank below each positive: that above it, with all scores negated."""
    y, counts = -pairs.y.flip(1, 2), pairs.counts.flip(1, 2)
    block = pairs.y.shape[1] - 1 - pairs.block
    return make_flank(-pairs.x, pairs.class_index, block, y, counts, pairs.tau)
