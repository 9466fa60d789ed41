"""Surrogates with their slopes: against autograd through the plain ones, and in a graph."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from pauc import PAUCAtBudgetLoss, slopes
from pauc.attach import Gradients, attach
from pauc.pairs import mean_link
from pauc.selection import BandEdges
from pauc.slopes import Negatives, pairwise, trapezoid
from pauc.surrogates import Positives, trapezoid_contributions


def make_positives(classes, count, spread, g):
    index = torch.randint(0, classes, (count,), generator=g)
    weight = torch.randint(0, 3, (count,), generator=g).double()
    return Positives(spread * torch.randn(count, generator=g, dtype=torch.float64), index, weight)


def make_negatives(classes, count, edges, g):
    """Scores between the edges, both of which occur, and padding that is to be ignored."""
    inner = torch.rand(classes, count, generator=g, dtype=torch.float64)
    inner[:, :1] = 0
    scores = torch.lerp(edges.t_beta.unsqueeze(1), edges.t_alpha.unsqueeze(1), inner)
    real = torch.rand(classes, count, generator=g) < 0.8
    return Negatives(torch.where(real, scores, 1e3), real)


sizes = {
    "classes": st.sampled_from([1, 4]),
    "count": st.integers(0, 40),
    "num_live": st.integers(0, 40),
    "spread": st.sampled_from([0.1, 3.0, 200.0]),
    "seed": st.integers(0, 2**20),
}


@given(**sizes, knots=st.integers(2, 5))
def test_trapezoid_is_that_of_the_surrogate(classes, count, num_live, spread, seed, knots):
    g = torch.Generator().manual_seed(seed)
    positives = make_positives(classes, count, spread, g)
    num_live = min(num_live, count)
    levels = torch.randn(classes, knots, generator=g, dtype=torch.float64)
    tau = 0.1 + torch.rand(classes, generator=g, dtype=torch.float64)
    found = trapezoid(positives, num_live, levels, tau)
    own = positives.scores.clone().requires_grad_()
    expected = trapezoid_contributions(positives._replace(scores=own), levels, tau)
    (gradient,) = torch.autograd.grad(expected, own, positives.weight)
    assert torch.allclose(found.contribution, expected, atol=1e-12)
    assert torch.allclose(found.positive, gradient[:num_live], atol=1e-12)


@given(
    **sizes,
    widths=st.tuples(st.integers(0, 30), st.integers(1, 9)),
    link=st.sampled_from(["sigmoid", "logistic"]),
    block=st.sampled_from([1, 60, 1 << 16]),
    span=st.sampled_from([0.0, 1.0, 100.0]),
)
def test_pairs_are_those_of_the_surrogate(
    classes, count, num_live, spread, seed, widths, link, block, span
):
    """In blocks of any size; from the graph where exponentials would overflow."""
    g = torch.Generator().manual_seed(seed)
    positives = make_positives(classes, count, spread, g)
    num_live = min(num_live, count)
    lower = torch.randn(classes, generator=g, dtype=torch.float64)
    edges = BandEdges(lower + span, lower, torch.stack([lower + span, lower], dim=-1))
    tau = 0.1 + torch.rand(classes, generator=g, dtype=torch.float64)
    held, live = (make_negatives(classes, width, edges, g) for width in widths)
    number = held.real.sum(1) + live.real.sum(1)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(slopes, "_BLOCK", block)
        found = pairwise(positives, num_live, held, live, number, edges, tau, link)

    own, against = positives.scores.clone().requires_grad_(), live.scores.clone().requires_grad_()
    scores = torch.cat([torch.where(held.real, held.scores, 0.0), against], dim=1)
    multiplicity = torch.cat([held.real, live.real], dim=1).double()
    total = number.clamp(min=1).double()
    index = positives.class_index
    expected = mean_link(own, index, scores, multiplicity, total, tau, link)
    gradient, opposite = torch.autograd.grad(expected, (own, against), positives.weight)
    # Exponents of up to 60 in float64, and contributions of up to 200 / 0.1.
    assert torch.allclose(found.contribution, expected, rtol=1e-11, atol=1e-12)
    assert torch.allclose(found.positive, gradient[:num_live], rtol=1e-11, atol=1e-12)
    assert torch.allclose(found.negative, opposite, rtol=1e-11, atol=1e-11)


def test_a_gradient_may_be_asked_of_the_loss_its_parts_or_both():
    logits = torch.randn(5, 3, requires_grad=True)
    per_class, direct = torch.randn(5, 3), torch.randn(5, 3)
    for of_loss, of_parts in ((2.0, None), (None, 3.0), (2.0, 3.0)):
        loss, parts = attach(
            logits, torch.zeros(()), torch.zeros(3), Gradients(per_class, 0.5, direct)
        )
        outputs = [(loss, of_loss), (parts, of_parts)]
        asked = [(value, torch.full_like(value, by)) for value, by in outputs if by is not None]
        values, factors = zip(*asked, strict=True)
        (gradient,) = torch.autograd.grad(values, logits, factors)
        a, b = of_loss or 0.0, of_parts or 0.0
        assert torch.allclose(gradient, a * (0.5 * per_class + direct) + b * per_class)


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_a_second_derivative_is_refused(surrogate):
    loss = PAUCAtBudgetLoss(1, queue_size=200, beta=0.2, surrogate=surrogate)
    logits = torch.randn(100, 1, requires_grad=True)
    value = loss(logits, torch.arange(100) % 2)
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    assert (gradient != 0).any()
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        (gradient.square().sum() + logits.sum()).backward()


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_torch_func_takes_the_gradient_of_a_module_at_rest(surrogate):
    g = torch.Generator().manual_seed(0)
    module = PAUCAtBudgetLoss(1, surrogate=surrogate, queue_size=256, beta=0.1, bce_weight=0.1)
    logits, targets = torch.randn(64, 1, generator=g), torch.arange(64) % 3 // 2
    module(logits, targets)
    module.eval()
    leaf = logits.clone().requires_grad_()
    module(leaf, targets).backward()
    assert leaf.grad is not None
    assert leaf.grad.any()
    torch.testing.assert_close(torch.func.grad(module)(logits, targets), leaf.grad)
