"""A loss with a known gradient as a node of the graph."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch.autograd import forward_ad

from pauc import PAUCAtBudgetLoss, init_queue, pauc_loss_fn
from pauc.native import extension
from pauc.native.gradient import Gradients, attach


@pytest.mark.parametrize("has_whole", [False, True])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_gradient_may_be_asked_of_the_loss_its_parts_or_both(shape, has_whole):
    logits = torch.randn(5, 3, requires_grad=True)
    per_class, whole = torch.randn(5, 3), torch.randn(5, 3) if has_whole else None
    gradients = Gradients(per_class, whole, torch.ones(3, dtype=torch.bool), 0.5)
    of_a_loss = 0.5 * per_class if whole is None else whole
    for of_loss, of_parts in ((2.0, None), (None, 3.0), (2.0, 3.0)):
        loss, parts = torch.zeros(shape), torch.zeros(3)
        attach(logits, loss, parts, gradients, again=pytest.fail)
        outputs = [(loss, of_loss), (parts, of_parts)]
        asked = [(value, torch.full_like(value, by)) for value, by in outputs if by is not None]
        values, factors = zip(*asked, strict=True)
        (gradient,) = torch.autograd.grad(values, logits, factors)
        expected = (of_loss or 0.0) * of_a_loss + (of_parts or 0.0) * per_class
        assert torch.allclose(gradient, expected)


def second_derivatives(loss, logits, targets):
    """Of a function of the loss, of its parts and of a weight, by the logits and the weight."""
    weight = torch.tensor(2.0, dtype=logits.dtype, requires_grad=True)
    value, per_class, _ = loss(logits, targets, return_per_class=True)
    whole = weight * value.square() + per_class.prod()
    (gradient,) = torch.autograd.grad(whole, logits, create_graph=True)
    return gradient, *torch.autograd.grad(gradient.square().sum(), (logits, weight))


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_second_derivatives_are_those_of_the_operators(surrogate, monkeypatch):
    g = torch.Generator().manual_seed(0)
    options = {"surrogate": surrogate, "beta": 0.3, "bce_weight": 0.2}
    loss = PAUCAtBudgetLoss(2, queue_size=100, **options).double()
    loss(torch.randn(100, 2, generator=g, dtype=torch.float64), torch.arange(100) % 2)
    loss.eval()
    logits = torch.randn(30, 2, generator=g, dtype=torch.float64, requires_grad=True)
    found = second_derivatives(loss, logits, torch.arange(30) % 2)
    monkeypatch.setattr(extension, "ext", None)
    for a, b in zip(found, second_derivatives(loss, logits, torch.arange(30) % 2), strict=True):
        assert a.any()
        assert torch.allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_a_second_derivative_is_refused_once_the_queue_has_moved(surrogate):
    loss = PAUCAtBudgetLoss(1, queue_size=200, beta=0.2, surrogate=surrogate)
    logits = torch.randn(100, 1, requires_grad=True)
    value = loss(logits, torch.arange(100) % 2)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(value, logits, create_graph=True)


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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_forward_mode_derivatives_are_those_of_backward(surrogate):
    g = torch.Generator().manual_seed(0)
    module = PAUCAtBudgetLoss(1, surrogate=surrogate, queue_size=256, beta=0.1)
    logits, targets = torch.randn(64, 1, generator=g), torch.arange(64) % 3 // 2
    module(logits, targets)
    module.eval()
    direction = torch.randn(64, 1, generator=g)
    with forward_ad.dual_level():
        value = module(forward_ad.make_dual(logits, direction), targets)
        tangent = forward_ad.unpack_dual(value).tangent
    leaf = logits.clone().requires_grad_()
    module(leaf, targets).backward()
    assert tangent is not None
    torch.testing.assert_close(tangent.float(), (leaf.grad * direction).sum())


def test_what_is_nan_in_an_invalid_class_stays_there():
    logits = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = PAUCAtBudgetLoss(3, queue_size=0, beta=0.5, reduction="none")
    (loss(logits, torch.arange(60) % 2) ** 2).nansum().backward()  # no row is of class 2
    assert logits.grad[:, 0].any()
    assert not logits.grad[:, 2].any()


def test_logits_may_change_once_the_loss_is_there():
    features, factor = torch.randn(60, 1), torch.ones(1, requires_grad=True)
    logits = features * factor
    value = PAUCAtBudgetLoss(1, beta=0.5)(logits, torch.arange(60) % 2)
    logits.detach().sigmoid_()
    value.backward()
    assert factor.grad is not None


def test_losses_that_are_added_up_keep_no_queue():
    queue, total = init_queue(50, 1), 0
    kept = []
    for _ in range(3):
        kept.append(weakref.ref(queue.scores))
        logits = torch.randn(20, 1, requires_grad=True)
        loss, queue = pauc_loss_fn(logits, torch.arange(20) % 2, queue, beta=0.5)
        loss.backward()
        total = total + loss
    assert [ref() for ref in kept] == [None] * 3


def test_a_second_derivative_after_a_plain_gradient_is_refused():
    logits = torch.randn(20, 1, requires_grad=True)
    loss, _ = pauc_loss_fn(logits, torch.arange(20) % 2, init_queue(50, 1), beta=0.5)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_graph_that_is_freed_has_no_second_backward_pass(create_graph):
    logits = torch.randn(40, 1, requires_grad=True)
    loss, _ = pauc_loss_fn(logits, torch.arange(40) % 2, init_queue(50, 1), beta=0.5)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, logits, create_graph=create_graph)
