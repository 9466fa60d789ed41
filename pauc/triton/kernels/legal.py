"""What is illegal in the rows and the queue that came, as each kernel's share of one count."""

import triton
import triton.language as tl

from pauc.triton.kernels.rows import given_targets, targets_of


@triton.jit
def count_illegal(
    targets, weight, m, c, N, C, ignore_index, largest, LABELS: tl.constexpr
):  # fmt: skip
    """Return how many live rows have an illegal target for class ``c``, or such a weight."""
    live = m < N
    target = targets_of(targets, m, c, live, C, LABELS)
    present = live & (target != ignore_index)
    unknown = present & ((target < 0) | (target > largest))
    if targets.dtype.element_ty.is_floating():
        given = given_targets(targets, m, c, live, C, LABELS)
        unknown = unknown | (live & (given.to(tl.float64) != target.to(tl.float64)))
    wrong = tl.sum(unknown.to(tl.int32))
    if weight is not None:
        given = tl.load(weight + m, mask=live, other=0).to(tl.float32)
        fine = (given >= 0) & (given < float("inf"))
        wrong += tl.sum((present & ~fine).to(tl.int32))
    return wrong


@triton.jit
def unsound(cursor, fill, step, Q):
    """Return 1 where the counters cannot be those of a queue, as `check_counters` says, else 0."""
    at, filled = tl.load(cursor), tl.load(fill)
    fits = ((filled == Q) & (at >= 0) & (at < tl.maximum(Q, 1))) | ((filled != Q) & (at == filled))
    sound = fits & (filled >= 0) & (filled <= Q) & (tl.load(step) >= 0)
    return (~sound).to(tl.int32)
