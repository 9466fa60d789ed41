"""The band of a class, as each program reads it off the digits, and the step across it."""

import triton
import triton.language as tl

from pauc.triton.kernels.select import last_rank, quantile

TINY: tl.constexpr = tl.constexpr(1.1754943508222875e-38)  # the smallest normal float32


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
def live_factor(total, live, LIVE: tl.constexpr):
    """Return what scales one side's gradient for ``gradient_scale="live"``, float64."""
    factor = total * 0 + 1
    if LIVE:
        factor = tl.where(live > 0, total / tl.where(live > 0, live, 1.0), 1.0)
    return factor


@triton.jit
def store_class(usable, degenerate, ref_count, totals, c, tau, count, total):
    """Store what the last kernel needs of a class."""
    tl.store(usable + c, is_usable(count, tau, total).to(tl.int32))
    tl.store(degenerate + c, ((count > 0) & (tau <= TINY)).to(tl.uint8))
    tl.store(ref_count + c, count.to(tl.int64))
    tl.store(totals + c, total)


@triton.jit
def is_usable(count, tau, total):
    """Return whether a class has reference rows that differ, and positives of some weight."""
    return (count > 0) & (tau > TINY) & (total > 0)


@triton.jit
def soft_step(u):
    """Return the sigmoid and its slope; nothing overflows."""
    z = tl.exp(-tl.abs(u))
    return tl.where(u >= 0, 1.0, z) / (1 + z), z / ((1 + z) * (1 + z))
