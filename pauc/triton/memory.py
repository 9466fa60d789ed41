"""The shapes that a step works in, and the memory that its kernels write."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pauc.triton.options import TritonOptions

BLOCK = 1024  # rows that a program reads together
TILE = 32  # rows of either side of a tile of pairs; with 64 a program holds 32 pairs a thread
MOST_SEGMENTS = 128  # into which the pool is cut, but for rounding up
# Products and sums are rounded one by one, as the operators' are.
LAUNCH: dict[str, bool] = {"enable_fp_fusion": False}
_PROGRAMS = 1024  # that share the tiles of pairs: some for each processor of a large GPU


class Shape(NamedTuple):
    """Sizes that depend on shapes alone, so that a captured graph can be replayed."""

    rows: int  # of the batch
    classes: int
    size: int  # slots of the queue
    ranks: int  # scores that are sought in each class
    block: int
    segment: int  # rows of a segment; a power of two, and a multiple of `block`
    segments: int
    parts: int  # partial sums of a class

    @property
    def padded_segments(self) -> int:
        """The number of segments as a power of two, which a tile must have."""
        return next_power(self.segments)


def next_power(count: int) -> int:
    """Return the least power of two that is not below."""
    return 1 << max(count - 1, 0).bit_length()


def make_shape(rows: int, classes: int, size: int, options: TritonOptions) -> Shape:
    """Return how the work of a step is cut into programs."""
    pool = rows + size
    segment = max(BLOCK, next_power(-(-pool // MOST_SEGMENTS)))
    segments = -(-pool // segment)
    tiles = -(-pool // TILE)
    return Shape(
        rows=rows,
        classes=classes,
        size=size,
        ranks=len(options.levels) * options.ranks_each,
        block=BLOCK,
        segment=segment,
        segments=segments,
        parts=min(tiles, max(_PROGRAMS // classes, 1)) if options.pairwise else segments,
    )


class Scratch(NamedTuple):
    """What kernels tell each other. ``C`` classes, ``S`` segments, ``R`` ranks, ``T`` parts."""

    hist: Tensor  # [C, 1 + 3 R, 256] int32, of zeros, as the three that follow
    poison: Tensor  # [C] int32
    bad: Tensor  # [1] int32
    admission: Tensor  # [N] int32
    prefix: Tensor  # [3, C, R] int32
    rank: Tensor  # [3, C, R] int32
    usable: Tensor  # [C] int32
    sums: Tensor  # [C, S, 6] float64
    totals: Tensor  # [C] float64
    numbers: Tensor  # [C] float64
    partial: Tensor  # [C, T] float64


def make_scratch(shape: Shape, device: torch.device) -> Scratch:
    """Allocate in three pieces, of which one is set to zero: one launch."""
    C, R = shape.classes, shape.ranks
    zero_sizes = [C * (1 + 3 * R) * 256, C, 1, shape.rows]
    zeros = torch.zeros(sum(zero_sizes), dtype=torch.int32, device=device)
    ints = torch.empty(6 * C * R + C, dtype=torch.int32, device=device)
    sizes = [6 * C * shape.segments, C, C, C * shape.parts]
    doubles = torch.empty(sum(sizes), dtype=torch.float64, device=device)
    parts = _cut(zeros, zero_sizes), _cut(ints, [3 * C * R, 3 * C * R, C]), _cut(doubles, sizes)
    return Scratch(*(part for piece in parts for part in piece))


def _cut(piece: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(torch.split(piece, sizes))


class Found(NamedTuple):
    """What a step finds. ``N`` rows, ``C`` classes."""

    loss: Tensor  # [], with reduction="none" [C]
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] uint8
    degenerate: Tensor  # [C] uint8
    ref_count: Tensor  # [C] int64
    gradient: Tensor  # [N, C] float32, of `per_class`
    factor: Tensor  # [] float32, of each class's loss in the loss
    shares: Tensor  # [C] float32, of a row's cross-entropy in the loss; unwritten without one
    earned: Tensor | None  # [C] float32, what is explained, which `factor` has not; None: 1
    legal: Tensor  # [] int32, 0 where a value is not legal


def make_found(shape: Shape, options: TritonOptions, device: torch.device) -> Found:
    """Allocate what a step finds."""
    C = shape.classes

    def empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    return Found(
        loss=empty(C) if options.reduction == "none" else empty(),
        per_class=empty(C),
        valid=empty(C, dtype=torch.uint8),
        degenerate=empty(C, dtype=torch.uint8),
        ref_count=empty(C, dtype=torch.int64),
        gradient=empty(shape.rows, C),
        factor=empty(),
        shares=empty(C),
        earned=empty(C) if options.explained else None,
        legal=empty(dtype=torch.int32),
    )


@lru_cache(maxsize=64)
def levels_on(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the levels as float64 on a device; kept, since the host waits for a copy."""
    return torch.tensor(levels, dtype=torch.float64, device=device)
