"""Diagnostics and every option of the native step: against the operators, in float64 and float32.

Against the oracles they are tested where both ways of taking a step are, by `each_path`.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from pauc import PAUCAtBudgetLoss, RecallAtQuantileLoss, init_queue, pauc_loss_fn
from pauc.backends import Plan, plan_step, take_step
from pauc.config import PAUCConfig, RecallAtQuantileConfig
from pauc.core.batch import Rows
from pauc.native import extension
from pauc.native.entry import NativeEntry
from tests.native.test_step import KINDS, stream

pytestmark = [
    pytest.mark.skipif(extension.ext is None, reason="installed without a compiler"),
    pytest.mark.filterwarnings("ignore:.*AtBudgetLoss|.*QuantileLoss:UserWarning"),
]
LEVELS = st.sampled_from([0.01, 0.1, 0.5, 1.0])
INTERPOLATIONS = ["linear", "lower", "higher", "nearest", "midpoint"]


def shared_options():
    return st.fixed_dictionaries(
        {},
        optional={
            "tau_scale": st.sampled_from(["band", "unit"]),
            "pos_numerator": st.just("live"),
            "temperature": st.sampled_from([0.01, 1.0, 3.0]),
            "budget_basis": st.sampled_from(["fpr", "population"]),
            "edge_gradient": st.just("implicit"),
            "ignore_index": st.sampled_from([0, -1]),
            "reduction": st.sampled_from(["sum", "none"]),
            "quantile_interpolation": st.sampled_from(INTERPOLATIONS),
            "gradient_scale": st.just("live"),
            "bce_weight": st.just(0.5),
            "pauc_weight": st.just(0.3),
            "max_pool_size": st.sampled_from([5, 20, 100, 400]),
        },
    )


@st.composite
def configs(draw):
    options = draw(shared_options())
    if draw(st.booleans()):
        return RecallAtQuantileConfig(quantile=draw(LEVELS), **options)
    options["alpha"] = draw(st.sampled_from([0.0, 0.005]))
    options["surrogate"] = draw(st.sampled_from(["trapezoid", "pairwise"]))
    options["link"] = draw(st.sampled_from(["sigmoid", "logistic"]))
    return PAUCConfig(beta=draw(LEVELS), n_knots=draw(st.sampled_from([2, 5])), **options)


def one_step(rows, queue, plan, bounds=None, **flags):
    """The outcome, the gradient, and the bounds for the next step."""
    logits = rows.logits.clone().requires_grad_()
    outcome, bounds = take_step(rows._replace(logits=logits), queue, plan, bounds=bounds, **flags)
    outcome.loss.nan_to_num().sum().backward()
    return outcome, logits.grad, bounds


def assert_equal_steps(found, expected, *, rtol, atol):
    (outcome, gradient, _), (wanted, wanted_gradient, _) = found, expected

    def close(a, b, times=1.0):
        return torch.allclose(a.double(), b.double(), rtol, times * atol, equal_nan=True)

    size = 1 + wanted.loss.nan_to_num().abs().max().item()  # a logistic loss has no bound
    assert close(outcome.loss, wanted.loss, size)
    assert close(outcome.per_class, wanted.per_class, size)
    assert torch.equal(outcome.valid, wanted.valid)
    assert torch.equal(outcome.ref_count, wanted.ref_count)
    assert close(gradient, wanted_gradient, 1 + wanted_gradient.nan_to_num().abs().max().item())
    known = ~(wanted.valid & wanted.per_class.isnan())  # a nan has no rank
    assert torch.equal(outcome.degenerate[known], wanted.degenerate[known])
    assert set(outcome.stats) == set(wanted.stats)
    for name, value in wanted.stats.items():
        assert outcome.stats[name].dtype == value.dtype, name
        assert close(outcome.stats[name][known], value[known], size**2), name


@given(
    config=configs(),
    kind=st.sampled_from(KINDS),
    classes=st.sampled_from([1, 2, 5]),
    size=st.sampled_from([0, 30, 500]),
    count=st.sampled_from([1, 40, 200]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    seed=st.integers(0, 2**20),
    multilabel=st.booleans(),
    diagnostics=st.booleans(),
)
def test_any_options_equal_the_operators(
    config, kind, classes, size, count, dtype, seed, multilabel, diagnostics
):
    queue = init_queue(size, classes, multilabel=multilabel, dtype=dtype)
    plan, bounds = plan_step(config), None
    # A table of sums errs by less than 1e-6.
    tolerances = {"rtol": 2e-6, "atol": 2e-6 if dtype == torch.float64 else 1e-4}
    if dtype == torch.float32:
        tolerances["rtol"] = 2e-3
    for logits, targets, iid, weight in stream(
        kind, classes, 4, count, seed, multilabel=multilabel
    ):
        targets = torch.where(targets == -100, config.ignore_index, targets)
        rows = Rows(logits.to(dtype), targets, iid, weight)
        if config.max_pool_size is not None and config.max_pool_size < classes:
            return
        found = one_step(rows, queue, plan, bounds, diagnostics=diagnostics)
        expected = one_step(rows, queue, Plan(config, None), diagnostics=diagnostics)
        assert isinstance(found[0].entry, NativeEntry)
        assert_equal_steps(found, expected, **tolerances)
        bounds = found[2]
        queue = expected[0].entry.into(queue)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_the_edge_in_the_queue_alone_may_lie_outside_of_the_window_around_the_band(
    shift, interpolation
):
    config = PAUCConfig(alpha=0.1, beta=0.12, quantile_interpolation=interpolation)
    g = torch.Generator().manual_seed(0)
    queue, bounds = init_queue(4000, 1, dtype=torch.float64), None
    for rows, moved in ((4000, 0.0), (300, 0.0), (300, shift)):
        scores = moved + torch.randn(rows, 1, generator=g, dtype=torch.float64)
        batch = Rows(scores, (torch.rand(rows, generator=g) < 0.1).long())
        found = one_step(batch, queue, plan_step(config), bounds, diagnostics=True)
        expected = one_step(batch, queue, Plan(config, None), diagnostics=True)
        assert_equal_steps(found, expected, rtol=1e-9, atol=1e-12)
        bounds, queue = found[2], expected[0].entry.into(queue)
    assert (found[0].stats["realised_fpr"] > 0.5) == (shift > 0)


MOVING = {
    "alpha": 0.01,
    "beta": 0.2,
    "temperature": 0.3,
    "bce_weight": 0.2,
    "pauc_weight": 0.7,
}


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_options_as_tensors_are_read_at_the_step(surrogate):
    logits, targets, *_ = next(stream("normal", 2, 1, 200, 0))
    queue = init_queue(100, 2, dtype=torch.float64)
    tensors = {name: torch.tensor(value, dtype=torch.float64) for name, value in MOVING.items()}
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    for leaf, options in zip(leaves, (MOVING, tensors), strict=True):
        loss, _ = pauc_loss_fn(leaf, targets, queue, surrogate=surrogate, **options)
        tensors["temperature"].mul_(2)  # of no effect on a step that has been taken
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        gradient.square().sum().backward()
        tensors["temperature"].mul_(0.5)
    assert leaves[0].grad.any()
    assert torch.equal(leaves[0].grad, leaves[1].grad)


def test_an_option_that_wants_a_gradient_has_one():
    logits, targets, *_ = next(stream("normal", 1, 1, 200, 0))
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    queue = init_queue(100, 1, dtype=torch.float64)
    loss, _ = pauc_loss_fn(logits, targets, queue, beta=0.5, temperature=temperature)
    loss.backward()
    assert temperature.grad.any()


@pytest.mark.parametrize("kind", ["drift", "jump"])
def test_stats_of_a_module_are_those_of_the_operators_whatever_the_bounds(kind, monkeypatch):
    """The edge of the queue alone has bounds of its own, which are old where others were shown."""
    modules = [PAUCAtBudgetLoss(1, queue_size=2000, beta=0.02) for _ in range(2)]
    for step, (logits, targets, *_) in enumerate(stream(kind, 1, 12, 300, 0, plain=True)):
        shown = step % 3 == 0
        found = modules[0](logits, targets, return_diagnostics=shown)
        with monkeypatch.context() as patch:
            patch.setattr(extension, "ext", None)
            expected = modules[1](logits, targets, return_diagnostics=shown)
        if shown:
            for name, value in expected[1].items():
                torch.testing.assert_close(found[1][name], value, equal_nan=True, msg=name)


def test_a_native_step_of_the_recall_is_planned():
    loss = RecallAtQuantileLoss(1, queue_size=100, quantile=0.1)
    loss(torch.randn(60, 1), torch.arange(60) % 2)
    assert loss._bounds is not None
