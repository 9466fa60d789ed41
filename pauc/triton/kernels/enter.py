"""How the rows of a batch enter the queue: in order, the newest that fit."""

import triton
import triton.language as tl


@triton.jit
def may_enter(targets, rejected, m, N, ignore_index):
    """Return 1 for a row that is present and has finite logits, else 0."""
    live = m < N
    present = tl.load(targets + m, mask=live, other=0).to(tl.int64) != ignore_index
    finite = tl.load(rejected + m, mask=live, other=1) == 0
    return (live & present & finite).to(tl.int32)


@triton.jit
def count_entering(targets, rejected, end, N, ignore_index, BLOCK: tl.constexpr):
    """Return how many of the rows below ``end``, a multiple of ``BLOCK``, may enter."""
    count = tl.sum(tl.zeros([BLOCK], tl.int32))
    for start in range(0, end, BLOCK):
        m = start + tl.arange(0, BLOCK)
        count += tl.sum(may_enter(targets, rejected, m, N, ignore_index))
    return count


@triton.jit
def first_slot(cursor, Q):
    """Return the slot of the next row, in the queue whatever the counter says."""
    at = tl.load(cursor)
    return (at % Q + Q) % Q


@triton.jit
def write_rows(
    logits, targets, iid, weight, rejected, held_scores, held_targets, held_iid, held_weight,
    cursor, N, C, Q, ignore_index, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid ``[rows / BLOCK, C]``."""
    b, c = tl.program_id(0), tl.program_id(1)
    before = count_entering(targets, rejected, b * BLOCK, N, ignore_index, BLOCK)
    count = count_entering(targets, rejected, N, N, ignore_index, BLOCK)
    m = b * BLOCK + tl.arange(0, BLOCK)
    enters = may_enter(targets, rejected, m, N, ignore_index)
    # Its place among those that enter; the oldest of too many have a negative one.
    place = before + tl.cumsum(enters) - enters - tl.maximum(count - Q, 0)
    enters = (enters > 0) & (place >= 0)
    slot = (first_slot(cursor, Q) + tl.maximum(place, 0)) % Q
    score = tl.load(logits + m.to(tl.int64) * C + c, mask=enters, other=0.0).to(tl.float32)
    tl.store(held_scores + c.to(tl.int64) * Q + slot, score, mask=enters)
    if c == 0:
        target = tl.load(targets + m, mask=enters, other=0).to(tl.int64)
        tl.store(held_targets + slot, target, mask=enters)
        flag = tl.full([BLOCK], 1, tl.uint8)
        if iid is not None:
            flag = tl.load(iid + m, mask=enters, other=0)
        tl.store(held_iid + slot, flag, mask=enters)
        w = tl.full([BLOCK], 1.0, tl.float32)
        if weight is not None:
            w = tl.load(weight + m, mask=enters, other=0).to(tl.float32)
        tl.store(held_weight + slot, w, mask=enters)


@triton.jit
def move_counters(targets, rejected, cursor, fill, step, N, Q, ignore_index, BLOCK: tl.constexpr):
    """One program, after the rows have been written: these read the cursor."""
    tl.store(step, tl.load(step) + 1)
    if Q > 0:
        count = count_entering(targets, rejected, N, N, ignore_index, BLOCK)
        count = tl.minimum(count, Q).to(tl.int64)
        tl.store(cursor, (first_slot(cursor, Q) + count) % Q)
        tl.store(fill, tl.minimum(tl.load(fill) + count, Q))
