"""The pure function under torch.func, torch.compile and without host synchronisation."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pauc import PAUCAtBudgetLoss, QueueState, enqueue, init_queue, pauc_loss_fn

# Rows of random scores have the precision here and there.
PRECISION = {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.45}
OPTIONS = [
    {"surrogate": "trapezoid"},
    {"surrogate": "trapezoid", "tau_scale": "band", "alpha": 0.05, "beta": 0.6, "n_knots": 4},
    {"surrogate": "trapezoid", "edge_gradient": "implicit", "beta": 0.2, "bce_weight": 0.5},
    {"surrogate": "pairwise", "beta": 0.1},
    {"surrogate": "pairwise", "beta": 0.2, "link": "logistic", "gradient_scale": "live"},
    {"surrogate": "pairwise", "beta": 0.2, "max_pool_size": 90},
    {"surrogate": "pairwise", "beta": 0.02, **PRECISION},
    {
        "surrogate": "trapezoid",
        "n_knots": 3,
        "beta": 0.02,
        "edge_gradient": "implicit",
        **PRECISION,
    },
]


def batch(num_classes, seed, count=64):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, max(num_classes, 2), (count,), generator=g)
    targets[:3] = -100
    return torch.randn(count, num_classes, generator=g), targets


def warm_queue(num_classes, size=150):
    queue = init_queue(size, num_classes)
    for seed in range(3):
        queue = enqueue(queue, *batch(num_classes, 100 + seed))
    return queue


def assert_same_state(state, other):
    assert all(torch.equal(a, b) for a, b in zip(state, other, strict=True))


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_func_grad_with_the_queue_as_aux(options, num_classes):
    logits, targets = batch(num_classes, 0)
    queue = warm_queue(num_classes)

    def step(logits):
        return pauc_loss_fn(logits, targets, queue, **options)

    gradient, new_queue = torch.func.grad(step, has_aux=True)(logits)
    attached = logits.clone().requires_grad_()
    loss, expected_queue = step(attached)
    loss.backward()
    assert torch.allclose(gradient, attached.grad, atol=1e-7)
    assert_same_state(new_queue, expected_queue)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vmap_over_an_ensemble(options, num_classes):
    members = [batch(num_classes, seed)[0] for seed in range(4)]
    _, targets = batch(num_classes, 0)
    queues = [warm_queue(num_classes) for _ in members]
    queues = [q._replace(scores=q.scores + i) for i, q in enumerate(queues)]
    stacked = QueueState(*(torch.stack(tensors) for tensors in zip(*queues, strict=True)))

    def step(logits, queue):
        return pauc_loss_fn(logits, targets, queue, validate_args=False, **options)

    losses, new_queues = torch.func.vmap(step)(torch.stack(members), stacked)
    for i, (logits, queue) in enumerate(zip(members, queues, strict=True)):
        loss, new_queue = step(logits, queue)
        assert torch.allclose(losses[i], loss, atol=1e-6)
        assert_same_state([tensor[i] for tensor in new_queues], new_queue)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"surrogate": "trapezoid", "n_knots": 3},
        {"surrogate": "pairwise", "link": "logistic", "gradient_scale": "live"},
        {"surrogate": "pairwise", **PRECISION},
    ],
    ids=str,
)
def test_compiled_training_step_equals_eager(options):
    """Inductor, one graph, several steps: losses, gradients and queues as in eager mode."""
    torch._dynamo.reset()

    def step(weight, features, targets, queue):
        logits = features @ weight
        loss, new_queue = pauc_loss_fn(logits, targets, queue, beta=0.1, **options)
        (gradient,) = torch.autograd.grad(loss, weight)
        return loss.detach(), gradient, new_queue

    def forward(weight, features, targets, queue):
        return pauc_loss_fn(features @ weight, targets, queue, beta=0.1, **options)

    compiled = torch.compile(forward, fullgraph=True)
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 2, generator=g, requires_grad=True)
    eager_queue = compiled_queue = init_queue(150, 2)
    for seed in range(4):  # the queue fills up and wraps
        features = torch.randn(64, 5, generator=g)
        _, targets = batch(2, seed)
        loss, gradient, eager_queue = step(weight, features, targets, eager_queue)
        other, compiled_queue = compiled(weight, features, targets, compiled_queue)
        (other_gradient,) = torch.autograd.grad(other, weight)
        # float32 in another order of operations
        assert torch.allclose(other, loss, atol=1e-5)
        assert torch.allclose(other_gradient, gradient, atol=1e-5)
        assert torch.allclose(compiled_queue.scores, eager_queue.scores, atol=1e-6)
        assert_same_state(compiled_queue[1:], eager_queue[1:])
        compiled_queue = eager_queue


@pytest.mark.slow
def test_compiled_module_trains_and_keeps_its_queue_in_place():
    torch._dynamo.reset()
    eager = PAUCAtBudgetLoss(1, queue_size=100, beta=0.2, validate_args=False)
    module = PAUCAtBudgetLoss(1, queue_size=100, beta=0.2, validate_args=False)
    compiled = torch.compile(module, fullgraph=True)
    places = [part.data_ptr() for part in module.queue]
    for seed in range(3):
        logits, targets = batch(1, seed)
        assert torch.allclose(compiled(logits, targets), eager(logits, targets), atol=1e-6)
    assert_same_state(module.queue, eager.queue)
    assert [part.data_ptr() for part in module.queue] == places


@pytest.mark.slow
def test_same_sizes_compile_once_and_a_schedule_of_numbers_does_not_break_the_graph():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(
        lambda logits, targets, queue, temperature, bce_weight: pauc_loss_fn(
            logits,
            targets,
            queue,
            beta=0.2,
            temperature=temperature,
            bce_weight=bce_weight,
        ),
        fullgraph=True,
        backend="aot_eager",
    )
    queue = init_queue(150, 1)
    for seed in range(8):  # the queue fills up and wraps; the numbers change each step
        logits, targets = batch(1, seed)
        options = {"temperature": 1.0 / (1 + seed), "bce_weight": 0.5 + 0.1 * seed}
        expected, _ = pauc_loss_fn(logits, targets, queue, beta=0.2, **options)
        loss, queue = compiled(logits, targets, queue, *options.values())
        assert torch.allclose(loss, expected, atol=1e-6)
    # One graph for constants, one once the numbers turn out to change.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@pytest.mark.slow
def test_a_schedule_of_the_band_meets_a_handful_of_graphs():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(
        lambda logits, targets, queue, beta: pauc_loss_fn(logits, targets, queue, beta=beta),
        fullgraph=True,
        backend="aot_eager",
    )
    queue = init_queue(600, 1)
    for step in range(12):
        logits, targets = batch(1, step)
        beta = 0.6 * 0.7**step
        expected, _ = pauc_loss_fn(logits, targets, queue, beta=beta)
        loss, queue = compiled(logits, targets, queue, beta)
        assert torch.allclose(loss, expected, atol=1e-6)
    # One for the first number, and one for each factor of four that the band passes.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 5


class NoHostReads(TorchDispatchMode):
    """Fails on operators that make the host wait for data or give shapes that depend on it."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name.startswith(word) for word in self.FORBIDDEN), f"host read: {name}"
        if name == "index":  # a boolean index is a hidden nonzero
            assert all(i is None or i.dtype != torch.bool for i in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_host_synchronisation_without_value_checks(options, num_classes):
    module = PAUCAtBudgetLoss(num_classes, queue_size=100, validate_args=False, **options)
    logits, targets = batch(num_classes, 0)
    module(logits, targets)
    logits.requires_grad_()
    with NoHostReads():
        loss, *_ = module(
            logits,
            targets,
            torch.rand(64) < 0.5,
            return_per_class=True,
            return_diagnostics=True,
            sample_weight=torch.rand(64),
        )
        loss.backward()


def test_the_guard_against_host_reads_can_fail():
    with pytest.raises(AssertionError, match="host read"), NoHostReads():
        torch.tensor([1.0, 2.0]).sum().item()
    with pytest.raises(AssertionError), NoHostReads():
        torch.arange(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_static_sizes_give_the_same_numbers(options, num_classes):
    """The path without reads sizes its work by shapes; the numbers must not notice."""
    logits, targets = batch(num_classes, 0)
    queue = warm_queue(num_classes)
    results = []
    for validate_args in (True, False):
        attached = logits.clone().requires_grad_()
        loss, new_queue = pauc_loss_fn(
            attached, targets, queue, validate_args=validate_args, **options
        )
        loss.backward()
        results.append((loss.detach(), attached.grad, new_queue))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-7)
    assert_same_state(results[0][2], results[1][2])
