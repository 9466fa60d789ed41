"""The path without value checks: no read of data, the same numbers, one graph for a schedule."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from pauc import (
    PAUCAtBudgetLoss,
    PAUCSchedule,
    QueueState,
    RecallAtQuantileLoss,
    SmoothAPLoss,
    init_queue,
    pauc_loss_fn,
)
from pauc.config.making import _CHOICES
from pauc.native import extension
from pauc.pairs import blocks
from pauc.pairs import operator as pairs
from pauc.pairs.links import LINKS
from tests.conftest import set_may_look


@pytest.fixture(autouse=True, scope="module")
def _no_native_code():
    """On a CPU, it would take the modules' steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extension, "ext", None)
        yield


def completed(options):
    """Return options with what some of them need beside them."""
    if options.get("weight_scale") == "explained":
        options = {"bce_weight": 0.3, **options}
    if options.get("budget_basis") != "precision":
        return options
    if options["beta"] == 1:  # no precision asks for a wider band
        return {**options, "budget_basis": "fpr"}
    return {
        **options,
        "precision": 0.25 / (0.25 + 0.75 * (1 + options["beta"]) / 2),
        "base_rate": 0.25,
    }


OPTIONS = st.fixed_dictionaries(
    {
        "surrogate": st.sampled_from(["trapezoid", "pairwise", "pairwise"]),
        "alpha": st.sampled_from([0.0, 0.0, 0.1]),
        "beta": st.sampled_from([0.15, 0.5, 1.0]),
        "temperature": st.sampled_from([0.1, 3.0]),
    },
    optional={
        **{
            name: st.sampled_from(values)
            for name, values in _CHOICES.items()
            if name != "surrogate"
        },
        "n_knots": st.sampled_from([3, 7]),
        "max_pool_size": st.just(12),
        "bce_weight": st.just(0.3),
    },
).map(completed)


class Problem(NamedTuple):
    logits: torch.Tensor
    targets: torch.Tensor
    queue: QueueState
    side: dict
    options: dict


@st.composite
def problems(draw):
    """Ties, duplicates at the edges, ignored and non-iid rows, weights; few rows or none."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    classes, multilabel = draw(st.sampled_from([(1, False), (3, False), (2, True)]))
    size, held, rows = (
        draw(st.sampled_from([0, 40])),
        draw(st.integers(0, 40)),
        draw(st.integers(0, 30)),
    )
    distinct = draw(st.sampled_from([3, 9, 10**6]))
    positive = draw(st.sampled_from([0.05, 0.4]))

    def batch(count):
        scores = torch.randint(0, distinct, (count, classes), generator=g) / distinct * 4 - 2
        shape = (count, classes) if multilabel else (count,)
        hit = torch.rand(shape, generator=g) < positive
        target = hit.long() if multilabel or classes == 1 else torch.where(hit, 1, 0)
        if classes == 3:
            target = torch.where(torch.rand(count, generator=g) < 0.2, 2, target)
        target[torch.rand(shape, generator=g) < 0.1] = -100
        return scores, target

    def side(count):
        iid = torch.rand(count, generator=g) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        weight = torch.randint(0, 4, (count,), generator=g) / 2
        return {
            "iid_mask": draw(st.sampled_from([None, iid])),
            "sample_weight": draw(st.sampled_from([None, weight])),
        }

    queue = init_queue(size, classes, multilabel=multilabel, dtype=torch.float64)
    _, queue = pauc_loss_fn(*batch(held), queue, **side(held))
    logits, targets = batch(rows)
    return Problem(logits.double(), targets, queue, side(rows), draw(OPTIONS))


def outcome(problem, validate_args):
    logits = problem.logits.clone().requires_grad_()
    loss, queue = pauc_loss_fn(
        logits,
        problem.targets,
        problem.queue,
        validate_args=validate_args,
        **problem.side,
        **problem.options,
    )
    (gradient,) = torch.autograd.grad(loss.nansum(), logits)
    return loss.detach(), gradient, queue


@given(problems())
def test_without_reads_the_numbers_are_the_same(problem):
    """By the matrix of pairs, by the operator, and by it as where looking would cost."""
    expected = outcome(problem, validate_args=True)
    for operator, looks in ((False, True), (True, True), (True, False)):
        with pytest.MonkeyPatch.context() as patch:
            if operator:
                patch.setattr(pairs, "few_pairs", lambda *_: False)
                patch.setattr(blocks, "few_pairs", lambda *_: False)
                patch.setattr(blocks, "_BLOCK", 3)
                patch.setattr(blocks, "_FEW_THERE", 0)
                patch.setattr(pairs, "ENTRIES", 0)
            set_may_look(patch, looks)
            found = outcome(problem, validate_args=False)
        # The series of the operator is cut at 6e-13 per pair, its slope at 256 times that.
        scale = 1 / problem.options["temperature"] + 1
        assert torch.allclose(found[0], expected[0], atol=1e-9 * scale, equal_nan=True)
        assert torch.allclose(found[1], expected[1], atol=1e-7 * scale)
        assert all(torch.equal(a, b) for a, b in zip(found[2], expected[2], strict=True))


# --- what an accelerator would have to wait for ---
# A tensor on the device "meta" has no data: whoever asks for some, or for a shape that depends on
# some, gets an error. And there, as on an accelerator, the operators may not look.


@given(
    options=OPTIONS,
    classes=st.sampled_from([(1, False), (3, False), (2, True)]),
    rows=st.sampled_from([0, 1, 90]),
    size=st.sampled_from([0, 1, 90, 2000]),
    sides=st.booleans(),
    validate_args=st.booleans(),
)
def test_no_step_reads_data(options, classes, rows, size, sides, validate_args):
    """With value checks, too: there the device makes them."""
    num_classes, multilabel = classes
    shape = {"multilabel": multilabel, "queue_size": size, "validate_args": validate_args}
    loss_fn = PAUCAtBudgetLoss(num_classes, **shape, **options).to("meta")
    logits = torch.empty(rows, num_classes, device="meta", requires_grad=True)
    shape = (rows, num_classes) if multilabel else (rows,)
    loss, *_ = loss_fn(
        logits,
        torch.empty(shape, dtype=torch.int64, device="meta"),
        torch.empty(rows, dtype=torch.bool, device="meta") if sides else None,
        return_per_class=True,
        return_diagnostics=True,
        sample_weight=torch.empty(rows, device="meta") if sides else None,
    )
    loss.sum().backward()
    assert logits.grad.shape == logits.shape


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize(("positives", "negatives"), [(0, 5), (40, 60), (5000, 900)])
def test_the_operator_reads_no_data_where_that_costs(positives, negatives, link):
    x, y = torch.empty(positives, device="meta"), torch.empty(3, negatives, device="meta")
    index = torch.empty(positives, dtype=torch.int64, device="meta")
    made = blocks.make_pairs(x, index, x > 0, y, torch.empty_like(y), y[:, 0])
    assert blocks.sums(made, LINKS[link]).shape == x.shape
    by_x, by_y = blocks.gradients(x, made, LINKS[link])
    assert by_x.shape == x.shape
    assert by_y.numel() >= y.numel()


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        ({"targets": 2}, r"targets must be whole numbers in 0\.\.1 or ignore_index=-100"),
        ({"sample_weight": -1.0}, "sample_weight must be finite and non-negative"),
    ],
)
def test_the_device_refuses_what_is_illegal(spoil, error, monkeypatch):
    set_may_look(monkeypatch, False)
    loss_fn = PAUCAtBudgetLoss(1, queue_size=9)
    logits, targets = batch(0)
    given = {"targets": targets, "sample_weight": torch.ones(64)}
    loss_fn(logits, **given)
    before = [part.clone() for part in loss_fn.queue]
    for name, value in spoil.items():
        given[name][5] = value
    with pytest.raises(RuntimeError, match=error):
        loss_fn(logits, **given)
    assert all(map(torch.equal, loss_fn.queue, before))


def test_the_guard_can_fail():
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(3, device="meta").sum().item()
    with pytest.raises(NotImplementedError):
        torch.empty(3, device="meta").nonzero()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pauc.backends.may_look", lambda _: True)
        validating = PAUCAtBudgetLoss(1, queue_size=0).to("meta")
        with pytest.raises((RuntimeError, NotImplementedError)):
            validating(torch.empty(9, 1, device="meta"), torch.empty(9, device="meta").long())


# --- what a CUDA graph, and a compiled one, rest on ---


def batch(seed, count=64, device="cpu"):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (count,), generator=g).eq(0).long()
    logits = torch.randn(count, 1, generator=g)
    return logits.to(device).requires_grad_(), targets.to(device)


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_the_queue_stays_where_it_is(surrogate):
    loss_fn = PAUCAtBudgetLoss(1, queue_size=150, surrogate=surrogate, validate_args=False)
    before = [part.data_ptr() for part in loss_fn.queue]
    for seed in range(4):
        loss_fn(*batch(seed)).backward()
    assert [part.data_ptr() for part in loss_fn.queue] == before
    assert int(loss_fn.queue_fill) == 150


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_a_whole_step_in_a_cuda_graph(surrogate):
    """Forward, backward and the queue's update, replayed on new data."""
    options = {"queue_size": 9000, "surrogate": surrogate, "beta": 0.2, "validate_args": False}
    captured, eager = (PAUCAtBudgetLoss(1, **options).cuda() for _ in range(2))
    schedules = [PAUCSchedule(loss_fn, **SCHEDULE) for loss_fn in (captured, eager)]
    logits, targets = batch(0, count=2000, device="cuda")

    def step(loss_fn):
        loss = loss_fn(logits, targets)
        (gradient,) = torch.autograd.grad(loss, logits)
        return loss.detach(), gradient

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(captured)
    torch.cuda.current_stream().wait_stream(stream)
    captured.reset_queue()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(captured)
    for seed in range(7):  # the queue fills up and wraps
        new_logits, new_targets = batch(seed, count=2000, device="cuda")
        with torch.no_grad():
            logits.copy_(new_logits)
            targets.copy_(new_targets)
        graph.replay()
        for a, b in zip(found, step(eager), strict=True):
            torch.testing.assert_close(a, b)
        for schedule in schedules:
            schedule.step()
    assert torch.equal(captured.queue_scores, eager.queue_scores)


@pytest.mark.parametrize(
    "options",
    [
        {"surrogate": "pairwise", "link": "logistic"},
        {"n_knots": 3, "edge_gradient": "implicit"},
    ],
    ids=str,
)
def test_a_recorded_step_replays_on_other_data_and_other_numbers(options):
    """What a CUDA graph does, on any device: operators are recorded once, with what is read."""

    def step(logits, targets, queue, numbers):
        moving = dict(zip(("alpha", "beta", "temperature", "bce_weight"), numbers, strict=True))
        loss, queue = pauc_loss_fn(logits, targets, queue, validate_args=False, **moving, **options)
        return loss, torch.autograd.grad(loss, logits)[0], queue

    def numbers_at(step):
        values = (0.1 * (step % 2), 0.2 * (1 + step), 0.5 / (1 + step), 0.3 * (step % 3))
        return torch.tensor(values, dtype=torch.float64).unbind()

    queue = init_queue(150, 1)
    recorded = make_fx(step)(*batch(0), queue, numbers_at(1))
    for seed in range(5):  # the queue fills up and wraps
        logits, targets = batch(seed)
        numbers = numbers_at(seed)
        expected = step(logits, targets, queue, [float(number) for number in numbers])
        loss, gradient, after = recorded(logits, targets, queue, numbers)
        torch.testing.assert_close((loss, gradient), expected[:2])
        assert all(map(torch.equal, after, expected[2]))
        queue = after


SCHEDULE = {
    "warmup_steps": 2,
    "blend_steps": 3,
    "anneal_steps": 5,
    "beta_start": 1.0,
    "temperature_start": 1.0,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "diagnostics"),
    [
        ({"surrogate": "pairwise", "alpha": 0.01, "bce_weight": 0.1}, False),
        ({"surrogate": "pairwise", "bce_weight": 0.1}, True),
        ({"n_knots": 3, "edge_gradient": "implicit", "alpha": 0.01, "bce_weight": 0.1}, False),
        ({"surrogate": "trapezoid"}, False),  # the BCE goes at the end
    ],
    ids=str,
)
def test_a_whole_schedule_and_a_queue_that_fills_up_take_one_graph(options, diagnostics):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = [
        PAUCAtBudgetLoss(1, queue_size=200, beta=0.05, validate_args=False, **options)
        for _ in range(2)
    ]
    schedules = [PAUCSchedule(loss_fn, **SCHEDULE) for loss_fn in losses]
    calls = [torch.compile(losses[0], fullgraph=True, backend="aot_eager"), losses[1]]
    for seed in range(10):
        logits, targets = batch(seed)
        results = (
            [call(logits, targets, return_diagnostics=True) for call in calls]
            if diagnostics
            else [(call(logits, targets), {}) for call in calls]
        )
        (loss, stats), (expected, expected_stats) = results
        assert torch.allclose(loss, expected, atol=1e-5)
        gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
        assert torch.allclose(*gradients, atol=1e-5)
        for name, value in expected_stats.items():
            assert torch.allclose(stats[name], value, atol=1e-5, equal_nan=True), name
        for schedule in schedules:
            schedule.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("cls", [RecallAtQuantileLoss, SmoothAPLoss])
def test_the_other_losses_take_one_graph_too(cls):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = [cls(1, queue_size=200, validate_args=False) for _ in range(2)]
    moves = {"warmup_steps": 1, "blend_steps": 2, "anneal_steps": 3, "temperature_start": 1.0}
    schedules = [PAUCSchedule(loss_fn, **moves) for loss_fn in losses]
    calls = [torch.compile(losses[0], fullgraph=True, backend="aot_eager"), losses[1]]
    for seed in range(6):
        logits, targets = batch(seed)
        assert torch.allclose(*(call(logits, targets) for call in calls), atol=1e-5)
        for schedule in schedules:
            schedule.step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_a_config_that_a_person_sets_reaches_a_compiled_step():
    torch._dynamo.reset()
    loss_fn = PAUCAtBudgetLoss(1, queue_size=0, beta=0.2, validate_args=False)
    PAUCSchedule(loss_fn, anneal_steps=2, temperature_start=1.0)
    compiled = torch.compile(loss_fn, fullgraph=True, backend="aot_eager")
    logits, targets = batch(0)
    values = []
    for temperature in (1.0, 0.01):
        loss_fn.config = loss_fn.config._replace(temperature=temperature)
        values.append(compiled(logits, targets))
        assert torch.allclose(values[-1], loss_fn(logits, targets), atol=1e-6)
    assert abs(values[0] - values[1]) > 0.01


@pytest.mark.slow
def test_a_beta_that_is_a_tensor_makes_one_graph_of_a_function_too():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def loss_of(logits, targets, queue, beta):
        return pauc_loss_fn(logits, targets, queue, beta=beta, max_beta=0.6)

    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    queue = init_queue(600, 1)
    for step in range(10):
        logits, targets = batch(step)
        beta = 0.6 * 0.6**step
        expected, _ = pauc_loss_fn(logits, targets, queue, beta=beta)
        loss, queue = compiled(logits, targets, queue, torch.tensor(beta, dtype=torch.float64))
        assert torch.allclose(loss, expected, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_many_pairs_are_one_node_of_a_compiled_graph():
    """A training step under fullgraph, in a pool where the operator does the sums."""
    torch._dynamo.reset()
    options = {"queue_size": 2000, "beta": 0.1, "surrogate": "pairwise", "validate_args": False}
    module, eager = (PAUCAtBudgetLoss(1, **options) for _ in range(2))
    assert not pairs.few_pairs(2300, 1, 2300)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        logits, targets = batch(seed, count=300)
        values = [call(logits, targets) for call in (compiled, eager)]
        gradients = [torch.autograd.grad(value, logits)[0] for value in values]
        assert torch.allclose(*values, atol=1e-6)
        assert torch.allclose(*gradients, atol=1e-6)
        assert gradients[0].abs().sum() > 0
