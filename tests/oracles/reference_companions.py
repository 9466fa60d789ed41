"""Recall at a quantile and Smooth-AP in plain Python loops, beside `reference.py`.

The pool, the order statistics, the queue and the reduction are the reference's; what is here is the
value of one class. `None` stands for a class that does not count.
"""

from collections.abc import Callable

from tests.oracles.reference import (
    EPS32,
    NAN,
    Options,
    Sample,
    add_cross_entropy,
    advance_queue,
    batch_rows,
    class_pools,
    iid_negatives,
    is_poisoned,
    numerator,
    quantile,
    reduce_losses,
    reference_scale,
    reference_set,
    sigmoid,
    weigh_classes,
    weighted_mean,
    with_end,
)


def recall_value(pool: list[Sample], o: Options, eps: float) -> float | None:
    """The soft recall above the score that a share `beta` of the reference set exceeds."""
    o = with_end(pool, o)
    positives, reference = numerator(pool, o.pos_numerator), reference_set(pool, o.budget_basis)
    weights = [x.weight for x in positives]
    if not iid_negatives(pool) or not sum(weights) > 0:
        return None
    scale = reference_scale(reference, o, eps)
    if scale == 0:
        return None
    threshold = quantile(reference, o.beta, o.quantile_interpolation)
    tau = o.temperature * scale
    return weighted_mean([sigmoid((x.score - threshold) / tau) for x in positives], weights)


def ap_value(pool: list[Sample], o: Options, eps: float) -> float | None:
    """The mean over positives of the soft rank among positives over the soft rank among all."""
    weights = [x.weight for x in numerator(pool, o.pos_numerator)]
    scale_rows = iid_negatives(pool) if o.tau_scale == "iqr" else negatives(pool)
    if not scale_rows or not sum(weights) > 0:
        return None
    scale = reference_scale(scale_rows, o, eps)
    if scale == 0:
        return None
    tau = o.temperature * scale
    precisions = [soft_precision(x, pool, tau) for x in numerator(pool, o.pos_numerator)]
    return weighted_mean(precisions, weights)


def negatives(pool: list[Sample]) -> list[float]:
    return [x.score for x in pool if not x.positive]


def soft_precision(x: Sample, pool: list[Sample], tau: float) -> float:
    above = {True: 1.0, False: 0.0}
    for other in pool:
        if other is not x:
            above[other.positive] += sigmoid((other.score - x.score) / tau)
    return above[True] / (above[True] + above[False])


def companion_step(
    value: Callable[[list[Sample], Options, float], float | None],
    logits,
    targets,
    queue,
    *,
    iid=None,
    weight=None,
    num_classes: int,
    queue_size: int,
    eps: float = EPS32,
    **options,
):
    """Return the loss, the losses per class, which classes count, which are poisoned, the queue."""
    o = as_options(options)
    pools = class_pools(logits, targets, queue, iid, weight, num_classes, o)
    poisoned = [is_poisoned(pool) for pool in pools]
    values = [
        None if bad else value(pool, o, eps) for pool, bad in zip(pools, poisoned, strict=True)
    ]
    per_class = [NAN if v is None else 1 - v for v in values]
    valid = [bad or v is not None for v, bad in zip(values, poisoned, strict=True)]
    loss = add_cross_entropy(
        reduce_losses(weigh_classes(per_class, pools, o), valid, o.reduction), pools, o
    )
    batch = batch_rows(logits, targets, iid, weight)
    return loss, per_class, valid, poisoned, advance_queue(queue, batch, queue_size, o.ignore_index)


def as_options(options: dict) -> Options:
    """The reference's options: a quantile is the lower edge of the band from 0."""
    shared = {k: v for k, v in options.items() if k in Options._fields}
    return Options(**shared | ({"beta": options["quantile"]} if "quantile" in options else {}))


def own_pools(problem_arguments, **options):
    """The classes' pools of a problem, for the questions of `knife_edges`."""
    (logits, targets, queue), keywords = problem_arguments
    keywords = {k: keywords[k] for k in ("iid", "weight", "num_classes")}
    o = as_options(options)
    return class_pools(logits, targets, queue, **keywords, o=o), o
