"""One step of the loss in plain Python loops: the slow float64 oracle of the tests.

Written from the contract alone, without sight of the package. Lists of floats go in and come out.
No tensor library, no vectorisation, no masks: a class's pool is a list of samples, and the queue is
a list of rows, oldest first.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

EPS32 = 2.0**-23
EPS64 = 2.0**-52
NAN = math.nan


class Row(NamedTuple):
    """A row of the queue."""

    scores: tuple[float, ...]
    target: int
    iid: bool = True
    weight: float = 1.0


class Options(NamedTuple):
    """The options that change the value of the loss, with the defaults of the contract."""

    alpha: float = 0.0
    beta: float = 0.005
    surrogate: str = "trapezoid"
    n_knots: int = 2
    tau_scale: str = "iqr"
    pos_numerator: str = "pool"
    budget_basis: str = "fpr"
    temperature: float = 0.1
    reduction: str = "mean"
    ignore_index: int = -100
    quantile_interpolation: str = "higher"
    link: str = "sigmoid"
    gradient_scale: str = "pool"  # leaves the value alone; `reference_gradient` reads it
    edge_gradient: str = "detached"  # leaves the value alone
    bce_weight: float = 0.0
    pauc_weight: float = 1.0
    weight_scale: str = "unit"
    precision: float | None = None
    base_rate: float | None = None


class Sample(NamedTuple):
    """A row of the pool as one class sees it."""

    score: float
    positive: bool
    iid: bool
    weight: float
    batch_row: int | None  # None for a row of the queue

    @property
    def live(self) -> bool:
        return self.batch_row is not None


class Frozen(NamedTuple):
    """What the gradient does not see of one class: thresholds, scale, and who is in the band."""

    knots: list[float]
    tau: float
    in_band: list[bool]  # by position in the class's pool


class ReferenceResult(NamedTuple):
    loss: float | list[float]  # a list under reduction="none"
    per_class: list[float]  # nan where invalid
    valid: list[bool]
    degenerate: list[bool]
    stats: dict[str, list[float]]
    queue: list[Row]
    poisoned: list[bool]  # a live logit of the class is nan or inf; only its loss is specified


# --- the pool ---


def batch_rows(logits, targets, iid=None, weight=None) -> list[Row]:
    """The batch as rows, missing flags filled in."""
    iid = [True] * len(logits) if iid is None else iid
    weight = [1.0] * len(logits) if weight is None else weight
    return [Row(tuple(s), t, f, w) for s, t, f, w in zip(logits, targets, iid, weight, strict=True)]


def is_positive(target: int, c: int, num_classes: int) -> bool:
    return target == 1 if num_classes == 1 else target == c


def class_pool(batch, queue, c, num_classes, ignore_index) -> list[Sample]:
    """The live rows, then the queue's, without the ignored ones."""
    numbered = list(enumerate(batch)) + [(None, row) for row in queue]
    return [
        Sample(row.scores[c], is_positive(row.target, c, num_classes), row.iid, row.weight, number)
        for number, row in numbered
        if row.target != ignore_index
    ]


def iid_negatives(pool: list[Sample]) -> list[float]:
    return [x.score for x in pool if x.iid and not x.positive]


def reference_set(pool: list[Sample], budget_basis: str) -> list[float]:
    if budget_basis == "population":
        return [x.score for x in pool if x.iid]
    return iid_negatives(pool)


def numerator(pool: list[Sample], pos_numerator: str) -> list[Sample]:
    return [x for x in pool if x.positive and (x.live or pos_numerator == "pool")]


# --- a precision as the budget ---


def fpr_at_precision(pool: list[Sample], precision: float, base_rate: float) -> float:
    """The highest FPR at which a threshold has the precision at the base rate; 0 if none has."""
    false, true = iid_negatives(pool), [x for x in pool if x.positive]
    weight = math.fsum(x.weight for x in true)
    best = 0.0
    for cut in {x.score for x in pool}:
        caught = math.fsum(x.weight for x in true if x.score >= cut)
        alerts = sum(s >= cut for s in false)
        if caught == 0 or alerts == 0:
            continue
        fpr = alerts / len(false)
        right = base_rate * caught / weight
        # Two equal products may differ by rounding.
        if right / (right + (1 - base_rate) * fpr) >= precision * (1 - 1e-14):
            best = max(best, fpr)
    return best


def with_end(pool: list[Sample], o: Options) -> Options:
    """The options of one class: its `beta` is where the band ends."""
    if o.budget_basis != "precision":
        return o
    return o._replace(beta=max(o.beta, fpr_at_precision(pool, o.precision, o.base_rate)))


# --- order statistics ---


def quantile(scores: list[float], level: float, interpolation: str) -> float:
    """The score that a share `level` of `scores` exceeds: level 0 is the largest."""
    falling = sorted(scores, reverse=True)
    rank = level * (len(falling) - 1)
    upper, lower = falling[math.floor(rank)], falling[math.ceil(rank)]
    if interpolation == "higher":
        return upper
    if interpolation == "lower":
        return lower
    if interpolation == "midpoint":
        return (upper + lower) / 2
    if interpolation == "linear":
        return upper + (rank - math.floor(rank)) * (lower - upper)
    rising = falling[::-1]
    return rising[round((len(rising) - 1) - rank)]  # nearest; `round` takes a half to the even side


def knot_levels(o: Options) -> list[float]:
    inner = range(1, o.n_knots - 1)
    return [
        o.alpha,
        *(o.alpha + (o.beta - o.alpha) * k / (o.n_knots - 1) for k in inner),
        o.beta,
    ]


def knot_thresholds(reference: list[float], o: Options) -> list[float]:
    return [quantile(reference, level, o.quantile_interpolation) for level in knot_levels(o)]


def spread_levels(o: Options) -> tuple[float, float]:
    return (o.alpha, o.beta) if o.tau_scale == "band" else (0.25, 0.75)


def reference_scale(reference: list[float], o: Options, eps: float) -> float:
    """The dispersion of `reference`; 0 where it is within rounding of zero."""
    if o.tau_scale == "unit":
        return 1.0
    high, low = (quantile(reference, q, o.quantile_interpolation) for q in spread_levels(o))
    spread = high - low
    return 0.0 if spread <= 4 * eps * max(abs(high), abs(low)) else spread


# --- the surrogates ---


def sigmoid(z: float) -> float:
    if z >= 0:
        return 1 / (1 + math.exp(-z))
    return math.exp(z) / (1 + math.exp(z))


def softplus(z: float) -> float:
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def pair_value(z: float, link: str) -> float:
    """What a pair with margin `z` adds to the pauc."""
    return sigmoid(z) if link == "sigmoid" else 1 - softplus(-z) / math.log(2)


def trapezoid_value(score: float, knots: list[float], tau: float) -> float:
    """Composite trapezoid over evenly spaced knots, divided by the band's width."""
    heights = [sigmoid((score - t) / tau) for t in knots]
    panels = [(a + b) / 2 for a, b in pairwise(heights)]
    return math.fsum(panels) / len(panels)


def pairwise_value(score: float, band: list[float], tau: float, link: str) -> float:
    return math.fsum(pair_value((score - s) / tau, link) for s in band) / len(band)


def contributions(pool: list[Sample], frozen: Frozen, o: Options) -> list[float]:
    """What each numerator positive adds; their weighted mean is the pauc."""
    positives = numerator(pool, o.pos_numerator)
    if o.surrogate == "trapezoid":
        return [trapezoid_value(x.score, frozen.knots, frozen.tau) for x in positives]
    band = [x.score for x, inside in zip(pool, frozen.in_band, strict=True) if inside]
    return [pairwise_value(x.score, band, frozen.tau, o.link) for x in positives]


def weighted_mean(values: list[float], weights: list[float]) -> float:
    products = [v * w for v, w in zip(values, weights, strict=True)]
    return math.fsum(products) / math.fsum(weights)


def weighted_variance(values: list[float], weights: list[float]) -> float:
    centre = weighted_mean(values, weights)
    return weighted_mean([(v - centre) ** 2 for v in values], weights)


# --- the exact partial AUC ---


def roc_vertices(positives: list[Sample], reference: list[float]) -> list[tuple[float, float]]:
    """The empirical ROC's corners; a tied block is one straight line."""
    total = math.fsum(x.weight for x in positives)
    corners = [(0.0, 0.0)]
    for cut in sorted({*reference, *(x.score for x in positives)}, reverse=True):
        false = sum(s >= cut for s in reference) / len(reference)
        true = math.fsum(x.weight for x in positives if x.score >= cut) / total
        corners.append((false, true))
    return corners


def segment_area(start, end, low: float, high: float) -> float:
    """The area under one straight piece of the curve, between two false-positive rates."""
    (x0, y0), (x1, y1) = start, end
    left, right = max(x0, low), min(x1, high)
    if left >= right:
        return 0.0
    slope = (y1 - y0) / (x1 - x0)
    return (right - left) * (y0 + slope * ((left + right) / 2 - x0))


def exact_partial_auc(positives, reference, alpha: float, beta: float) -> float:
    corners = roc_vertices(positives, reference)
    pieces = pairwise(corners)
    return math.fsum(segment_area(a, b, alpha, beta) for a, b in pieces) / (beta - alpha)


# --- one class ---


def freeze(pool: list[Sample], o: Options, eps: float) -> Frozen | None:
    """Thresholds, scale and band of a class, or None where it is invalid."""
    o = with_end(pool, o)
    reference = reference_set(pool, o.budget_basis)
    weights = [x.weight for x in numerator(pool, o.pos_numerator)]
    if not iid_negatives(pool) or not sum(weights) > 0:
        return None
    scale = reference_scale(reference, o, eps)
    if scale == 0:
        return None
    knots = knot_thresholds(reference, o)
    in_band = [not x.positive and knots[-1] <= x.score <= knots[0] for x in pool]
    if o.surrogate == "pairwise" and not any(in_band):
        return None
    return Frozen(knots, o.temperature * scale, in_band)


def is_degenerate(pool: list[Sample], o: Options, eps: float) -> bool:
    """The dispersion is (almost) zero, whatever else may be missing."""
    o = with_end(pool, o)
    reference = reference_set(pool, o.budget_basis)
    return bool(iid_negatives(pool)) and reference_scale(reference, o, eps) == 0


def frozen_class_loss(pool: list[Sample], frozen: Frozen, o: Options) -> float:
    weights = [x.weight for x in numerator(pool, o.pos_numerator)]
    return 1 - weighted_mean(contributions(pool, frozen, o), weights)


def realised_fpr(pool: list[Sample], o: Options) -> float:
    """The share of the live references above the threshold of the queue's references."""
    o = with_end(pool, o)
    held = reference_set([x for x in pool if not x.live], o.budget_basis)
    fresh = reference_set([x for x in pool if x.live], o.budget_basis)
    if not held or not fresh:
        return NAN
    edge = quantile(held, o.beta, o.quantile_interpolation)
    return sum(s > edge for s in fresh) / len(fresh)


def class_stats(pool: list[Sample], frozen: Frozen | None, o: Options) -> dict[str, float]:
    o = with_end(pool, o)
    reference = reference_set(pool, o.budget_basis)
    missing = dict.fromkeys(("t_alpha", "t_beta", "tau_eff", "pauc_var", "pauc"), NAN)
    always = {"ref_count": len(reference), "realised_fpr": realised_fpr(pool, o)}
    if frozen is None:
        return missing | {"band_neg_count": 0, "grad_pos_count": 0} | always
    positives = numerator(pool, o.pos_numerator)
    weights = [x.weight for x in positives]
    return {
        "t_alpha": frozen.knots[0],
        "t_beta": frozen.knots[-1],
        "tau_eff": frozen.tau,
        "pauc_var": weighted_variance(contributions(pool, frozen, o), weights),
        "pauc": exact_partial_auc(positives, reference, o.alpha, o.beta),
        "band_neg_count": sum(x.iid for x, b in zip(pool, frozen.in_band, strict=True) if b),
        "grad_pos_count": sum(x.live and x.positive for x in pool),
    } | always


def is_poisoned(pool: list[Sample]) -> bool:
    return any(x.live and not math.isfinite(x.score) for x in pool)


# --- one step ---


def reduce_losses(per_class: list[float], valid: list[bool], reduction: str):
    kept = [x for x, ok in zip(per_class, valid, strict=True) if ok]
    if reduction == "none":
        return per_class
    total = sum(kept)
    return total / len(kept) if reduction == "mean" and kept else float(total)


def explained_weight(pool: list[Sample]) -> float:
    """The cube of the share of the labels' entropy that the scores explain."""
    total = math.fsum(x.weight for x in pool)
    positive = math.fsum(x.weight for x in pool if x.positive)
    if not 0 < positive < total:
        return 0.0
    shares = positive / total, 1 - positive / total
    entropy = -math.fsum(p * math.log(p) for p in shares)
    losses = [x.weight * softplus(-x.score if x.positive else x.score) for x in pool]
    return max(0.0, 1 - math.fsum(losses) / total / entropy) ** 3


def weigh_classes(per_class: list[float], pools: list[list[Sample]], o: Options) -> list[float]:
    if o.weight_scale == "unit":
        return per_class
    return [
        NAN if math.isnan(loss) else loss * explained_weight(pool)
        for loss, pool in zip(per_class, pools, strict=True)
    ]


def cross_entropy(pool: list[Sample]) -> float:
    """The mean by weight, over live rows, of log(1 + exp(-s)) of positives and log(1 + exp(s))."""
    live = [(x.score if x.positive else -x.score, x.weight) for x in pool if x.live]
    if not all(math.isfinite(margin) for margin, _ in live):
        return NAN
    terms = [w * (max(-m, 0.0) + math.log1p(math.exp(-abs(m)))) for m, w in live]
    total = math.fsum(w for _, w in live)
    return math.fsum(terms) / total if total > 0 else 0.0


def add_cross_entropy(loss, pools: list[list[Sample]], o: Options):
    """The weighted sum of the loss so far and of the cross-entropy, which every class has."""
    bce = [cross_entropy(pool) for pool in pools] if o.bce_weight > 0 else [0.0] * len(pools)
    if o.reduction == "none":
        return [o.pauc_weight * a + o.bce_weight * b for a, b in zip(loss, bce, strict=True)]
    total = sum(bce) / len(bce) if o.reduction == "mean" else sum(bce)
    return o.pauc_weight * loss + o.bce_weight * total


def advance_queue(queue: list[Row], batch: list[Row], queue_size: int, ignore_index) -> list[Row]:
    """First in, first out; rows that are ignored or not finite stay outside."""
    entering = [
        row
        for row in batch
        if row.target != ignore_index and all(math.isfinite(s) for s in row.scores)
    ]
    rows = list(queue) + entering
    return rows[max(0, len(rows) - queue_size) :]


def class_pools(logits, targets, queue, iid, weight, num_classes, o: Options):
    batch = batch_rows(logits, targets, iid, weight)
    return [class_pool(batch, queue, c, num_classes, o.ignore_index) for c in range(num_classes)]


def reference_step(
    logits: Sequence[Sequence[float]],
    targets: Sequence[int],
    queue: Sequence[Row],
    *,
    iid: Sequence[bool] | None = None,
    weight: Sequence[float] | None = None,
    num_classes: int,
    queue_size: int,
    eps: float = EPS32,
    **options,
) -> ReferenceResult:
    """The loss of one batch and the queue after it.

    `eps` is that of the dtype of the computation under test: it decides when a dispersion is zero.
    """
    o = Options(**options)
    pools = class_pools(logits, targets, queue, iid, weight, num_classes, o)
    poisoned = [is_poisoned(pool) for pool in pools]
    frozen = [
        None if bad else freeze(pool, o, eps) for pool, bad in zip(pools, poisoned, strict=True)
    ]
    per_class = [
        NAN if f is None else frozen_class_loss(pool, f, o)
        for pool, f in zip(pools, frozen, strict=True)
    ]
    valid = [bad or f is not None for bad, f in zip(poisoned, frozen, strict=True)]
    degenerate = [
        not bad and is_degenerate(pool, o, eps) for pool, bad in zip(pools, poisoned, strict=True)
    ]
    stats = [class_stats(pool, f, o) for pool, f in zip(pools, frozen, strict=True)]
    return ReferenceResult(
        loss=add_cross_entropy(
            reduce_losses(weigh_classes(per_class, pools, o), valid, o.reduction), pools, o
        ),
        per_class=per_class,
        valid=valid,
        degenerate=degenerate,
        stats={key: [s[key] for s in stats] for key in stats[0]},
        queue=advance_queue(
            queue, batch_rows(logits, targets, iid, weight), queue_size, o.ignore_index
        ),
        poisoned=poisoned,
    )


# --- the gradient ---


def reference_freeze(
    logits, targets, queue, *, iid=None, weight=None, num_classes, eps=EPS64, **options
) -> list[Frozen | None]:
    """The constants of a step, class by class (None: invalid), for `reference_loss_frozen`."""
    o = Options(**options)
    pools = class_pools(logits, targets, queue, iid, weight, num_classes, o)
    return [freeze(pool, o, eps) for pool in pools]


def reference_loss_frozen(
    logits,
    targets,
    queue,
    frozen: list[Frozen | None],
    *,
    iid=None,
    weight=None,
    num_classes,
    **options,
) -> float:
    """The loss with thresholds, scale, band and validity held.

    Under reduction="none" it is the sum over valid classes.
    """
    o = Options(**options)
    pools = class_pools(logits, targets, queue, iid, weight, num_classes, o)
    losses = [
        frozen_class_loss(pool, f, o)
        for pool, f in zip(pools, frozen, strict=True)
        if f is not None
    ]
    return math.fsum(losses) / (max(len(losses), 1) if o.reduction == "mean" else 1)


def central_difference(f: Callable[[float], float], x: float, step: float) -> float:
    """The slope of `f` at `x`, over the step that floating point took, not the one asked for."""
    up, down = x + step, x - step
    return (f(up) - f(down)) / (up - down)


def replace_logit(logits, row: int, c: int, value: float) -> list[list[float]]:
    changed = [list(r) for r in logits]
    changed[row][c] = value
    return changed


def side_factor(pool: list[Sample], side: list[bool]) -> float:
    """Rows of a side in the pool per live row of it: the factor of gradient_scale="live"."""
    live = sum(s and x.live for x, s in zip(pool, side, strict=True))
    return sum(side) / live if live else 1.0


def live_factors(pool: list[Sample], frozen: Frozen, o: Options) -> tuple[float, float]:
    """The factors of the positives' and of the negatives' gradient (rows of equal weight only)."""
    if o.gradient_scale == "pool":
        return 1.0, 1.0
    counted = [x.positive and (x.live or o.pos_numerator == "pool") for x in pool]
    return side_factor(pool, counted), side_factor(pool, frozen.in_band)


def reference_gradient(
    logits, targets, queue, *, iid=None, weight=None, num_classes, eps=EPS64, **options
) -> list[list[float]]:
    """d loss / d logits with edges, scale and band held, by central differences.

    The loss is a sum over classes (reduction="none" is summed too) and class c reads column c
    alone, so each difference is taken of one class.
    """
    o = Options(**options)
    shared = {"iid": iid, "weight": weight, "num_classes": num_classes, **options}
    frozen = reference_freeze(logits, targets, queue, eps=eps, **shared)
    pools = class_pools(logits, targets, queue, iid, weight, num_classes, o)
    share = 1 / max(sum(f is not None for f in frozen), 1) if o.reduction == "mean" else 1.0

    def slope(row: int, c: int) -> float:
        alone = [f if k == c else None for k, f in enumerate(frozen)]

        def moved(value: float) -> float:
            changed = replace_logit(logits, row, c, value)
            return reference_loss_frozen(changed, targets, queue, alone, **shared)

        # The loss bends on the scale of tau: a step of 1e-4 tau leaves 1e-9 of the slope as error.
        return central_difference(moved, logits[row][c], 1e-4 * frozen[c].tau)

    gradient = [[0.0] * num_classes for _ in logits]
    for c, pool in enumerate(pools):
        if frozen[c] is None:
            continue
        factors = live_factors(pool, frozen[c], o)
        for sample in pool:
            if sample.live:
                factor = factors[0] if sample.positive else factors[1]
                gradient[sample.batch_row][c] = share * factor * slope(sample.batch_row, c)
    return gradient
