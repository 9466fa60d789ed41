"""Sums over pairs at every score as one sweep over the scores, for the objective of boosted trees.

The same sums as :func:`pauc.pairs.blocks.term_sums` of one class. That function has many operators
for its many blocks; a boosting round has time for few.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pauc.native import extension
from pauc.native.order import ascending_order
from pauc.native.readable import have_memory
from pauc.pairs.links import Term


def sweep_sums(
    x: Tensor, w: Tensor, y: Tensor, v: Tensor, *terms: Term
) -> tuple[Tensor, Tensor] | None:
    """Return each term summed over negatives ``[T, P]`` and over positives ``[T, B]``.

    Args:
        x, w: ``[P]`` float64, positives and their weights, not negative.
        y, v: ``[B]`` float64, negatives and theirs.
        terms: functions of ``x - y``, with a ``tau`` of 1.

    Returns:
        None where there is no extension, or tensors have no memory on the CPU: then nothing is
        done.
    """
    if extension.ext is None or not have_memory(x, w, y, v):
        return None
    table = table_of(*terms)
    sides, orders = [], []
    for scores, weight in ((x, w), (y, v)):
        order = None if _ascends(scores) else ascending_order(scores)
        if order is not None:
            scores, weight = scores[order], weight[order]
        sums = torch.zeros(len(terms), len(scores), dtype=torch.float64, device="cpu")
        sides.append((scores.contiguous(), weight.contiguous(), sums))
        orders.append(order)
    addresses = [(len(side[0]), *(part.data_ptr() for part in side)) for side in sides]
    extension.ext.sweep_pairs((len(terms), table.data_ptr()), *addresses)
    over_v, over_w = (
        sums if order is None else torch.empty_like(sums).index_copy_(1, order, sums)
        for (_, _, sums), order in zip(sides, orders, strict=True)
    )
    return over_v, over_w


def table_of(*terms: Term) -> Tensor:
    """Return the terms as native code reads them, float64."""
    rows = [number for term in terms for side in (term.above, term.below)
            for number in (side.constant, *side.powers)]  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64, device="cpu")


def _ascends(scores: Tensor) -> bool:
    """Return whether the scores need no sort, which takes far longer than to look."""
    return bool((scores[1:] >= scores[:-1]).all())
