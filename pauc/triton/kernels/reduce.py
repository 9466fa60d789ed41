"""The losses of all classes from the partial sums, and the gradient of what is made of them."""

import triton
import triton.language as tl

from pauc.triton.kernels.rows import is_own
from pauc.triton.kernels.sums import entropy_of, explained_weight, sum_parts


@triton.jit
def reduce_classes(
    partial, totals, numbers, sums, usable, poison, bad, loss, per_class, valid, factor, shares,
    earned, legal, C, S, T, pauc_weight, bce_weight,
    CLASSES: tl.constexpr, PARTS: tl.constexpr, REDUCTION: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """One program. ``factor`` is a class's share in the loss, ``legal`` whether nothing is bad.

    ``shares`` ``[C]`` is what a row's cross-entropy counts in the loss, before its weight.
    ``earned`` ``[C]`` is what the class's own loss weighs beside ``factor``; None: 1.
    """
    each_entropy = tl.sum(tl.zeros([CLASSES], tl.float64)) + bce_weight
    if REDUCTION == "mean":
        each_entropy = each_entropy / C
    entropies = tl.zeros([CLASSES], tl.float64)
    losses = tl.zeros([CLASSES], tl.float64)
    count = tl.zeros([CLASSES], tl.int32)
    for first in range(0, C, CLASSES):
        c = first + tl.arange(0, CLASSES)
        real = c < C
        value = sum_parts(partial, c, real, T, 1, CLASSES, PARTS)
        shown, counts = class_losses(value, totals, numbers, usable, poison, c, real)
        tl.store(valid + c, counts.to(tl.uint8), mask=real)
        tl.store(per_class + c, shown.to(tl.float32), mask=real)
        if earned is not None:
            weight = explained_weight(sums, c, real, S, CLASSES, PARTS)
            tl.store(earned + c, weight.to(tl.float32), mask=real)
            shown *= weight
        extra = tl.zeros([CLASSES], tl.float64)
        if ENTROPY:
            extra, share = entropy_of(sums, c, real, S, each_entropy, CLASSES, PARTS)
            tl.store(shares + c, share.to(tl.float32), mask=real)
            entropies += extra
        if REDUCTION == "none":
            tl.store(loss + c, (pauc_weight * shown + extra).to(tl.float32), mask=real)
        losses += tl.where(counts, shown, 0.0)
        count += counts.to(tl.int32)
    share = tl.sum(tl.zeros([CLASSES], tl.float64)) + pauc_weight
    if REDUCTION == "mean":
        share = share / tl.maximum(tl.sum(count), 1).to(tl.float64)
    if REDUCTION != "none":
        tl.store(loss, (share * tl.sum(losses) + tl.sum(entropies)).to(tl.float32))
    tl.store(factor, share.to(tl.float32))
    tl.store(legal, (tl.load(bad) == 0).to(tl.int32))


@triton.jit
def class_losses(value, totals, numbers, usable, poison, c, real):
    """Return the classes' losses, nan where there is none, and which of them count.

    A class counts whose loss is nan because of a logit that is not finite.
    """
    number = tl.load(numbers + c, mask=real, other=0.0)
    counts = (tl.load(usable + c, mask=real, other=0) > 0) & (number > 0)
    poisoned = tl.load(poison + c, mask=real, other=0) > 0
    total = tl.load(totals + c, mask=counts, other=1.0)
    one = 1 - value / (total * tl.where(counts, number, 1.0))
    return tl.where(counts & ~poisoned, one, float("nan")), counts | poisoned


@triton.jit
def entropy_slope(
    logits, targets, weight, shares, i, c, real, C, ignore_index, LABELS: tl.constexpr
):  # fmt: skip
    """Return how the cross-entropy's part of the loss moves with the logits."""
    x = tl.load(logits + i, mask=real, other=0.0).to(tl.float32)
    at = i if LABELS == "multilabel" else i // C
    target = tl.load(targets + at, mask=real, other=0).to(tl.int64)
    z = tl.exp(-tl.abs(x))
    # A nan stays one: no comparison with it is true.
    soft = tl.where(x >= 0, 1.0, z) / (1 + z)
    slope = (soft - is_own(target, c, LABELS).to(tl.float32)) * tl.load(shares + c)
    if weight is not None:
        slope *= tl.load(weight + i // C, mask=real, other=0).to(tl.float32)
    return tl.where(target == ignore_index, 0.0, slope)


@triton.jit
def chain(
    gradient, factor, valid, of_loss, of_parts, logits, targets, weight, shares, earned, result,
    count, C, loss_stride, parts_stride, ignore_index,
    BLOCK: tl.constexpr, BY_CLASS: tl.constexpr, LABELS: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Multiply the classes' gradients by those of the loss and of the parts; None: not asked.

    An upstream nan of a class whose own loss is nan since it is invalid counts as 0.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = i < count
    c = i % C
    invalid = tl.load(valid + c, mask=real, other=0) == 0
    slope = tl.load(gradient + i, mask=real, other=0.0)
    found = tl.zeros([BLOCK], tl.float32)
    if of_loss is not None:
        above = tl.load(of_loss + c * loss_stride, mask=real, other=0.0)
        if BY_CLASS:
            above = tl.where(invalid & (above != above), 0.0, above)
        whole = slope * tl.load(factor)
        if earned is not None:
            whole *= tl.load(earned + c, mask=real, other=0.0)
        if ENTROPY:
            whole += entropy_slope(
                logits, targets, weight, shares, i, c, real, C, ignore_index, LABELS
            )
        found += whole * above
    if of_parts is not None:
        above = tl.load(of_parts + c * parts_stride, mask=real, other=0.0)
        found += slope * tl.where(invalid & (above != above), 0.0, above)
    tl.store(result + i, found.to(result.dtype.element_ty), mask=real)
