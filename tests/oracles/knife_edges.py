"""Where rounding, and not the formula, decides a yes-or-no question of the loss.

The reference computes in float64; the package may compute in float32 and in another order. Three
questions have a jump: is a score inside the band, is it above the queue's own edge, and is the
dispersion zero. A class for which the
answer hangs on the last bits is not compared (the rest of the step is). Thresholds under lower,
higher and nearest are scores themselves, so the band has no such doubt there; what remains is an
inner knot whose rank is within rounding of a jump.
"""

import math
import struct
from fractions import Fraction

from tests.oracles.reference import (
    EPS64,
    Options,
    class_pools,
    knot_levels,
    quantile,
    reference_set,
    spread_levels,
    with_end,
)

ROUNDINGS = (
    16  # how many roundings of one eps each may separate two sane evaluations of a threshold
)


def is_representable(value: Fraction, eps: float) -> bool:
    rounded = float(value)
    if eps > EPS64:
        (rounded,) = struct.unpack("f", struct.pack("f", rounded))
    return Fraction(rounded) == value


def neighbours(scores: list[float], level: float) -> tuple[float, float, float]:
    """The two order statistics around `level`, and where between them it lies."""
    rank = level * (len(scores) - 1)
    falling = sorted(scores, reverse=True)
    return falling[math.floor(rank)], falling[math.ceil(rank)], rank - math.floor(rank)


def is_exact(scores: list[float], level: float, interpolation: str, eps: float) -> bool:
    """Whether no step of the interpolation rounds, so that every evaluation gives the same bits."""
    if interpolation not in ("linear", "midpoint"):
        return True
    upper, lower, share = neighbours(scores, level)
    if upper == lower:
        return True
    part = Fraction(share) if interpolation == "linear" else Fraction(1, 2)
    high, low = Fraction(upper), Fraction(lower)
    steps = (part, high - low, high + low, part * (high - low), high - part * (high - low))
    return all(is_representable(x, eps) for x in steps)


def band_is_in_doubt(pool, o: Options, eps: float) -> bool:
    reference = reference_set(pool, o.budget_basis)
    for level in (o.alpha, o.beta):
        if is_exact(reference, level, o.quantile_interpolation, eps):
            continue
        edge = quantile(reference, level, o.quantile_interpolation)
        blur = ROUNDINGS * eps * max(abs(s) for s in neighbours(reference, level)[:2])
        if any(abs(x.score - edge) <= blur for x in pool if not x.positive):
            return True
    return False


def realised_is_in_doubt(pool, o: Options, eps: float) -> bool:
    """A live score within rounding of the queue's own threshold."""
    held = reference_set([x for x in pool if not x.live], o.budget_basis)
    if not held or is_exact(held, o.beta, o.quantile_interpolation, eps):
        return False
    edge = quantile(held, o.beta, o.quantile_interpolation)
    blur = ROUNDINGS * eps * max(abs(s) for s in neighbours(held, o.beta)[:2])
    return any(x.live and abs(x.score - edge) <= blur for x in pool)


def scale_is_in_doubt(reference, o: Options, eps: float) -> bool:
    if o.tau_scale == "unit":
        return False
    high, low = (quantile(reference, q, o.quantile_interpolation) for q in spread_levels(o))
    exact = [is_exact(reference, q, o.quantile_interpolation, eps) for q in spread_levels(o)]
    if high == low and all(exact):
        return False
    return high - low <= ROUNDINGS * eps * max(abs(high), abs(low))


def inner_knot_is_in_doubt(reference, o: Options) -> bool:
    """An inner level within rounding of a jump of the rank: evaluation order picks the side."""
    if o.quantile_interpolation == "linear":
        return False  # continuous in the rank
    for level in knot_levels(o)[1:-1]:
        halves = 2 * level * (len(reference) - 1)
        gap = abs(halves - round(halves))
        if gap < 1e-9 and not is_dyadic(o):
            return True
    return False


def is_dyadic(o: Options) -> bool:
    """Every level is a multiple of 1/4096, so that no evaluation of it rounds."""
    return all((Fraction(q) * 4096).denominator == 1 for q in (o.alpha, o.beta)) and (
        (o.n_knots - 1) & (o.n_knots - 2) == 0
    )


def classes_in_doubt(
    logits, targets, queue, *, iid=None, weight=None, num_classes, eps, **options
) -> list[bool]:
    """Per class, whether the reference and a correct implementation may differ by a jump."""
    given = Options(**options)
    doubts = []
    for pool in class_pools(logits, targets, queue, iid, weight, num_classes, given):
        o = with_end(pool, given)
        reference = reference_set(pool, o.budget_basis)
        finite = all(math.isfinite(x.score) for x in pool)
        doubts.append(
            bool(reference)
            and finite
            and (
                band_is_in_doubt(pool, o, eps)
                or realised_is_in_doubt(pool, o, eps)
                or scale_is_in_doubt(reference, o, eps)
                or inner_knot_is_in_doubt(reference, o)
            )
        )
    return doubts
