"""How the rows of a batch enter the queue: in order, the newest that fit."""

import triton
import triton.language as tl

from pauc.triton.kernels.rows import is_first_look, is_own, targets_of

# What `admission` says of a row that is present for some class: all logits of such classes are
# finite, or one is not. It says 0 of an absent row.
ADMITTED: tl.constexpr = tl.constexpr(1)
REJECTED: tl.constexpr = tl.constexpr(2)


@triton.jit
def admit(admission, poison, score, m, c, present, LABELS: tl.constexpr):
    """Note which live rows may enter, and whether one poisons class ``c``.

    ``admission`` ``[N]`` and ``poison`` ``[C]`` are zeros before. A logit that is not finite makes
    the loss of its class nan. ``present`` is of live rows.
    """
    infinite = present & ~(tl.abs(score) < float("inf"))
    tells = tl.where(is_first_look(c, LABELS), present, infinite)
    tl.atomic_max(admission + m, tl.where(infinite, REJECTED, ADMITTED), mask=tells)
    if tl.max(infinite.to(tl.int32)) > 0:
        tl.atomic_max(poison + c, 1)


@triton.jit
def may_enter(admission, m, N):
    """Return 1 for a row that is present and has finite logits, else 0."""
    return (tl.load(admission + m, mask=m < N, other=0) == ADMITTED).to(tl.int32)


@triton.jit
def count_entering(admission, end, N, BLOCK: tl.constexpr):
    """Return how many of the rows below ``end``, a multiple of ``BLOCK``, may enter."""
    count = tl.sum(tl.zeros([BLOCK], tl.int32))
    for start in range(0, end, BLOCK):
        count += tl.sum(may_enter(admission, start + tl.arange(0, BLOCK), N))
    return count


@triton.jit
def first_slot(cursor, Q):
    """Return the slot of the next row, in the queue whatever the counter says."""
    at = tl.load(cursor)
    return (at % Q + Q) % Q


@triton.jit
def write_rows(
    logits, targets, iid, weight, admission, held_scores, held_targets, held_iid, held_weight,
    cursor, N, C, Q, ignore_index, LABELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid ``[rows / BLOCK, C]``. Writes each class's column, and the first what has none."""
    b, c = tl.program_id(0), tl.program_id(1)
    before = count_entering(admission, b * BLOCK, N, BLOCK)
    count = count_entering(admission, N, N, BLOCK)
    m = b * BLOCK + tl.arange(0, BLOCK)
    enters = may_enter(admission, m, N)
    # Its place among those that enter; the oldest of too many have a negative one.
    place = before + tl.cumsum(enters) - enters - tl.maximum(count - Q, 0)
    enters = (enters > 0) & (place >= 0)
    slot = (first_slot(cursor, Q) + tl.maximum(place, 0)) % Q
    column = c.to(tl.int64) * Q + slot
    score = tl.load(logits + m.to(tl.int64) * C + c, mask=enters, other=0.0).to(tl.float32)
    if LABELS == "multilabel":
        target = targets_of(targets, m, c, enters, C, LABELS)
        absent = target == ignore_index
        score = tl.where(absent, 0.0, score)  # a logit without a target may be anything
        label = tl.where(absent, -1, is_own(target, c, LABELS).to(tl.int32))
        tl.store(held_targets + column, label.to(tl.int8), mask=enters)
    tl.store(held_scores + column, score, mask=enters)
    if c == 0:
        if LABELS != "multilabel":
            target = targets_of(targets, m, c, enters, C, LABELS)
            tl.store(held_targets + slot, target, mask=enters)
        write_flags(iid, weight, held_iid, held_weight, m, slot, enters, BLOCK)


@triton.jit
def write_flags(iid, weight, held_iid, held_weight, m, slot, enters, BLOCK: tl.constexpr):
    """Write which rows are iid, and what they weigh."""
    flag = tl.full([BLOCK], 1, tl.uint8)
    if iid is not None:
        flag = tl.load(iid + m, mask=enters, other=0)
    tl.store(held_iid + slot, flag, mask=enters)
    w = tl.full([BLOCK], 1.0, tl.float32)
    if weight is not None:
        w = tl.load(weight + m, mask=enters, other=0).to(tl.float32)
    tl.store(held_weight + slot, w, mask=enters)


@triton.jit
def move_counters(admission, cursor, fill, step, N, Q, BLOCK: tl.constexpr):
    """One program, after the rows have been written: these read the cursor."""
    tl.store(step, tl.load(step) + 1)
    if Q > 0:
        count = count_entering(admission, N, N, BLOCK)
        count = tl.minimum(count, Q).to(tl.int64)
        tl.store(cursor, (first_slot(cursor, Q) + count) % Q)
        tl.store(fill, tl.minimum(tl.load(fill) + count, Q))
