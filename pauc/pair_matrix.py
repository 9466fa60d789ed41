"""Sums of a link over pairs of scores from their matrix, a tile at a time where it is large."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pauc.config import Link

_WHOLE = 1 << 20  # pairs; up to here the backward pass may keep the matrix
_TILE = 1 << 18  # pairs; a megabyte stays in a core's cache


def matrix_sum(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return for each positive the sum of the link over its negatives.

    Args: as for :func:`pauc.pairs.mean_link`. What is held on top of them is some tiles, each of a
        quarter of a million pairs or of as many as there are negatives in all classes.
    """
    columns = negatives.shape[-1]
    # A compiler fuses the sums and makes no matrix; it would unroll the tiles.
    if pos_scores.shape[0] * columns <= _WHOLE or torch.compiler.is_compiling():
        attached = pos_scores.requires_grad or negatives.requires_grad or tau.requires_grad
        whole = _attached if attached else _alone
        return whole(pos_scores, class_index, negatives, multiplicity, tau, link)
    rows = max(_TILE // columns, negatives.shape[0])
    tiled = _Tiled.apply(  # type: ignore[no-untyped-call]
        pos_scores, class_index, negatives, multiplicity, tau, link, rows
    )
    return cast(Tensor, tiled)


class _Tiled(torch.autograd.Function):
    """The sums in tiles of so many rows; the backward pass makes each anew and keeps none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        pos_scores: Tensor,
        class_index: Tensor,
        negatives: Tensor,
        multiplicity: Tensor,
        tau: Tensor,
        link: Link,
        rows: int,
    ) -> Tensor:
        tiles = zip(torch.split(pos_scores, rows), torch.split(class_index, rows), strict=True)
        return torch.cat([_alone(x, of, negatives, multiplicity, tau, link) for x, of in tiles])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        *tensors, ctx.link, ctx.rows = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pos_scores, class_index, negatives, multiplicity, tau = ctx.saved_tensors
        by_positive, by_negative, by_tau = [], torch.zeros_like(negatives), torch.zeros_like(tau)
        per_tile = (torch.split(given, ctx.rows) for given in (pos_scores, class_index, *gradients))
        for x, of_class, gradient in zip(*per_tile, strict=True):
            rows, counts, width = _of_class(of_class, negatives, multiplicity, tau)
            u = (x.unsqueeze(-1) - rows) / width.unsqueeze(-1)
            slope = _slope(u, ctx.link) * counts
            scale = gradient / width
            by_positive.append(slope.sum(dim=-1) * scale)
            slope = slope * -scale.unsqueeze(-1)
            by_negative = _add_by_class(by_negative, slope, of_class)
            if ctx.needs_input_grad[4]:
                by_tau = _add_by_class(by_tau, (slope * u).sum(dim=-1), of_class)
        return torch.cat(by_positive), None, by_negative, None, by_tau, None, None


def _attached(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return the sums from the whole matrix ``[P, B]``."""
    rows, counts, width = _of_class(class_index, negatives, multiplicity, tau)
    u = (pos_scores.unsqueeze(-1) - rows) / width.unsqueeze(-1)
    if link == "sigmoid":
        return (u.sigmoid() * counts).sum(dim=-1)
    # logsigmoid and not softplus, which drops the logarithm from 20 on.
    return ((1 + logsigmoid(u) / math.log(2)) * counts).sum(dim=-1)


def _alone(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: Link,
) -> Tensor:
    """Return what :func:`_attached` does where no gradient is wanted, in fewer passes."""
    rows, counts, width = _of_class(class_index, negatives, multiplicity, tau)
    u = (pos_scores.unsqueeze(-1) - rows).div_(width.unsqueeze(-1))
    if link == "sigmoid":
        return (u.sigmoid_() * counts).sum(dim=-1)
    summed = (logsigmoid(u) * counts).sum(dim=-1)
    return counts.sum(dim=-1) + summed / math.log(2)


def _slope(u: Tensor, link: Link) -> Tensor:
    """Return the derivative of the link at ``u``."""
    if link == "sigmoid":
        soft = u.sigmoid()
        return torch.addcmul(soft, soft, soft, value=-1)
    return (-u).sigmoid() / math.log(2)


def _of_class(
    class_index: Tensor, negatives: Tensor, multiplicity: Tensor, tau: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the negatives, their multiplicity and tau of each positive's class."""
    if negatives.shape[0] == 1:  # broadcasting spares the gather
        return negatives, multiplicity, tau
    # index_select and not indexing, whose backward pass is several times slower.
    return negatives.index_select(0, class_index), multiplicity[class_index], tau[class_index]


def _add_by_class(total: Tensor, rows: Tensor, class_index: Tensor) -> Tensor:
    """Return ``total`` ``[C, ...]`` plus the sums over the ``rows`` ``[P, ...]`` of each class."""
    if total.shape[0] == 1:
        return total + rows.sum(dim=0, keepdim=True)
    return total.index_add(0, class_index, rows)
