"""How kernels read the rows of batch and queue: of ``m`` from 0 on, the batch's first.

What is read of a row that is not there, since ``m`` is too large or its slot is empty, is 0 and not
present. Absent pointers are None.
"""

import triton
import triton.language as tl


@triton.jit
def fill_of(fill, Q):
    """Return how many rows the queue holds, within its size whatever the counter says."""
    return tl.minimum(tl.maximum(tl.load(fill), 0), Q)


@triton.jit
def scores_of(logits, held_scores, m, c, N, C, Q, held):
    """Return the scores of class ``c``, float32 whatever the logits are."""
    at = m.to(tl.int64)
    live = m < N
    here = tl.load(logits + at * C + c, mask=live, other=0.0).to(tl.float32)
    column = held_scores + c.to(tl.int64) * Q
    there = tl.load(column + (at - N), mask=(~live) & (m - N < held), other=0.0)
    return tl.where(live, here, there)


@triton.jit
def targets_of(targets, held_targets, m, N, held, ignore_index):
    """Return the targets, int64, and which rows are present."""
    live = m < N
    past = (~live) & (m - N < held)
    here = tl.load(targets + m, mask=live, other=0).to(tl.int64)
    there = tl.load(held_targets + (m - N), mask=past, other=0)
    present = (live & (here != ignore_index)) | past
    return tl.where(live, here, there), present


@triton.jit
def weights_of(weight, held_weight, m, N, held):
    live = m < N
    there = tl.load(held_weight + (m - N), mask=(~live) & (m - N < held), other=0.0)
    if weight is None:
        found = tl.where(live, 1.0, there)
    else:
        found = tl.where(live, tl.load(weight + m, mask=live, other=0).to(tl.float32), there)
    return found


@triton.jit
def iid_of(iid, held_iid, m, N, held):
    live = m < N
    there = tl.load(held_iid + (m - N), mask=(~live) & (m - N < held), other=0) != 0
    if iid is None:
        found = live | there
    else:
        found = (tl.load(iid + m, mask=live, other=0) != 0) | there
    return found
