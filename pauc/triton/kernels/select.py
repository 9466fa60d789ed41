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

from pauc.triton.kernels.enter import admit
from pauc.triton.kernels.legal import count_illegal, unsound
from pauc.triton.kernels.rows import (
    fill_of,
    iid_of,
    is_first_look,
    labels_of,
    scores_of,
    weights_of,
)
from pauc.triton.kernels.sums import cross_entropy, no_sums, store_sums


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
    cursor, fill, step, hist, sums, poison, admission, bad,
    N, C, Q, R, S, ignore_index, largest,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, LABELS: tl.constexpr, CHECK: tl.constexpr,
    ENTROPY: tl.constexpr, EXPLAINED: tl.constexpr,
):  # fmt: skip
    """The first pass, grid ``[S, C]``; and all that is to be known of the rows before the band is.

    ``sums`` ``[C, S, 6]`` are described in ``sums.py``, ``poison`` ``[C]`` and ``admission``
    ``[N]`` in ``enter.py``; ``bad`` is how much is illegal.
    """
    s, c = tl.program_id(0), tl.program_id(1)
    held = fill_of(fill, Q)
    row = hist + c.to(tl.int64) * (1 + 3 * R) * 256
    own, rows, cross = no_sums(BLOCK), no_sums(BLOCK), no_sums(BLOCK)
    live_own, live_rows, live_cross = no_sums(BLOCK), no_sums(BLOCK), no_sums(BLOCK)
    end_of_entropy = N + held if EXPLAINED else N  # the queue's rows have one to be explained
    for offset in range(0, SEGMENT, BLOCK):
        start = s * SEGMENT + offset
        m = start + tl.arange(0, BLOCK)
        live = m < N
        score = scores_of(logits, held_scores, m, c, N, C, Q, held)
        positive, present = labels_of(
            targets, held_targets, m, c, N, C, Q, held, ignore_index, LABELS
        )
        reference = present & ~positive & iid_of(iid, held_iid, m, N, held)
        add_digits(row, key_of(score), 24, reference)
        admit(admission, poison, score, m, c, live & present, LABELS)
        w = tl.where(present, weights_of(weight, held_weight, m, N, held), 0.0).to(tl.float64)
        own += tl.where(positive, w, 0.0)
        live_own += tl.where(positive & live, w, 0.0)
        if ENTROPY:
            if start < end_of_entropy:
                rows += w
                live_rows += tl.where(live, w, 0.0)
                entropy = tl.where(present, w * cross_entropy(score, positive), 0.0)
                cross += entropy
                live_cross += tl.where(live, entropy, 0.0)
        if CHECK:
            if is_first_look(c, LABELS) & (start < N):
                wrong = count_illegal(targets, weight, m, c, N, C, ignore_index, largest, LABELS)
                tl.atomic_add(bad, wrong)
    into = sums + (c.to(tl.int64) * S + s) * 6
    store_sums(into, own, rows, cross)
    store_sums(into + 3, live_own, live_rows, live_cross)
    if CHECK:  # apart, since the compiler drops what stands under a constant
        if (c == 0) & (s == 0):
            tl.atomic_add(bad, unsound(cursor, fill, step, Q))


@triton.jit
def next_digits(
    logits, targets, iid, held_scores, held_targets, held_iid, fill,
    levels, hist, prefix, rank, N, C, Q, R, ignore_index,
    PASS: tl.constexpr, SEGMENT: tl.constexpr, BLOCK: tl.constexpr, LABELS: tl.constexpr,
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
        positive, present = labels_of(
            targets, held_targets, m, c, N, C, Q, held, ignore_index, LABELS
        )
        reference = present & ~positive & iid_of(iid, held_iid, m, N, held)
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
