"""Sums of a link over pairs of scores, with first and second derivatives by both sides.

Few pairs are held as a matrix. Many take :mod:`pauc.pairs.blocks`, as operators of torch that a
compiler calls without looking inside: a graph of many small steps would take it a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.devices import class_groups
from pauc.pairs.blocks import (
    ENTRIES,
    Pairs,
    few_pairs,
    gradients,
    make_pairs,
    second_gradients,
    sums,
)
from pauc.pairs.links import LINKS


def mean_link(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    total: Tensor,
    tau: Tensor,
    link: str,
) -> Tensor:
    """Return for each positive the mean of the link over the negatives of its class.

    Args:
        total: ``[C]``, what the sum over negatives is divided by.
        others: as for :func:`sum_link`.
    """
    return (
        sum_link(pos_scores, class_index, negatives, multiplicity, tau, link) / total[class_index]
    )


def sum_link(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: str,
    counted: Tensor | None = None,
) -> Tensor:
    """Return for each positive the sum of the link over the negatives of its class.

    Args:
        pos_scores: ``[P]``, with ``class_index`` ``[P]`` into the rows of ``negatives``.
        negatives: ``[C, B]``, in any order.
        multiplicity: ``[C, B]``, how many rows a negative stands for; 0 for padding. Bool where
            each stands for itself.
        tau: ``[C]``.
        link: the name of one of :data:`pauc.pairs.links.LINKS`.
        counted: ``[P]`` bool, which of the sums are wanted; the others have no meaning, and must
            not receive a gradient. None: all.
    """
    if few_pairs(pos_scores.shape[0], *negatives.shape):
        return _matrix_sum(pos_scores, class_index, negatives, multiplicity, tau, link)
    # One gradient, two ways to it. torch.func does not see the gradient that is registered with an
    # operator, so eager calls take the Function; a compiler warns of a Function with
    # `setup_context`, so a graph takes the operator.
    compiling = torch.compiler.is_compiling()
    call: Any = torch.ops.pauc.sum_link if compiling else _SumLink.apply
    summed: Tensor = call(pos_scores, class_index, counted, negatives, multiplicity, tau, link)
    return summed


def _matrix_sum(
    pos_scores: Tensor,
    class_index: Tensor,
    negatives: Tensor,
    multiplicity: Tensor,
    tau: Tensor,
    link: str,
) -> Tensor:
    """Return ``[P]``, the sums over negatives from the matrix of pairs ``[P, B]``."""
    rows, counts, width = negatives, multiplicity, tau
    if len(rows) > 1:  # otherwise broadcasting spares the gather
        # index_select and not indexing, whose backward pass is several times slower.
        rows, counts, width = (part.index_select(0, class_index) for part in (rows, counts, width))
    u = (pos_scores.unsqueeze(-1) - rows) / width.unsqueeze(-1)
    return (LINKS[link].value(u) * counts).sum(dim=-1)


class _Part(NamedTuple):
    """The pairs of some classes, which are worked on together."""

    classes: slice
    own: Tensor | None  # [P] bool, which positives are of these classes; None: all
    pairs: Pairs

    def of_positives(self, values: Tensor) -> Tensor:
        """Return ``values`` ``[P]`` of the pairs' positives, 0 for those of other classes."""
        values = values.index_select(0, self.pairs.kept)
        return values if self.own is None else torch.where(self.own, values, 0.0)

    def at_positives(self, found: Tensor, x: Tensor) -> Tensor:
        """Return ``[P]``: what was found of the pairs' positives at their places, 0 elsewhere."""
        spread = torch.zeros_like(x).index_copy_(0, self.pairs.kept, found.to(x.dtype))
        return spread if self.own is None else torch.where(self.own, spread, 0.0)

    def of_negatives(self, values: Tensor) -> Tensor:
        """Return ``values`` ``[C, B]`` in the order of the pairs' negatives."""
        places, shape = self.pairs.places, self.pairs.y.shape
        ordered = values[self.classes].gather(1, places)
        return pad(ordered, (0, shape[1] * shape[2] - places.shape[1])).reshape(shape)

    def write_negatives(self, values: Tensor, found: Tensor) -> None:
        """Write what was found of the pairs' negatives into ``values`` ``[C, B]``."""
        places = self.pairs.places
        real = found.flatten(1)[:, : places.shape[1]].to(values.dtype)
        values[self.classes].scatter_(1, places, real)


def _parts(
    x: Tensor, index: Tensor, counted: Tensor | None, y: Tensor, counts: Tensor, tau: Tensor
) -> Iterator[_Part]:
    """Yield the pairs of a few classes after the other, one where memory does not matter."""
    groups = class_groups(y.shape[0], y.shape[1], ENTRIES, y.device)
    for classes in groups:
        own, inner = None, index
        if len(groups) > 1:
            own = (index >= classes.start) & (index < classes.stop)
            inner = torch.where(own, index - classes.start, 0)
        rows = y[classes], counts[classes], tau[classes]
        yield _Part(classes, own, make_pairs(x, inner, counted, *rows))


_PAIRS = "(Tensor x, Tensor index, Tensor? counted, Tensor y, Tensor counts, Tensor tau, str link)"


@torch.library.custom_op("pauc::sum_link", mutates_args=(), schema=f"{_PAIRS} -> Tensor")
def _sum(
    x: Tensor,
    index: Tensor,
    counted: Tensor | None,
    y: Tensor,
    counts: Tensor,
    tau: Tensor,
    link: str,
) -> Tensor:
    summed = torch.zeros_like(x)
    for part in _parts(x, index, counted, y, counts, tau):
        summed += part.at_positives(sums(part.pairs, LINKS[link]), x)
    return summed


@torch.library.custom_op(
    "pauc::sum_link_backward",
    mutates_args=(),
    schema=f"(Tensor g, {_PAIRS[1:]} -> (Tensor, Tensor)",
)
def _sum_backward(
    g: Tensor,
    x: Tensor,
    index: Tensor,
    counted: Tensor | None,
    y: Tensor,
    counts: Tensor,
    tau: Tensor,
    link: str,
) -> tuple[Tensor, Tensor]:
    all_by_x, all_by_y = torch.zeros_like(x), torch.zeros_like(y)
    for part in _parts(x, index, counted, y, counts, tau):
        by_x, by_y = gradients(part.of_positives(g), part.pairs, LINKS[link])
        all_by_x += part.at_positives(by_x, x)
        part.write_negatives(all_by_y, by_y)
    return all_by_x, all_by_y


@torch.library.custom_op(
    "pauc::sum_link_backward_twice",
    mutates_args=(),
    schema=f"(Tensor a, Tensor b, Tensor g, {_PAIRS[1:]} -> (Tensor, Tensor, Tensor)",
)
def _sum_backward_twice(
    a: Tensor,
    b: Tensor,
    g: Tensor,
    x: Tensor,
    index: Tensor,
    counted: Tensor | None,
    y: Tensor,
    counts: Tensor,
    tau: Tensor,
    link: str,
) -> tuple[Tensor, Tensor, Tensor]:
    all_by_g, all_by_x, all_by_y = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(y)
    for part in _parts(x, index, counted, y, counts, tau):
        given = part.of_positives(a), part.of_negatives(b), part.of_positives(g)
        by_g, by_x, by_y = second_gradients(*given, part.pairs, LINKS[link])
        all_by_g += part.at_positives(by_g, x)
        all_by_x += part.at_positives(by_x, x)
        part.write_negatives(all_by_y, by_y)
    return all_by_g, all_by_x, all_by_y


@_sum.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


@_sum_backward.register_fake
def _(_g: Tensor, x: Tensor, _index: Tensor, _counted: Any, y: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(y)


@_sum_backward_twice.register_fake
def _(_a: Any, _b: Any, _g: Any, x: Tensor, _index: Any, _counted: Any, y: Tensor, *_: Any) -> Any:
    return torch.empty_like(x), torch.empty_like(x), torch.empty_like(y)


class _SumLink(torch.autograd.Function):
    """The operator with its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        summed: Tensor = torch.ops.pauc.sum_link(*inputs)
        return summed

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output  # torch calls by these names
        *tensors, ctx.link = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, index, _, y, counts, tau = ctx.saved_tensors
        by_x, by_y = _Slopes.apply(g, *ctx.saved_tensors, ctx.link)  # type: ignore[no-untyped-call]
        by_tau = None
        if ctx.needs_input_grad[5]:
            # The sums do not change when scores and tau grow by one factor (Euler's theorem).
            moment = (torch.where(counts > 0, y, 0.0) * by_y).sum(dim=-1)
            by_tau = -moment.index_add(0, index, x * by_x) / tau
        return by_x, None, None, by_y, None, by_tau, None


_sum.register_autograd(_SumLink.backward, setup_context=_SumLink.setup_context)


class _Slopes(torch.autograd.Function):
    """The gradient with its own gradient; a third derivative has no formula, and torch says so."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        slopes: tuple[Tensor, Tensor] = torch.ops.pauc.sum_link_backward(*inputs)
        return slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output  # torch calls by these names
        *tensors, ctx.link = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        g, x, index, _, y, counts, tau = ctx.saved_tensors
        twice = torch.ops.pauc.sum_link_backward_twice
        by_g, by_x, by_y = twice(a, b, *ctx.saved_tensors, ctx.link)
        by_tau = None
        if ctx.needs_input_grad[6]:
            # Where scores and tau grow by one factor, slopes shrink by it (Euler's theorem).
            moment = (torch.where(counts > 0, y, 0.0) * by_y).sum(dim=-1)
            by_tau = -moment.index_add(0, index, x * by_x + g * by_g) / tau
        return by_g, by_x, None, None, by_y, None, by_tau, None


def _fold(size: int, dims: tuple[Any, ...], args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments of one call for those of ``size`` members, whose classes are joined."""
    *tensors, link = args
    joined = []
    for tensor, dim in zip(tensors, dims, strict=False):
        if tensor is not None:
            tensor = (
                tensor.movedim(dim, 0) if dim is not None else tensor.expand(size, *tensor.shape)
            )
        joined.append(tensor)
    index, y = joined[-5], joined[-3]
    member = torch.arange(size, device=index.device).unsqueeze(1)
    joined[-5] = index + y.shape[1] * member
    return [part if part is None else part.flatten(0, 1) for part in joined] + [link]


@_sum.register_vmap
def _(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    size = info.batch_size
    return torch.ops.pauc.sum_link(*_fold(size, dims, args)).unflatten(0, (size, -1)), 0


@_sum_backward.register_vmap
def _(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    size = info.batch_size
    parts = torch.ops.pauc.sum_link_backward(*_fold(size, dims, args))
    return tuple(part.unflatten(0, (size, -1)) for part in parts), (0, 0)


@_sum_backward_twice.register_vmap
def _(info: Any, dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size = info.batch_size
    parts = torch.ops.pauc.sum_link_backward_twice(*_fold(size, dims, args))
    return tuple(part.unflatten(0, (size, -1)) for part in parts), (0, 0, 0)
