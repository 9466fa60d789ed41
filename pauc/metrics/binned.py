"""The ROC curve from counts of scores in fixed bins: constant memory, with a bound on the error.

A bin holds the float32 scores that begin with the same bits: sign, exponent and the first binary
digits. Bins need no range and are as fine, relative to the score, near 0 as anywhere. Seen through
them scores in one bin are a tie, and a bin's counts tell how much that can hide.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.metrics.inputs import Column
from pauc.metrics.rates import allowed_rows
from pauc.metrics.vertices import Vertices

_FLIP = 0x7FFFFFFF


def counts_of(column: Column, bits: int) -> Tensor:
    """Return ``[2, 2**bits]`` int64: negatives and positives in each bin, the lowest scores first.

    Args:
        column: rows without weights.
        bits: how many leading bits of the float32 score tell bins apart.
    """
    # Adding 0 makes -0.0 the same as 0.0, whose bits differ.
    pattern = (column.scores.float() + 0.0).view(torch.int32)
    # As integers, negative floats come in the reverse order.
    ordered = torch.where(pattern < 0, pattern ^ _FLIP, pattern).long()
    place = (ordered + 2**31) >> (32 - bits)
    place = place + column.positive * 2**bits
    return torch.bincount(place, minlength=2 ** (bits + 1)).view(2, -1)


def vertices_of_counts(counts: Tensor) -> Vertices:
    """Return a vertex for each bin that has rows, from counts ``[2, 2**bits]``."""
    bits = counts.shape[1].bit_length() - 1
    bins = counts.any(0).nonzero()[:, 0].flip(0)
    ordered = (bins << (32 - bits)) - 2**31
    edges = torch.where(ordered < 0, ordered ^ _FLIP, ordered).to(torch.int32).view(torch.float32)
    fp, tp = (pad(own[bins].cumsum(0), (1, 0)) for own in counts)
    return Vertices(pad(edges.double(), (1, 0), value=torch.inf), fp, tp)


def tpr_error(tp: Tensor, cost: Tensor, budgets: Tensor, slack: float) -> Tensor:
    """Return how much higher the exact TPR can be than :func:`best_tpr` of binned vertices.

    The exact threshold may lie within the first bin that goes over the budget: at most all of that
    bin's positives are found on top.
    """
    allowed = allowed_rows(budgets.flatten().to(cost.device), cost[-1:], slack)
    after = torch.searchsorted(cost, allowed, right=True).clamp(max=len(cost) - 1)
    hidden = (tp[after] - tp[(after - 1).clamp(min=0)]).double() / tp[-1]
    return torch.where(cost[after] > allowed, hidden, 0.0).view(budgets.shape)


def area_error(vertices: Vertices, alpha: float, beta: float) -> Tensor:
    """Return how far the exact area over the band can be from that of binned vertices, 0-dim.

    Within a bin's rectangle the curve may take any rising way. A straight line across is off by at
    most half the rectangle, and where an edge of the band cuts it by the part inside.
    """
    fpr, tpr = (count.double() / count[-1] for count in (vertices.fp, vertices.tp))
    inside = fpr.clamp(alpha, beta).diff()
    whole = (fpr[:-1] >= alpha) & (fpr[1:] <= beta)
    return (inside * tpr.diff() * torch.where(whole, 0.5, 1.0)).sum()
