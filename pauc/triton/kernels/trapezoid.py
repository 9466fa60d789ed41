"""The trapezoid of a class's positives with its gradient, one segment of the pool a program."""

import triton
import triton.language as tl

from pauc.triton.kernels.band import is_usable, live_factor, soft_step, store_class, width_of
from pauc.triton.kernels.rows import fill_of, labels_of, scores_of, weights_of
from pauc.triton.kernels.select import last_rank, quantile
from pauc.triton.kernels.sums import no_sums, weight_sums


@triton.jit
def trapezoid(
    logits, targets, weight, held_scores, held_targets, held_weight, fill,
    levels, hist, prefix, rank, sums, poison,
    usable, degenerate, ref_count, totals, numbers, partial, gradient,
    N, C, Q, R, S, K, ignore_index, temperature,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr, SEGMENTS: tl.constexpr, LABELS: tl.constexpr,
    POOLED: tl.constexpr, LIVE: tl.constexpr, SCALE: tl.constexpr, KIND: tl.constexpr,
    EACH: tl.constexpr,
):  # fmt: skip
    """Grid ``[S, C]``. Writes the sum of contributions ``partial`` ``[C, S]`` and the gradient."""
    s, c = tl.program_id(0), tl.program_id(1)
    tau, count = width_of(levels, hist, prefix, rank, c, temperature, K, C, R, SCALE, KIND, EACH)
    total, live_total = weight_sums(sums, c, S, SEGMENTS, POOLED)
    if s == 0:
        store_class(usable, degenerate, ref_count, totals, c, tau, count, total)
        tl.store(numbers + c, 1.0)
    counts = is_usable(count, tau, total)
    tau = tl.where(counts, tau, 1.0)
    steep = -live_factor(total, live_total, LIVE) / (tl.where(counts, total, 1.0) * tau)
    poisoned = tl.load(poison + c) > 0
    held = fill_of(fill, Q)
    contribution = no_sums(BLOCK)
    for start in range(0, SEGMENT, BLOCK):
        m = s * SEGMENT + start + tl.arange(0, BLOCK)
        live = m < N
        positive, present = labels_of(
            targets, held_targets, m, c, N, C, Q, held, ignore_index, LABELS
        )
        positive = positive & counts
        if not POOLED:
            positive = positive & live
        slope = tl.zeros([BLOCK], tl.float32)
        # Most segments have few positives, and with many classes most have none.
        if tl.max(positive.to(tl.int32)) > 0:
            score = scores_of(logits, held_scores, m, c, N, C, Q, held)
            value, slope = knot_mean(
                levels, hist, prefix, rank, score, tau, c, K, C, R, KIND, EACH, BLOCK
            )
            w = weights_of(weight, held_weight, m, N, held).to(tl.float64)
            contribution += tl.where(positive, value * w, 0.0)
            slope = tl.where(positive, slope * w * steep, 0.0).to(tl.float32)
        slope = tl.where(poisoned & present, float("nan"), slope)
        tl.store(gradient + m.to(tl.int64) * C + c, slope, mask=live)
    tl.store(partial + c.to(tl.int64) * S + s, tl.sum(contribution))


@triton.jit
def knot_mean(
    levels, hist, prefix, rank, score, tau, c, K, C, R,
    KIND: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the trapezoid's mean of each score's steps over ``K`` knots, and of their slopes."""
    _, last = last_rank(hist, c, R)
    value = tl.zeros([BLOCK], tl.float32)
    slope = tl.zeros([BLOCK], tl.float32)
    for k in range(K):
        knot = quantile(levels, hist, prefix, rank, c, k, last, C, R, KIND, EACH)
        share = tl.where((k == 0) | (k == K - 1), 0.5, 1.0) / (K - 1)
        soft, steepness = soft_step((score - knot) / tau)
        value += share * soft
        slope += share * steepness
    return value, slope
