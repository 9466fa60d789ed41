"""The pairwise surrogate: lists of a class's rows, then sums over pairs in tiles.

A segment of ``list`` ``[C, S * SEGMENT]`` holds the rows of the same segment of the pool, in their
order: positives from its front, negatives in the band from its back. No row is both, so that there
is room. The live rows come first among either, as they do in the pool.
"""

import triton
import triton.language as tl

from pauc.triton.kernels.band import is_usable, live_factor, soft_step, store_class, width_of
from pauc.triton.kernels.rows import fill_of, labels_of, scores_of, weights_of
from pauc.triton.kernels.select import last_rank, quantile
from pauc.triton.kernels.sums import weight_sums


@triton.jit
def list_rows(
    logits, targets, weight, held_scores, held_targets, held_weight, fill,
    levels, hist, prefix, rank, sums, poison,
    usable, degenerate, ref_count, totals, taus, rows, counts, gradient,
    N, C, Q, R, S, K, ignore_index, temperature,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr, LABELS: tl.constexpr,
    POOLED: tl.constexpr, SCALE: tl.constexpr, KIND: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Grid ``[S, C]``. ``counts`` ``[3, C, S]``: positives, negatives, live negatives listed.

    The gradient is set to what it is without pairs: 0, or nan in a class with such a logit.
    """
    s, c = tl.program_id(0), tl.program_id(1)
    tau, count = width_of(levels, hist, prefix, rank, c, temperature, K, C, R, SCALE, KIND, EACH)
    total, _ = weight_sums(sums, c, S, SEGMENTS, POOLED)
    if s == 0:
        store_class(usable, degenerate, ref_count, totals, c, tau, count, total)
        tl.store(taus + c, tau)
    _, last = last_rank(hist, c, R)
    upper = quantile(levels, hist, prefix, rank, c, 0, last, C, R, KIND, EACH)
    lower = quantile(levels, hist, prefix, rank, c, K - 1, last, C, R, KIND, EACH)
    poisoned = tl.load(poison + c) > 0
    counted = is_usable(count, tau, total) & ~poisoned
    held = fill_of(fill, Q)
    front = rows + (c.to(tl.int64) * S + s) * SEGMENT
    positives = tl.sum(tl.zeros([BLOCK], tl.int32))
    negatives, live_negatives = positives, positives
    for start in range(0, SEGMENT, BLOCK):
        m = s * SEGMENT + start + tl.arange(0, BLOCK)
        live = m < N
        score = scores_of(logits, held_scores, m, c, N, C, Q, held)
        own, present = labels_of(targets, held_targets, m, c, N, C, Q, held, ignore_index, LABELS)
        w = weights_of(weight, held_weight, m, N, held)
        positive = (own & (w > 0) & counted).to(tl.int32)
        if not POOLED:
            positive = tl.where(live, positive, 0)
        inside = (score >= lower) & (score <= upper)
        negative = (present & ~own & inside & counted).to(tl.int32)
        append(front, 1, positives, positive, m)
        append(front + SEGMENT - 1, -1, negatives, negative, m)
        positives += tl.sum(positive)
        negatives += tl.sum(negative)
        live_negatives += tl.sum(tl.where(live, negative, 0))
        flat = tl.where(poisoned & present, float("nan"), tl.zeros([BLOCK], tl.float32))
        tl.store(gradient + m.to(tl.int64) * C + c, flat, mask=live)
    tl.store(counts + c * S + s, positives)
    tl.store(counts + (C + c) * S + s, negatives)
    tl.store(counts + (2 * C + c) * S + s, live_negatives)


@triton.jit
def append(first, stride, count, member, m):
    """Write the rows ``m`` whose ``member`` is 1, and not 0, behind the ``count`` of a list."""
    place = count + tl.cumsum(member) - member
    tl.store(first + stride * place, m, mask=member > 0)


@triton.jit
def segment_ends(counts, kind, c, C, S, SEGMENTS: tl.constexpr):
    """Return up to which place of the whole list each segment's rows go, and how many rows."""
    s = tl.arange(0, SEGMENTS)
    each = tl.load(counts + (kind * C + c) * S + s, mask=s < S, other=0)
    return tl.cumsum(each), each, tl.sum(each)


@triton.jit
def listed(rows, ends, each, place, real, c, S, SEGMENT: tl.constexpr, FRONT: tl.constexpr):
    """Return the rows at places of the whole list of positives (``FRONT``) or negatives."""
    before = place[:, None] >= ends[None, :]
    segment = tl.sum(before.to(tl.int32), axis=1)
    within = place - tl.sum(tl.where(before, each[None, :], 0), axis=1)
    at = within if FRONT else SEGMENT - 1 - within
    return tl.load(rows + (c.to(tl.int64) * S + segment) * SEGMENT + at, mask=real, other=0)


@triton.jit
def link_of(u, LOGISTIC: tl.constexpr):
    """Return the link and its slope."""
    value, slope = soft_step(u)
    if LOGISTIC:
        behind = tl.maximum(-u, 0.0) + tl.log(1 + tl.exp(-tl.abs(u)))
        slope = (1 - value) * 1.4426950408889634
        value = 1 - behind * 1.4426950408889634
    return value, slope


@triton.jit
def sum_pairs(
    logits, weight, held_scores, held_weight, fill, sums, rows, counts, usable, taus, numbers,
    partial, gradient, N, C, Q, S, T,
    SEGMENT: tl.constexpr, SEGMENTS: tl.constexpr, TILE: tl.constexpr, POOLED: tl.constexpr,
    LIVE: tl.constexpr, LOGISTIC: tl.constexpr,
):  # fmt: skip
    """Grid ``[T, C]``. Each program takes every ``T``-th tile of positives and of live negatives.

    Adds up in float64, in an order that the list and the tile decide. A tile of sums is kept, so
    that threads meet once a row and not once a tile.
    """
    t, c = tl.program_id(0), tl.program_id(1)
    p_ends, p_each, p_count = segment_ends(counts, 0, c, C, S, SEGMENTS)
    n_ends, n_each, n_count = segment_ends(counts, 1, c, C, S, SEGMENTS)
    l_ends, l_each, l_count = segment_ends(counts, 2, c, C, S, SEGMENTS)
    if t == 0:
        tl.store(numbers + c, n_count.to(tl.float64))
    total, live_total = weight_sums(sums, c, S, SEGMENTS, POOLED)
    counted = (tl.load(usable + c) > 0) & (n_count > 0)
    tau = tl.where(counted, tl.load(taus + c), 1.0)
    number = tl.maximum(n_count, 1).to(tl.float64)
    steep = 1 / (tl.where(counted, total, 1.0) * number * tau)
    held = fill_of(fill, Q)
    contribution = pairs_of_positives(
        logits, weight, held_scores, held_weight, rows, gradient,
        p_ends, p_each, p_count, n_ends, n_each, n_count,
        tau, -steep * live_factor(total, live_total, LIVE), held, t, c, N, C, Q, S, T,
        SEGMENT, TILE, LOGISTIC,
    )  # fmt: skip
    tl.store(partial + c.to(tl.int64) * T + t, contribution)
    pairs_of_negatives(
        logits, weight, held_scores, held_weight, rows, gradient,
        p_ends, p_each, p_count, l_ends, l_each, l_count,
        tau, steep * live_factor(number, l_count.to(tl.float64), LIVE), held, t, c, N, C, Q, S, T,
        SEGMENT, TILE, LOGISTIC,
    )  # fmt: skip


@triton.jit
def pairs_of_positives(
    logits, weight, held_scores, held_weight, rows, gradient,
    p_ends, p_each, p_count, n_ends, n_each, n_count,
    tau, steep, held, t, c, N, C, Q, S, T,
    SEGMENT: tl.constexpr, TILE: tl.constexpr, LOGISTIC: tl.constexpr,
):  # fmt: skip
    """Return the sum of links of a program's positives; write the gradient of the live ones."""
    i = tl.arange(0, TILE)
    contribution = tl.zeros([TILE], tl.float64)
    for first in range(t * TILE, p_count, T * TILE):
        real = first + i < p_count
        m = listed(rows, p_ends, p_each, first + i, real, c, S, SEGMENT, True)
        x = scores_of(logits, held_scores, m, c, N, C, Q, held)
        w = weights_of(weight, held_weight, m, N, held).to(tl.float64)
        values = tl.zeros([TILE, TILE], tl.float64)
        slopes = tl.zeros([TILE, TILE], tl.float64)
        for other in range(0, n_count, TILE):
            among = other + i < n_count
            n = listed(rows, n_ends, n_each, other + i, among, c, S, SEGMENT, False)
            y = scores_of(logits, held_scores, n, c, N, C, Q, held)
            link, steepness = link_of((x[:, None] - y[None, :]) / tau, LOGISTIC)
            values += tl.where(among[None, :], link, 0.0)
            slopes += tl.where(among[None, :], steepness, 0.0)
        contribution += tl.where(real, tl.sum(values, axis=1) * w, 0.0)
        moves = steep * w * tl.sum(slopes, axis=1)
        at = gradient + m.to(tl.int64) * C + c
        tl.store(at, moves.to(tl.float32), mask=real & (m < N))
    return tl.sum(contribution)


@triton.jit
def pairs_of_negatives(
    logits, weight, held_scores, held_weight, rows, gradient,
    p_ends, p_each, p_count, l_ends, l_each, l_count,
    tau, steep, held, t, c, N, C, Q, S, T,
    SEGMENT: tl.constexpr, TILE: tl.constexpr, LOGISTIC: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a program's live negatives."""
    i = tl.arange(0, TILE)
    for first in range(t * TILE, l_count, T * TILE):
        real = first + i < l_count
        n = listed(rows, l_ends, l_each, first + i, real, c, S, SEGMENT, False)
        y = scores_of(logits, held_scores, n, c, N, C, Q, held)
        slopes = tl.zeros([TILE, TILE], tl.float64)
        for other in range(0, p_count, TILE):
            among = other + i < p_count
            m = listed(rows, p_ends, p_each, other + i, among, c, S, SEGMENT, True)
            x = scores_of(logits, held_scores, m, c, N, C, Q, held)
            w = weights_of(weight, held_weight, m, N, held).to(tl.float64)
            w = tl.where(among, w, 0.0)
            _, steepness = link_of((x[None, :] - y[:, None]) / tau, LOGISTIC)
            slopes += steepness * w[None, :]
        at = gradient + n.to(tl.int64) * C + c
        tl.store(at, (steep * tl.sum(slopes, axis=1)).to(tl.float32), mask=real)
