"""Sums over the rows of a class by weight: what the band's surrogate and both entropies divide by.

``sums`` ``[C, S, 6]``, float64, has a segment's sums over the pool, then over the live rows alone:
what the positives weigh, what all present rows weigh, and the rows' cross-entropies by weight. The
last two are there where the loss has a cross-entropy; those over the pool where it is to be told
how much is explained.
"""

import triton
import triton.language as tl


@triton.jit
def no_sums(BLOCK: tl.constexpr):
    """Return a sum for each place of a block, of nothing."""
    return tl.zeros([BLOCK], tl.float64)


@triton.jit
def store_sums(into, own, rows, cross):
    """Store the three sums of a segment, each over its block."""
    tl.store(into, tl.sum(own))
    tl.store(into + 1, tl.sum(rows))
    tl.store(into + 2, tl.sum(cross))


@triton.jit
def cross_entropy(score, positive):
    """Return the binary cross-entropy of each row, float64."""
    linear = tl.maximum(score, 0.0) - tl.where(positive, score, 0.0)
    return linear + tl.log(1 + tl.exp(-tl.abs(score)).to(tl.float64))


@triton.jit
def weight_sums(sums, c, S, SEGMENTS: tl.constexpr, POOLED: tl.constexpr):
    """Return what a class's positives in the numerator weigh together, and the live ones."""
    s = tl.arange(0, SEGMENTS)
    at = sums + (c.to(tl.int64) * S + s) * 6
    live = tl.sum(tl.load(at + 3, mask=s < S, other=0.0))
    total = tl.sum(tl.load(at, mask=s < S, other=0.0)) if POOLED else live
    return total, live


@triton.jit
def sum_parts(
    parts, c, real, T, stride, CLASSES: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """Return the sum of the ``T`` parts of each of some classes; they lie ``stride`` apart."""
    total = tl.zeros([CLASSES, PARTS], tl.float64)
    for start in range(0, T, PARTS):
        t = start + tl.arange(0, PARTS)
        at = parts + (c.to(tl.int64)[:, None] * T + t[None, :]) * stride
        total += tl.load(at, mask=real[:, None] & (t[None, :] < T), other=0.0)
    return tl.sum(total, axis=1)


@triton.jit
def entropy_of(sums, c, real, S, each, CLASSES: tl.constexpr, PARTS: tl.constexpr):
    """Return what the classes' cross-entropies add to the loss, and the share of a row in that."""
    weight = sum_parts(sums + 4, c, real, S, 6, CLASSES, PARTS)
    share = tl.where(weight > 0, each / tl.where(weight > 0, weight, 1.0), 0.0)
    return share * sum_parts(sums + 5, c, real, S, 6, CLASSES, PARTS), share


@triton.jit
def explained_weight(sums, c, real, S, CLASSES: tl.constexpr, PARTS: tl.constexpr):
    """As `pauc.core.explained.explained_weight`, but 0 where a live logit is nan."""
    own = sum_parts(sums, c, real, S, 6, CLASSES, PARTS)
    rows = sum_parts(sums + 1, c, real, S, 6, CLASSES, PARTS)
    cross = sum_parts(sums + 2, c, real, S, 6, CLASSES, PARTS)
    rate = own / tl.where(rows > 0, rows, 1.0)
    is_mixed = (rate > 0) & (rate < 1)
    rate = tl.where(is_mixed, rate, 0.5)
    entropy = -(rate * tl.log(rate) + (1 - rate) * tl.log(1 - rate))
    share = 1 - cross / (entropy * tl.where(is_mixed, rows, 1.0))
    share = tl.where(is_mixed & (share > 0), share, 0.0)
    return share * share * share
