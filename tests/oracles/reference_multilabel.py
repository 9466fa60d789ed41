"""Multi-label in plain Python: the binary reference of `reference.py`, one column after the other.

A column's pool is the rows whose entry in it is not ignored. Only the queue knows of whole rows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from tests.oracles.reference import (
    Options,
    Row,
    add_cross_entropy,
    class_pools,
    reduce_losses,
    weigh_classes,
)


class LabelledRow(NamedTuple):
    """A row of the queue: a target for each class, None where there is none."""

    scores: tuple[float, ...]
    targets: tuple[int | None, ...]
    iid: bool = True
    weight: float = 1.0


def column(logits, targets, queue: list[LabelledRow], c: int, ignore_index: int):
    """The arguments of the binary reference for class `c`."""
    held = [
        Row((row.scores[c],), ignore_index if row.targets[c] is None else row.targets[c], *row[2:])
        for row in queue
    ]
    return [[row[c]] for row in logits], [row[c] for row in targets], held


def advance(queue, logits, targets, iid, weight, queue_size: int, ignore_index: int):
    """The queue after a batch: rows with a label, and with a finite logit wherever they have one.

    A score without a label is nobody's business; it is 0 here.
    """
    rows = list(queue)
    for n, (scores, labels) in enumerate(zip(logits, targets, strict=True)):
        known = [label != ignore_index for label in labels]
        labelled = [s for s, k in zip(scores, known, strict=True) if k]
        if not labelled or not all(math.isfinite(s) for s in labelled):
            continue
        rows.append(
            LabelledRow(
                tuple(s if k else 0.0 for s, k in zip(scores, known, strict=True)),
                tuple(t if k else None for t, k in zip(labels, known, strict=True)),
                True if iid is None else iid[n],
                1.0 if weight is None else weight[n],
            )
        )
    return rows[max(0, len(rows) - queue_size) :]


def multilabel_columns(step: Callable, logits, targets, queue, *, num_classes: int, **keywords):
    """`step` (reference_step, say) of each column alone, as a list of its results."""
    ignore_index = keywords.get("ignore_index", -100)
    return [
        step(*column(logits, targets, queue, c, ignore_index), num_classes=1, **keywords)
        for c in range(num_classes)
    ]


def multilabel_loss(results, logits, targets, queue, *, iid, weight, **options):
    """The reduced loss of the columns' results, cross-entropy included."""
    o = Options(**options)
    pools = [
        class_pools(*column(logits, targets, queue, c, o.ignore_index), iid, weight, 1, o)[0]
        for c in range(len(results))
    ]
    per_class = [r.per_class[0] for r in results]
    valid = [r.valid[0] for r in results]
    return add_cross_entropy(
        reduce_losses(weigh_classes(per_class, pools, o), valid, o.reduction), pools, o
    )
