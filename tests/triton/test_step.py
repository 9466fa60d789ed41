"""The Triton step against the oracle and the operators: loss, gradient, and the rows that enter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

import pauc
from pauc.backends import Plan, plan_step, take_step
from pauc.config import make_config
from pauc.core.batch import Rows
from pauc.triton.options import SUPPORT
from tests.core.test_loss_against_oracle import (
    as_rows,
    as_tensors,
    check_class,
    check_losses,
    degenerate_is_specified,
    largest_score,
    reference_arguments,
    reference_of,
    tolerance,
)
from tests.core.test_multilabel import (
    as_labelled_rows,
    check_against_reference,
    multilabel_problems,
)
from tests.core.test_multilabel import as_tensors as labelled_tensors
from tests.oracles.knife_edges import classes_in_doubt
from tests.oracles.reference_multilabel import advance
from tests.oracles.strategies import Batch, Problem, problems

pytestmark = [
    pytest.mark.usefixtures("small_blocks", "everywhere"),
    # NumPy, in which the interpreter computes, warns of a nan or infinite logit; a GPU does not.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning"),
]

# The interpreter takes some hundred milliseconds a step.
few = settings(
    max_examples=min(settings().max_examples, 20),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink takes minutes
    deadline=None,
)
NOT_COMPUTED = SUPPORT.at_default


def supported(problem: Problem) -> Problem:
    options = {k: v for k, v in problem.options.items() if k not in NOT_COMPUTED}
    return problem._replace(options=options)


def triton_step(rows: Rows, queue, options, again=None, check_values=True):
    """The outcome of the kernels, which must not decline."""
    from pauc.triton.step import take_step as by_kernels

    plan = plan_step(make_config(options))
    outcome = by_kernels(rows, queue, plan.triton, again, check_values=check_values)
    assert outcome is not None
    return outcome


def by_operators(rows: Rows, queue, options):
    plan = Plan(make_config(options), None)
    return take_step(rows, queue, plan, validate_args=False)[0]


def check_outcome(problem: Problem, batch: Batch, queue, outcome, expected) -> None:
    """Against the oracle, but for the classes that rounding decides."""
    args, keywords = reference_arguments(problem, batch, queue)
    doubts = classes_in_doubt(*args, **keywords, **problem.options)
    allowed = []
    for c in range(problem.num_classes):
        tau = expected.stats["tau_eff"][c]
        tol = tolerance(problem, batch, queue, tau if tau > 0 else math.inf, c)
        entropy = 64 * problem.eps * (1 + largest_score(batch, queue, c))
        allowed.append(tol.loss + problem.options.get("bce_weight", 0.0) * entropy)
        assert outcome.ref_count[c].item() == expected.stats["ref_count"][c]
        if doubts[c]:
            continue
        assert outcome.valid[c].item() is expected.valid[c]
        if expected.poisoned[c]:
            assert math.isnan(outcome.per_class[c].item())
            continue
        check_class(
            {"per_class": outcome.per_class.tolist()}, {"per_class": expected.per_class}, tol, c
        )
        if degenerate_is_specified(expected, c):
            assert outcome.degenerate[c].item() is expected.degenerate[c]
    check_losses(outcome.loss, expected, allowed, doubts)


ONE_ROW = Problem(1, 0, "float32", {}, [Batch([[0.5]], [1], None, None, False)])
ALL_EQUAL = Problem(
    2, 4, "float32", {}, [Batch([[1.0, 1.0]] * 5, [0, 1, 0, 1, -100], None, None, False)] * 2
)


@few
@example(ONE_ROW)
@example(ONE_ROW._replace(options={"surrogate": "pairwise"}))
@example(ALL_EQUAL)
@example(ALL_EQUAL._replace(options={"surrogate": "pairwise", "tau_scale": "unit", "beta": 1.0}))
@given(problems(dtypes=("float32", "float16", "bfloat16")).map(supported))
def test_steps_equal_the_oracle(problem):
    """Ties, no positives, ignored rows, rows that are not iid, weights, nan, a queue that wraps."""
    state = pauc.init_queue(problem.queue_size, problem.num_classes)
    queue: list = []
    for batch in problem.batches:
        if not batch.targets:
            continue  # a batch without rows is left to the operators
        inputs = as_tensors(problem, batch)
        rows = Rows(inputs.logits, inputs.targets, inputs.iid_mask, inputs.sample_weight)
        outcome = triton_step(rows, state, problem.options)
        expected = reference_of(problem, batch, queue)
        check_outcome(problem, batch, queue, outcome, expected)
        check_gradient(problem, batch, queue, rows, state, outcome)
        queue, state = expected.queue, outcome.entry.into(state)
        assert as_rows(state) == queue


def check_gradient(problem, batch, queue, rows, state, outcome) -> None:
    """Against the operators, but where rounding decides a class."""
    args, keywords = reference_arguments(problem, batch, queue)
    if not any(classes_in_doubt(*args, **keywords, **problem.options)):
        compare_gradients(rows, state, outcome, problem.options)


def compare_gradients(rows, state, outcome, options) -> None:
    """With that of the operators in float64, on the same float32 rows."""
    logits = rows.logits.detach().double().requires_grad_()
    wide = state._replace(scores=state.scores.double(), weight=state.weight.double())
    expected = by_operators(rows._replace(logits=logits), wide, options)
    (wanted,) = torch.autograd.grad(expected.loss[expected.valid].sum()
                                    if expected.loss.ndim else expected.loss, logits)  # fmt: skip
    loss = outcome.loss[outcome.valid].sum() if outcome.loss.ndim else outcome.loss
    (found,) = torch.autograd.grad(loss, rows.logits)
    assert found.dtype == rows.logits.dtype
    # In the dtype of the logits a gradient has the digits of that dtype.
    digits = {torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}[found.dtype]
    largest = wanted.nan_to_num().abs().max().item()
    assert torch.allclose(
        found.double(), wanted, rtol=digits, atol=digits * largest + 1e-7, equal_nan=True
    )


@few
@given(multilabel_problems(dtypes=("float32", "float16", "bfloat16")).map(supported))
def test_multilabel_steps_equal_the_oracle(problem):
    """Labels that are missing, for a class or for all of a row's; the queue has them as well."""
    size, classes = problem.queue_size, problem.num_classes
    state = pauc.init_queue(size, classes, multilabel=True)
    ignore_index = problem.options.get("ignore_index", -100)
    queue: list = []
    for batch in problem.batches:
        if not batch.targets:
            continue
        logits, targets, more = labelled_tensors(problem, batch)
        rows = Rows(logits, targets, more["iid_mask"], more["sample_weight"])
        outcome = triton_step(rows, state, problem.options)
        doubts = check_against_reference(problem, batch, queue, outcome)
        if not any(doubts):
            compare_gradients(rows, state, outcome, problem.options)
        side = batch.iid, batch.weight, size, ignore_index
        queue = advance(queue, logits.tolist(), batch.targets, *side)
        state = outcome.entry.into(state)
        assert as_labelled_rows(state) == queue


@settings(few, max_examples=8)
@given(
    classes=st.sampled_from([1, 3]),
    size=st.integers(0, 40),
    count=st.integers(1, 30),
    kind=st.sampled_from(["normal", "ties", "constant"]),
    surrogate=st.sampled_from(["trapezoid", "pairwise"]),
    seed=st.integers(0, 2**20),
)
def test_a_module_takes_the_steps_that_it_takes_by_operators(
    classes, size, count, kind, surrogate, seed
):
    """Whole modules over several batches, whatever the sizes are beside those of the blocks."""
    g = torch.Generator().manual_seed(seed)
    options = {"queue_size": size, "surrogate": surrogate, "beta": 0.2}
    found = pauc.PAUCAtBudgetLoss(classes, **options)
    wanted = pauc.PAUCAtBudgetLoss(classes, **options)
    wanted._plan = wanted._plan._replace(triton=None, native=None)
    found._seen.kinds = wanted._seen.kinds = {"degenerate", "starved"}
    for _ in range(2):
        logits = torch.randn(count, classes, generator=g)
        if kind != "normal":
            logits = logits.round() if kind == "ties" else torch.zeros_like(logits)
        targets = torch.randint(0, max(classes, 2), (count,), generator=g)
        a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        ours, theirs = found(a, targets), wanted(b, targets)
        ours.backward()
        theirs.backward()
        assert type(ours.grad_fn).__name__ == "_AttachedBackward"
        assert torch.allclose(ours, theirs, atol=2e-6)
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7)
        assert all(torch.equal(x, y) for x, y in zip(found.queue, wanted.queue, strict=True))
