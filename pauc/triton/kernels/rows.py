"""How kernels read the rows of batch and queue: of ``m`` from 0 on, the batch's first.

What is read of a row that is not there, since ``m`` is too large or its slot is empty, is 0 and not
present. Absent pointers are None.

``LABELS`` says what targets are: ``"binary"`` and ``"index"`` have one a row, 0 or 1 or the class
that it is the positive of; ``"multilabel"`` has one for each class, 0 or 1: the batch's ``[N, C]``,
the queue's ``[C, Q]`` with -1 for none.
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
def given_targets(targets, m, c, live, C, LABELS: tl.constexpr):
    """Return the batch's targets for class ``c`` as they came; 0 where ``live`` does not hold."""
    at = m.to(tl.int64)
    if LABELS == "multilabel":
        at = at * C + c
    return tl.load(targets + at, mask=live, other=0)


@triton.jit
def targets_of(targets, m, c, live, C, LABELS: tl.constexpr):
    """Return the batch's targets for class ``c``, int64; 0 where ``live`` does not hold."""
    return given_targets(targets, m, c, live, C, LABELS).to(tl.int64)


@triton.jit
def is_own(target, c, LABELS: tl.constexpr):
    """Return which targets are those of a positive of class ``c``."""
    return target == c if LABELS == "index" else target == 1


@triton.jit
def is_first_look(c, LABELS: tl.constexpr):
    """Return whether the programs of class ``c`` read targets that no class before has read."""
    return c >= 0 if LABELS == "multilabel" else c == 0


@triton.jit
def labels_of(
    targets, held_targets, m, c, N, C, Q, held, ignore_index, LABELS: tl.constexpr
):  # fmt: skip
    """Return which rows are positives of class ``c``, and which are present for it."""
    live = m < N
    past = (~live) & (m - N < held)
    here = targets_of(targets, m, c, live, C, LABELS)
    column = held_targets
    if LABELS == "multilabel":
        column += c.to(tl.int64) * Q
    there = tl.load(column + (m - N), mask=past, other=0).to(tl.int64)
    if LABELS == "multilabel":
        past = past & (there >= 0)
    present = (live & (here != ignore_index)) | past
    return present & is_own(tl.where(live, here, there), c, LABELS), present


@triton.jit
def weights_of(weight, held_weight, m, N, held):
    """Return the weights of rows, float32; of a batch without weights they are 1."""
    live = m < N
    there = tl.load(held_weight + (m - N), mask=(~live) & (m - N < held), other=0.0)
    if weight is None:
        found = tl.where(live, 1.0, there)
    else:
        found = tl.where(live, tl.load(weight + m, mask=live, other=0).to(tl.float32), there)
    return found


@triton.jit
def iid_of(iid, held_iid, m, N, held):
    """Return which rows are iid; of a batch without a mask all are."""
    live = m < N
    there = tl.load(held_iid + (m - N), mask=(~live) & (m - N < held), other=0) != 0
    if iid is None:
        found = live | there
    else:
        found = (tl.load(iid + m, mask=live, other=0) != 0) | there
    return found
