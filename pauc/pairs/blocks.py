"""Sums of a link over pairs in linear memory, and their gradients, without autograd.

The negatives of a class are sorted and cut into blocks. A positive is compared one by one with
those of the block that it falls into. What lies above and below that enters by series in
``exp(-distance)`` (:mod:`pauc.pairs.links`): each block adds up its powers, and a scan carries the
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

from pauc.pairs.links import DEGREE, Link

_BLOCK = 32
_TILE = 1 << 15  # pairs that a processor's cache holds


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


def _may_look(device: torch.device) -> bool:
    """Return whether sizes may depend on data without the host having to wait."""
    return device.type == "cpu"


def make_pairs(
    x: Tensor, index: Tensor, counted: Tensor | None, y: Tensor, counts: Tensor, tau: Tensor
) -> Pairs:
    """Return the pairs of positives ``[P]``, those that are counted, and of ``y`` ``[C, B]``."""
    classes, depth = y.shape
    real = counts > 0
    kept = torch.arange(len(x), device=x.device)
    if _may_look(x.device):
        depth = max(int(real.sum(dim=-1).max()), 1)
        if counted is not None:
            kept = counted.nonzero().squeeze(-1)
            x, index = x[kept], index[kept]
    blocks = 1 if few_pairs(len(x), classes, depth) else -(-depth // _BLOCK)
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
    core = core + _at_positives(_below(pairs), link.below.powers)
    core = core + _at_positives(_above(pairs), link.above.powers)
    return near + (link.offset * (rows_above + rows_below) + core / link.unit)


def gradients(g: Tensor, pairs: Pairs, link: Link) -> tuple[Tensor, Tensor]:
    """Return ``[P]`` and ``[C, n, b]``: the gradients, by ``x`` and ``y``, of the sums times ``g``.

    A negative's is a sum over positives: the transpose of :func:`sums`, step by step.
    """
    weighted = g / (pairs.tau * link.unit)[pairs.class_index]
    by_y = weighted.new_zeros(pairs.y.shape)
    parts = torch.split(weighted, _tile_length(pairs))
    tiles = zip(_tiles(pairs), parts, strict=True)
    by_x = torch.cat([_near_slopes_(by_y, tile, part, link) for tile, part in tiles])
    if pairs.y.shape[1] > 1:
        far_x, far_y = _far_slopes(weighted, pairs, link)
        by_x, by_y = by_x + far_x, by_y + far_y
    return weighted * by_x, -pairs.counts * by_y


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
    return max(1, (_TILE if pairs.x.device.type == "cpu" else 1 << 24) // pairs.y.shape[2])


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


def _near_slopes_(by_y: Tensor, tile: Pairs, weighted: Tensor, link: Link) -> Tensor:
    """Return ``[P]``: the sums of the slope; add those over weighted positives to ``by_y``."""
    slope = link.slope(_margins(tile))
    by_x = (slope * _rows(tile.counts, tile)).sum(dim=-1)
    by_y.flatten(0, 1).index_add_(0, tile.flat, slope.mul_(weighted.unsqueeze(-1)))
    return by_x


def _rows(of_blocks: Tensor, tile: Pairs) -> Tensor:
    """Return the block of each positive, ``[P, b]``."""
    rows = of_blocks.flatten(0, 1)
    return rows if len(rows) == 1 else rows.index_select(0, tile.flat)  # broadcasting will do


def _before(of_blocks: Tensor) -> Tensor:
    """Return ``[C, n]``: the sums over the blocks before each."""
    return pad(of_blocks[..., :-1].cumsum(dim=-1), (1, 0))


def _after(of_blocks: Tensor) -> Tensor:
    return _before(of_blocks.flip(-1)).flip(-1)


def _far_slopes(weighted: Tensor, pairs: Pairs, link: Link) -> tuple[Tensor, Tensor]:
    """Return the sums of the link's slope in ``u``, over negatives and over weighted positives."""
    above, below = _above(pairs), _below(pairs)
    slope_above, slope_below = link.above.slope(-1), link.below.slope(+1)
    by_x = _at_positives(above, slope_above.powers) + _at_positives(below, slope_below.powers)
    by_y = _at_negatives(above, weighted, slope_above.powers)
    by_y = by_y + _at_negatives(below, weighted, slope_below.powers).flip(1, 2)
    if not (slope_above.constant or slope_below.constant):
        return by_x, by_y
    at, per_block = (pairs.class_index, pairs.block), pairs.counts.sum(dim=-1)
    by_x = by_x + slope_above.constant * _before(per_block)[at]
    by_x = by_x + slope_below.constant * _after(per_block)[at]
    falling = weighted.new_zeros(per_block.shape).flatten().index_add(0, pairs.flat, weighted)
    falling = falling.view(per_block.shape)  # by the block that each positive falls into
    constant = slope_above.constant * _after(falling) + slope_below.constant * _before(falling)
    return by_x, by_y + constant.unsqueeze(-1)


class _Flank(NamedTuple):
    """Blocks in descending order, and positives that lie below some of them."""

    gap: Tensor  # [C, n, b], how far a negative is above the lowest of its block, in `tau`
    counts: Tensor  # [C, n, b]
    drop: Tensor  # [C, n - 1], from the lowest of a block to that of the next, in `tau`
    last: Tensor  # [P] int64, the last block above a positive, among those of all classes
    z: Tensor  # [P], exp(-distance) to the lowest of that block; 0 where none is above


def _above(pairs: Pairs) -> _Flank:
    return _flank(pairs.x, pairs.class_index, pairs.block, pairs.y, pairs.counts, pairs.tau)


def _below(pairs: Pairs) -> _Flank:
    """Return the flank below each positive: that above it, with all scores negated."""
    y, counts = -pairs.y.flip(1, 2), pairs.counts.flip(1, 2)
    block = pairs.y.shape[1] - 1 - pairs.block
    return _flank(-pairs.x, pairs.class_index, block, y, counts, pairs.tau)


def _flank(
    x: Tensor, index: Tensor, block: Tensor, y: Tensor, counts: Tensor, tau: Tensor
) -> _Flank:
    # Only differences of neighbouring scores are formed, so that a far outlier costs no digits.
    lowest = y[..., -1]
    last = index * y.shape[1] + (block - 1).clamp(min=0)
    distance = (lowest.flatten()[last] - x) / tau[index]
    return _Flank(
        gap=(y - lowest.unsqueeze(-1)) / tau.reshape(-1, 1, 1),
        counts=counts,
        drop=(lowest[:, :-1] - lowest[:, 1:]) / tau.unsqueeze(-1),
        last=last,
        z=torch.where(block > 0, torch.exp(-distance), 0.0),
    )


def _at_positives(flank: _Flank, coefficients: list[float]) -> Tensor:
    """Return ``[P]``: ``sum_k coefficients_k sum_j counts_j exp(-k distance)`` over all above."""
    z, power, per_block = torch.exp(-flank.gap), flank.counts, []
    for _ in range(DEGREE):
        power = power * z
        per_block.append(power.sum(dim=-1))
    carried = _scan(torch.stack(per_block), flank.drop).flatten(1).index_select(1, flank.last)
    return _horner(carried, flank.z, coefficients)


def _at_negatives(flank: _Flank, weight: Tensor, coefficients: list[float]) -> Tensor:
    """Return ``[C, n, b]``: the transpose, ``sum_k coefficients_k sum_i weight_i exp(-k d)``."""
    classes, blocks, _ = flank.gap.shape
    per_block = weight.new_zeros(DEGREE, classes * blocks)
    for power in per_block:
        weight = weight * flank.z
        power.index_add_(0, flank.last, weight)
    upwards = per_block.reshape(DEGREE, classes, blocks).flip(-1)
    carried = _scan(upwards, flank.drop.flip(-1)).flip(-1)
    return _horner(carried.unsqueeze(-1), torch.exp(-flank.gap), coefficients)


def _scan(per_block: Tensor, drop: Tensor) -> Tensor:
    """Return ``[degree, C, n]``: ``sum_{l <= j} per_block_l exp(-k (drop_l + ... + drop_(j-1)))``.

    By doubling: after each pass a block has summed twice as many predecessors. Every exponent is
    negative, so nothing overflows, and terms of one sign are added, so nothing cancels.
    """
    reach, decay = 1, _powers(torch.exp(-drop))
    while reach < per_block.shape[-1]:
        carried = per_block[..., :-reach] * decay
        per_block = torch.cat([per_block[..., :reach], per_block[..., reach:] + carried], dim=-1)
        decay = decay[..., reach:] * decay[..., :-reach]
        reach *= 2
    return per_block


def _powers(z: Tensor) -> Tensor:
    """Return ``z ** k`` for ``k = 1 ... degree`` as a first dimension."""
    powers = z.unsqueeze(0)
    while len(powers) < DEGREE:
        powers = torch.cat([powers, powers * powers[-1:]])
    return powers


def _horner(factors: Tensor, z: Tensor, coefficients: list[float]) -> Tensor:
    """Return ``sum_k coefficients_k factors_k z ** k``.

    The coefficients stay Python numbers: a tensor of them would be copied to an accelerator, which
    makes the host wait.
    """
    total = torch.zeros_like(z)
    for coefficient, factor in zip(reversed(coefficients), reversed(factors.unbind()), strict=True):
        total = total.add(factor, alpha=coefficient).mul_(z)
    return total
