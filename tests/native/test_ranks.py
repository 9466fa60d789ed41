"""The native step of Smooth-AP: against the operators, and against loops in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from pauc import SmoothAPConfig, init_queue, smooth_ap_loss_fn
from pauc.backends import Plan, plan_step, take_step
from pauc.core.batch import Rows
from pauc.native import extension
from pauc.native.entry import NativeEntry
from tests.core.test_loss_against_oracle import as_tensors, assert_close, reference_arguments
from tests.core.test_loss_against_oracle import tolerance as tolerance_of
from tests.core.test_recall_and_smooth_ap import companion_problems, doubtful, options_of_reference
from tests.native.test_step import KINDS, stream
from tests.oracles.reference_companions import ap_value, companion_step

pytestmark = pytest.mark.skipif(extension.ext is None, reason="installed without a compiler")
OPTIONS = [
    {},
    {"temperature": 1.0, "quantile_interpolation": "linear", "bce_weight": 0.3},
    {"temperature": 30.0, "gradient_scale": "live", "reduction": "sum"},
    {"temperature": 0.02, "pos_numerator": "live", "reduction": "none"},
    {
        "tau_scale": "unit",
        "temperature": 0.4,
        "pos_numerator": "live",
        "gradient_scale": "live",
        "reduction": "none",
        "bce_weight": 0.5,
    },
]


def outcome_of(logits, rows, queue, plan, **flags):
    """The outcome and the gradient, nan as it comes."""
    attached = logits.clone().requires_grad_()
    outcome, _ = take_step(rows._replace(logits=attached), queue, plan, **flags)
    outcome.loss.sum().backward()
    return outcome, attached.grad


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "multilabel"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_equal_the_operators(kind, options, classes, multilabel, dtype):
    config = SmoothAPConfig(**options)
    queue = init_queue(600, classes, multilabel=multilabel, dtype=dtype)
    tight = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-5}
    for logits, targets, iid, weight in stream(kind, classes, 6, 128, 1, multilabel=multilabel):
        rows = Rows(logits.to(dtype), targets, iid, None if weight is None else weight.to(dtype))
        found, gradient = outcome_of(rows.logits, rows, queue, plan_step(config))
        wanted, expected = outcome_of(rows.logits, rows, queue, Plan(config, None))
        # Few bins reach from one outlier to the next only with a width that fits them.
        assert isinstance(found.entry, NativeEntry) or kind in ("heavy", "jump")
        assert torch.equal(found.valid, wanted.valid)
        assert torch.equal(found.ref_count, wanted.ref_count)
        poisoned = found.valid & found.per_class.isnan()  # found out before there is a width
        assert torch.equal(found.degenerate, wanted.degenerate & ~poisoned)
        for name in ("loss", "per_class"):
            pair = getattr(found, name), getattr(wanted, name)
            torch.testing.assert_close(*pair, equal_nan=True, **{"atol": 1e-6, **tight})
        scale = expected.nan_to_num().abs().max().item()
        bound = {"atol": tight.get("atol", 1e-4) * max(scale, 1e-3) * 10, "rtol": tight["rtol"]}
        torch.testing.assert_close(gradient, expected, equal_nan=True, **bound)
        queue = found.entry.into(queue)


@given(data=st.data())
def test_the_native_loss_equals_the_reference(data):
    problem = data.draw(companion_problems("ap"))
    state = init_queue(problem.queue_size, problem.num_classes, dtype=problem.compute_dtype)
    plan, queue = plan_step(SmoothAPConfig(**problem.options)), []
    for given_rows in problem.batches:
        inputs = as_tensors(problem, given_rows)
        side = inputs.side
        rows = Rows(inputs.logits, inputs.targets, side.get("iid_mask"), side.get("sample_weight"))
        outcome, _ = take_step(rows, state, plan)
        event(f"native: {isinstance(outcome.entry, NativeEntry)}")
        by_operators, _ = take_step(rows, state, plan, diagnostics=True)
        args, keywords = reference_arguments(problem, given_rows, queue)
        _, per_class, valid, poisoned, after = companion_step(
            ap_value,
            *args,
            **keywords,
            queue_size=problem.queue_size,
            **options_of_reference("ap", problem),
        )
        doubts = doubtful("ap", problem, given_rows, queue)
        for c in range(problem.num_classes):
            tau = by_operators.stats["tau_eff"][c].item()
            allowed = tolerance_of(problem, given_rows, queue, tau if tau > 0 else math.inf, c).loss
            if doubts[c]:
                continue
            assert outcome.valid[c].item() is valid[c]
            if poisoned[c]:
                assert math.isnan(outcome.per_class[c].item())
            else:
                assert_close(outcome.per_class[c].item(), per_class[c], allowed, f"class {c}")
        queue, state = after, outcome.entry.into(state)


def brute_force(logits, targets, tau):
    """Return the loss of one class in float64 from the matrix of all pairs."""
    scores = logits.double().squeeze(1)
    soft = ((scores.unsqueeze(0) - scores[targets == 1].unsqueeze(1)) / tau).sigmoid()
    rank = 0.5 + soft[:, targets == 1].sum(dim=1)
    return 1 - (rank / (rank + soft[:, targets == 0].sum(dim=1))).mean()


SHAPES = {
    "normal": lambda x: x,
    "ties": lambda x: (2 * x).round() / 2,
    "levels": lambda x: 1e3 * (x > 0),
    "outliers": lambda x: torch.where(x.abs() > 2.5, 1e3 * x, x),
    "cubes": lambda x: x**3,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [0.01, 0.3, 5.0, 1e4])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_many_rows_equal_the_matrix_in_float64(shape, tau, rate, dtype):
    g = torch.Generator().manual_seed(0)
    logits = SHAPES[shape](torch.randn(1500, 1, generator=g, dtype=torch.float64)).to(dtype)
    targets = (torch.rand(1500, generator=g) < rate).long()
    results = []
    for loss_fn in (brute_force, None):
        x = logits.clone().requires_grad_()
        if loss_fn is None:
            options = {"tau_scale": "unit", "temperature": tau}
            value, _ = smooth_ap_loss_fn(x, targets, init_queue(0, 1), **options)
        else:
            value = loss_fn(x, targets, tau)
        value.backward()
        results.append((value.detach().double(), x.grad.double()))
    (expected, by_matrix), (found, gradient) = results
    eps = torch.finfo(dtype).eps
    few = 4 * eps + 1e-12
    assert abs(expected - found) <= few
    # A rank has the error of the width as the dtype holds it.
    assert (gradient - by_matrix).abs().max() <= 30 * few * max(1.0, by_matrix.abs().max(), 1 / tau)


@pytest.mark.parametrize("classes", [1, 3])
def test_the_gradient_is_that_of_the_loss(classes):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(150, classes, generator=g, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, max(classes, 2), (150,), generator=g)
    queue = init_queue(0, classes, dtype=torch.float64)

    def loss(x):
        return smooth_ap_loss_fn(x, targets, queue, tau_scale="unit", temperature=0.5)[0]

    assert torch.autograd.gradcheck(loss, logits, atol=1e-8)
    short = logits.detach()[:20].requires_grad_()
    targets = targets[:20]
    assert torch.autograd.gradgradcheck(loss, short, atol=1e-7)


def test_a_width_too_small_for_bins_declines_where_pairs_are_many():
    g = torch.Generator().manual_seed(2)
    logits, targets = torch.randn(4000, 1, generator=g), torch.arange(4000) % 2
    for temperature, native in ((1e-1, True), (1e-7, False)):
        config = SmoothAPConfig(tau_scale="unit", temperature=temperature)
        outcome, _ = take_step(Rows(logits, targets), init_queue(0, 1), plan_step(config))
        assert isinstance(outcome.entry, NativeEntry) is native


def test_many_classes_of_few_rows_stay_native():
    """Each of them has few pairs, and takes no bins; together they have many."""
    g = torch.Generator().manual_seed(3)
    targets = torch.randint(0, 1000, (1200,), generator=g)
    rows = Rows(torch.randn(1200, 1000, generator=g), targets)
    outcome, _ = take_step(rows, init_queue(0, 1000), plan_step(SmoothAPConfig()))
    assert isinstance(outcome.entry, NativeEntry)


def test_a_queue_that_is_not_finite_is_left_to_the_operators():
    rows = Rows(torch.randn(40, 1), torch.arange(40) % 2)
    queue = init_queue(30, 1)
    queue = take_step(rows, queue, plan_step(SmoothAPConfig()))[0].entry.into(queue)
    queue.scores[0, 7] = math.inf
    outcome, _ = take_step(rows, queue, plan_step(SmoothAPConfig()))
    assert not isinstance(outcome.entry, NativeEntry)
