"""Selection of order statistics by digits: four passes of 8 bits over the bit patterns of float32.

A pass counts, for each rank that is sought, the next digit of the scores that agree with what is
known of the sought score. The counts are integers, so that adding them up in any order gives the
same: a result is exact and the same every time. What a pass has counted is read by the next, each
program for itself, which saves a launch between the two.

Shapes, for ``C`` classes, ``R`` ranks: ``hist`` ``[C, 1 + 3 R, 256]`` (the first pass is the same
for all ranks); ``prefix`` and ``rank`` ``[3, C, R]``, the digits known after a pass, and the rank
sought among the scores that have these digits.
"""

import triton
import triton.language as tl

from pauc.triton.kernels.rows import (
    fill_of,
    iid_of,
    scores_of,
    targets_of,
    weights_of,
)


@triton.jit
def key_of(score):
    """Return integers whose bits, read without a sign, are in the order of the scores; nan last."""
    bits = score.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, ~bits, bits ^ -2147483648)
    return tl.where(score == score, key, -1)


@triton.jit
def score_of(key):
    """Return the score of a key."""
    bits = tl.where(key < 0, key ^ -2147483648, ~key)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def add_digits(row, key, shift, counts):
    """Add how often each digit occurs among the keys that count."""
    digit = tl.where(counts, (key >> shift) & 255, 0)
    found = tl.histogram(digit, 256)
    bins = tl.arange(0, 256)
    # What does not count has been counted as a zero.
    found -= tl.where(bins == 0, tl.sum((~counts).to(tl.int32)), 0)
    tl.atomic_add(row + bins, found, mask=found > 0)


@triton.jit
def descend(row, rank):
    """Return the digit of the score at a descending rank, and its rank among that digit's."""
    bins = tl.arange(0, 256)
    counts = tl.load(row + bins)
    above = tl.sum(counts) - tl.cumsum(counts)
    here = (above <= rank) & (rank < above + counts)
    return tl.sum(tl.where(here, bins, 0)), tl.sum(tl.where(here, rank - above, 0))


@triton.jit
def rank_of(levels, r, last, KIND: tl.constexpr, EACH: tl.constexpr):
    """Return the descending rank of the ``r``-th score sought, of ``last + 1``.

    ``EACH`` is 2 where both neighbours of a level are sought, the higher one first.
    """
    position = tl.load(levels + r // EACH) * last.to(tl.float64)
    upper, lower = tl.floor(position), tl.ceil(position)
    if EACH == 2:
        sought = tl.where(r % 2 == 0, upper, lower)
    else:
        sought = lower if KIND == "lower" else upper
    return sought.to(tl.int32)


@triton.jit
def last_rank(hist, c, R):
    """Return how many reference rows a class has, and the rank of the last of them."""
    counts = tl.load(hist + c.to(tl.int64) * (1 + 3 * R) * 256 + tl.arange(0, 256))
    count = tl.sum(counts)
    return count, tl.maximum(count - 1, 0)


@triton.jit
def first_digits(
    logits, targets, iid, weight, held_scores, held_targets, held_iid, held_weight,
    cursor, fill, step, hist, sums, poison, rejected, bad,
    N, C, Q, R, S, ignore_index, largest,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, BINARY: tl.constexpr, POOLED: tl.constexpr,
    CHECK: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """The first pass, grid ``[S, C]``; and all that is to be known of the rows before the band is.

    ``sums`` ``[C, S, 4]``: the weight of a segment's positives in the numerator, of its live ones,
    of its live rows; and the sum of these rows' cross-entropies by weight.
    ``poison`` ``[C]``, ``rejected`` ``[N]``: whether a present row has a logit that is not finite.
    ``bad``: how much is illegal.
    """
    s, c = tl.program_id(0), tl.program_id(1)
    held = fill_of(fill, Q)
    row = hist + c.to(tl.int64) * (1 + 3 * R) * 256
    total = tl.zeros([BLOCK], tl.float64)
    live_total = tl.zeros([BLOCK], tl.float64)
    row_total = tl.zeros([BLOCK], tl.float64)
    entropy = tl.zeros([BLOCK], tl.float64)
    for start in range(0, SEGMENT, BLOCK):
        m = s * SEGMENT + start + tl.arange(0, BLOCK)
        live = m < N
        score = scores_of(logits, held_scores, m, c, N, C, Q, held)
        target, present = targets_of(targets, held_targets, m, N, held, ignore_index)
        w = weights_of(weight, held_weight, m, N, held)
        positive = present & (target == c + BINARY)
        reference = present & ~positive & iid_of(iid, held_iid, m, N, held)
        add_digits(row, key_of(score), 24, reference)
        infinite = live & present & ~(tl.abs(score) < float("inf"))
        tl.atomic_max(rejected + m, 1, mask=infinite)
        if tl.max(infinite.to(tl.int32)) > 0:
            tl.atomic_max(poison + c, 1)
        if ENTROPY:
            if s * SEGMENT + start < N:
                z = 1 + tl.exp(-tl.abs(score)).to(tl.float64)
                linear = tl.maximum(score, 0.0) - tl.where(positive, score, 0.0)
                row_w = tl.where(live & present, w, 0.0).to(tl.float64)
                row_total += row_w
                entropy += tl.where(live & present, row_w * (linear + tl.log(z)), 0.0)
        w = tl.where(positive, w, 0.0).to(tl.float64)
        live_total += tl.where(live, w, 0.0)
        total += w if POOLED else tl.where(live, w, 0.0)
        if CHECK:
            if c == 0:
                unknown = live & present & ((target < 0) | (target > largest))
                wrong = tl.sum(unknown.to(tl.int32))
                if weight is not None:
                    given = tl.load(weight + m, mask=live, other=0).to(tl.float32)
                    fine = (given >= 0) & (given < float("inf"))
                    wrong += tl.sum((live & present & ~fine).to(tl.int32))
                tl.atomic_add(bad, wrong)
    into = sums + (c.to(tl.int64) * S + s) * 4
    tl.store(into, tl.sum(total))
    tl.store(into + 1, tl.sum(live_total))
    tl.store(into + 2, tl.sum(row_total))
    tl.store(into + 3, tl.sum(entropy))
    if CHECK:  # apart, since the compiler drops what stands under a constant
        if (c == 0) & (s == 0):
            tl.atomic_add(bad, unsound(cursor, fill, step, Q))


@triton.jit
def unsound(cursor, fill, step, Q):
    """Return 1 where the counters cannot be those of a queue, as `check_counters` says, else 0."""
    at, filled = tl.load(cursor), tl.load(fill)
    fits = ((filled == Q) & (at >= 0) & (at < tl.maximum(Q, 1))) | ((filled != Q) & (at == filled))
    sound = fits & (filled >= 0) & (filled <= Q) & (tl.load(step) >= 0)
    return (~sound).to(tl.int32)


@triton.jit
def next_digits(
    logits, targets, iid, held_scores, held_targets, held_iid, fill,
    levels, hist, prefix, rank, N, C, Q, R, ignore_index,
    PASS: tl.constexpr, SEGMENT: tl.constexpr, BLOCK: tl.constexpr, BINARY: tl.constexpr,
    KIND: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """The second to the fourth pass (``PASS`` 1 to 3), grid ``[S, C, R]``."""
    s, c, r = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    of_class = hist + c.to(tl.int64) * (1 + 3 * R) * 256
    if PASS == 1:
        _, last = last_rank(hist, c, R)
        known, k = descend(of_class, rank_of(levels, r, last, KIND, EACH))
    else:
        state = ((PASS - 2) * C + c) * R + r
        digit, k = descend(of_class + (1 + (PASS - 2) * R + r) * 256, tl.load(rank + state))
        known = (tl.load(prefix + state) << 8) | digit
    if s == 0:
        state = ((PASS - 1) * C + c) * R + r
        tl.store(prefix + state, known)
        tl.store(rank + state, k)
    held = fill_of(fill, Q)
    for start in range(0, SEGMENT, BLOCK):
        m = s * SEGMENT + start + tl.arange(0, BLOCK)
        key = key_of(scores_of(logits, held_scores, m, c, N, C, Q, held))
        target, present = targets_of(targets, held_targets, m, N, held, ignore_index)
        reference = present & (target != c + BINARY) & iid_of(iid, held_iid, m, N, held)
        agrees = ((key >> (32 - 8 * PASS)) & ((1 << (8 * PASS)) - 1)) == known
        row = of_class + (1 + (PASS - 1) * R + r) * 256
        add_digits(row, key, 24 - 8 * PASS, reference & agrees)


@triton.jit
def order_statistic(hist, prefix, rank, c, r, C, R):
    """Return the ``r``-th score that was sought, after the last pass."""
    state = (2 * C + c) * R + r
    row = hist + (c.to(tl.int64) * (1 + 3 * R) + 1 + 2 * R + r) * 256
    digit, _ = descend(row, tl.load(rank + state))
    return score_of((tl.load(prefix + state) << 8) | digit)


@triton.jit
def lerp(high, low, share):
    """As `torch.lerp`."""
    near = high + share * (low - high)
    return tl.where(share < 0.5, near, low - (low - high) * (1 - share))


@triton.jit
def quantile(
    levels, hist, prefix, rank, c, level, last, C, R, KIND: tl.constexpr, EACH: tl.constexpr
):
    """Return the score at a level, as `pauc.core.quantiles.interpolate` does."""
    found = order_statistic(hist, prefix, rank, c, EACH * level, C, R)
    if EACH == 2:
        low = order_statistic(hist, prefix, rank, c, EACH * level + 1, C, R)
        position = tl.load(levels + level) * last.to(tl.float64)
        if KIND == "midpoint":
            found = lerp(found, low, 0.5)
        elif KIND == "linear":
            found = lerp(found, low, (position - tl.floor(position)).to(tl.float32))
        else:
            found = tl.where(nearest_is_high(position, last.to(tl.float64)), found, low)
    return found


@triton.jit
def nearest_is_high(position, last):
    """Return whether the ascending position, rounded half to even, is the higher neighbour's."""
    rising = last - position
    down = tl.floor(rising)
    odd = down - 2 * tl.floor(down / 2) > 0
    up = (rising - down > 0.5) | ((rising - down == 0.5) & odd)
    return down + tl.where(up, 1.0, 0.0) == last - tl.floor(position)
