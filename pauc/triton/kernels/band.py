"""The band of a class and what its positives weigh, as each program reads them off the digits."""

import triton
import triton.language as tl

from pauc.triton.kernels.select import last_rank, quantile


@triton.jit
def dispersion(upper, lower):
    """As `pauc.core.band.dispersion`, of float32."""
    spread = upper - lower
    rounding = 4.76837158203125e-07 * tl.maximum(tl.abs(upper), tl.abs(lower))
    return tl.where((spread <= rounding) & (rounding < float("inf")), 0.0, spread)


@triton.jit
def width_of(
    levels, hist, prefix, rank, c, temperature, K, C, R,
    SCALE: tl.constexpr, KIND: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Return the link's width, and the number of reference rows; levels are ``K`` knots first."""
    count, last = last_rank(hist, c, R)
    width = temperature
    if SCALE != "unit":
        # The quartiles stand behind the knots; the edges are the first knot and the last.
        upper, lower = (K, K + 1) if SCALE == "iqr" else (0, K - 1)
        width *= dispersion(
            quantile(levels, hist, prefix, rank, c, upper, last, C, R, KIND, EACH),
            quantile(levels, hist, prefix, rank, c, lower, last, C, R, KIND, EACH),
        )
    return width, count


@triton.jit
def weight_sums(sums, c, S, SEGMENTS: tl.constexpr):
    """Return what a class's positives weigh together, and the live ones of them."""
    s = tl.arange(0, SEGMENTS)
    at = sums + (c.to(tl.int64) * S + s) * 4
    total = tl.sum(tl.load(at, mask=s < S, other=0.0))
    return total, tl.sum(tl.load(at + 1, mask=s < S, other=0.0))


@triton.jit
def live_factor(total, live, LIVE: tl.constexpr):
    """Return what scales one side's gradient for ``gradient_scale="live"``, float64."""
    factor = total * 0 + 1
    if LIVE:
        factor = tl.where(live > 0, total / tl.where(live > 0, live, 1.0), 1.0)
    return factor


@triton.jit
def store_class(usable, degenerate, ref_count, totals, c, tau, count, total):
    """Store what the last kernel needs of a class."""
    tiny = 1.1754943508222875e-38
    tl.store(usable + c, ((count > 0) & (tau > tiny) & (total > 0)).to(tl.int32))
    tl.store(degenerate + c, ((count > 0) & (tau <= tiny)).to(tl.uint8))
    tl.store(ref_count + c, count.to(tl.int64))
    tl.store(totals + c, total)


@triton.jit
def is_usable(count, tau, total):
    return (count > 0) & (tau > 1.1754943508222875e-38) & (total > 0)


@triton.jit
def soft_step(u):
    """Return the sigmoid and its slope; nothing overflows."""
    z = tl.exp(-tl.abs(u))
    return tl.where(u >= 0, 1.0, z) / (1 + z), z / ((1 + z) * (1 + z))
