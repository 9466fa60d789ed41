"""The native step as an operator: against the direct call, and in the hands of who watches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from pauc import (
    PAUCAtBudgetLoss,
    PAUCSchedule,
    QueueState,
    enqueue,
    init_queue,
    pauc_loss_fn,
    pauc_loss_terms,
)
from pauc.config import make_config
from pauc.core.batch import Rows
from pauc.native import extension
from pauc.native.operator import Found, encode
from pauc.native.options import native_options
from pauc.native.step import WINDOWS, compute
from tests.modules.test_held_queue import batch as held_batch
from tests.modules.test_held_queue import trained
from tests.native.test_step import OPTIONS, by_operators, stream

pytestmark = [
    pytest.mark.skipif(extension.ext is None, reason="installed without a compiler"),
    pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # torch's own
]
step_operator = torch.ops.pauc.native_step
STEPS, ENTRIES = "pauc.native_step.default", "pauc.native_enter_.default"


def batch(seed, count=60, classes=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, max(classes, 2), (count,), generator=g)
    targets[:2] = -100
    return torch.randn(count, classes, generator=g, dtype=dtype).requires_grad_(), targets


def warm_queue(classes=1, size=150, **options):
    queue = init_queue(size, classes, **options)
    for seed in range(3):
        queue = enqueue(queue, *batch(100 + seed, 64, classes, queue.scores.dtype))
    return queue


def equal(found, expected):
    return all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, expected, strict=True)
    )


def call(rows, queue, bounds=None, check_values=True, **options):
    """The operator's outputs."""
    numbers, words = encode(make_config(options))
    return Found(*step_operator(*rows, *queue, bounds, numbers, words, check_values))


class Calls(TorchDispatchMode):
    """Counts how often each operator is called."""

    def __init__(self):
        super().__init__()
        self.of = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.of[str(func)] = self.of.get(str(func), 0) + 1
        return func(*args, **(kwargs or {}))


# --- the operators ---


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_finds_what_the_direct_call_finds(options):
    queue = warm_queue(3, dtype=torch.float64)
    config = make_config(options)
    for logits, targets, iid, weight in stream("ties", 3, 5, 80, seed=2):
        rows = Rows(logits, targets, iid, weight)
        bounds = torch.full((3, 3, 2), torch.nan, dtype=torch.float64)
        before = bounds.clone()
        found = call(rows, queue, bounds, **options)
        assert equal([bounds], [before])
        entry, expected, factor, bounds = compute(
            rows, logits, queue, bounds, native_options(config), check_values=True
        )
        assert equal(found[:5], expected[:5])
        assert equal([found.bounds, found.slopes], [bounds, expected.gradient])
        whole = factor * expected.gradient if expected.whole is None else expected.whole
        assert equal([found.whole], [whole])
        queue = entry.into(queue)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_the_native_step_declines_is_computed_by_operators(reduction):
    options = {"beta": 1.0, "surrogate": "pairwise", "bce_weight": 0.3, "reduction": reduction}
    logits, targets = torch.randn(24_000, 2), torch.arange(24_000) % 2
    rows, queue = Rows(logits.requires_grad_(), targets), init_queue(0, 2)
    assert (
        compute(rows, logits, queue, None, native_options(make_config(options)), check_values=True)
        is None
    )
    with torch.no_grad(), torch.inference_mode():
        found = call(rows, queue, **options)
    expected = by_operators(logits, targets, queue, **options)
    assert equal(found[:5], expected[:5])
    for value, slopes in ((expected.loss, found.whole), (expected.per_class, found.slopes)):
        (gradient,) = torch.autograd.grad(value.sum(), logits, retain_graph=True)
        assert torch.equal(slopes, gradient)
        assert gradient.any()


def arguments_of_a_step(classes, *, multilabel=False, **options):
    queue = init_queue(150, classes, multilabel=multilabel)
    logits, targets = batch(0, 40, classes)
    if multilabel:
        targets = (torch.arange(40 * classes) % 3 // 2).reshape(40, classes)
    rows = logits.detach(), targets, torch.arange(40) % 5 > 0, torch.rand(40)
    queue = enqueue(queue, *rows[:2], iid_mask=rows[2], sample_weight=rows[3])
    numbers, words = encode(make_config({"beta": 0.3, **options}))
    return (*rows, *queue, torch.zeros(classes, WINDOWS, 2), numbers, words, True)


@pytest.mark.slow
@pytest.mark.parametrize("given", [
    arguments_of_a_step(1),
    arguments_of_a_step(2, surrogate="pairwise", reduction="none"),
    arguments_of_a_step(2, multilabel=True, bce_weight=0.5),
], ids=["trapezoid", "pairs", "multilabel"])  # fmt: skip
@pytest.mark.parametrize("name", ["native_step", "differentiable_native_step"])
def test_torch_finds_no_fault_with_the_step(name, given):
    logits, *others = given
    needs_gradient = name.startswith("diff")
    operator = getattr(torch.ops.pauc, name).default
    torch.library.opcheck(operator, (logits.requires_grad_(needs_gradient), *others))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native_enter", "native_enter_"])
@pytest.mark.parametrize("multilabel", [False, True])
def test_torch_finds_no_fault_with_the_entry(name, multilabel):
    rows_and_queue = arguments_of_a_step(2, multilabel=multilabel)[:-4]
    torch.library.opcheck(getattr(torch.ops.pauc, name).default, (*rows_and_queue, -100))


def test_numbers_that_come_from_tensors_are_checked_where_they_are_read():
    rows, queue = Rows(*batch(0)), warm_queue()
    numbers, words = encode(make_config({}))
    for place, value, message in (
        (1, 1.5, "alpha and beta must satisfy"),
        (0, torch.nan, "alpha and beta must satisfy"),
        (2, -1.0, "temperature must be above 0, got -1.0"),
        (3, torch.inf, "bce_weight must be finite"),
    ):
        wrong = numbers.clone()
        wrong[place] = value
        with pytest.raises(ValueError, match=message):
            step_operator(*rows, *queue, None, wrong, words, False)


# --- torch.func ---


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_func_takes_the_gradient_of_one_call(options):
    queue = warm_queue(2)
    logits, targets = batch(0, classes=2)

    def loss_of(logits):
        loss, after = pauc_loss_fn(logits, targets, queue, **options)
        return loss.sum(), after

    with Calls() as calls:
        gradient, after = torch.func.grad(loss_of, has_aux=True)(logits.detach())
    assert calls.of[STEPS] == calls.of["pauc.native_enter.default"] == 1
    assert sum(calls.of.values()) < 60, calls.of
    loss, expected = loss_of(logits)
    loss.backward()
    assert torch.equal(gradient, logits.grad)
    assert equal(after, expected)


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_vmap_over_heads_is_a_loop_over_heads(options, validate_args):
    heads = torch.stack([batch(seed, classes=2)[0].detach() for seed in range(4)], dim=1)
    queues = [warm_queue(2)._replace(scores=torch.randn(2, 150)) for _ in range(4)]
    stacked = QueueState(*(torch.stack(parts) for parts in zip(*queues, strict=True)))
    targets, weight = batch(0, classes=2)[1], torch.rand(60)

    def loss_of(logits, queue):
        loss, after = pauc_loss_fn(
            logits, targets, queue, sample_weight=weight, validate_args=validate_args, **options
        )
        return loss.sum(), after

    of_one = torch.func.grad(loss_of, has_aux=True)
    gradients, after = torch.func.vmap(of_one, in_dims=(1, 0))(heads, stacked)
    losses, _ = torch.func.vmap(loss_of, in_dims=(1, 0))(heads, stacked)
    for k, queue in enumerate(queues):
        gradient, expected = of_one(heads[:, k], queue)
        assert torch.equal(gradients[k], gradient)
        assert torch.equal(losses[k], loss_of(heads[:, k], queue)[0])
        assert equal([part[k] for part in after], expected)


def test_an_illegal_target_is_named_under_vmap():
    queue, (logits, targets) = warm_queue(), batch(0)
    targets[7] = 5
    heads = logits.detach().expand(3, 60, 1)
    with pytest.raises(ValueError, match=r"targets must be .* got 5 in row 7"):
        torch.func.vmap(lambda x: pauc_loss_fn(x, targets, queue)[0])(heads)


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_derivatives_of_any_kind_are_those_of_the_operators(surrogate, monkeypatch):
    queue, (logits, targets) = warm_queue(2, dtype=torch.float64), batch(0, 20, 2, torch.float64)
    logits = logits.detach()
    options = {"beta": 0.3, "bce_weight": 0.2, "surrogate": surrogate}

    def value(logits):
        terms = pauc_loss_terms(logits, targets, queue, **options)
        return terms.loss.square() + terms.per_class.prod()

    transforms = {
        "twice": torch.func.jacrev(torch.func.grad(value)),
        "hessian": torch.func.hessian(value),
        "forward": torch.func.jacfwd(value),
        "of the parts": torch.func.jacrev(
            lambda x: pauc_loss_terms(x, targets, queue, **options).per_class
        ),
    }
    found = {name: transform(logits) for name, transform in transforms.items()}
    monkeypatch.setattr(extension, "ext", None)
    for name, transform in transforms.items():
        torch.testing.assert_close(found[name], transform(logits), rtol=1e-6, atol=1e-10)
        assert found[name].any()


def test_a_gradient_by_an_option_is_that_of_the_operators():
    queue, (logits, targets) = warm_queue(), batch(0)

    def loss_of(temperature):
        return pauc_loss_fn(logits.detach(), targets, queue, beta=0.3, temperature=temperature)[0]

    at = torch.tensor(0.5, dtype=torch.float64)
    slope = torch.func.grad(loss_of)(at)
    difference = (loss_of(0.51) - loss_of(0.49)) / 0.02
    torch.testing.assert_close(slope.float(), difference, rtol=1e-2, atol=1e-5)
    assert slope != 0


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_who_records_operators_finds_one_call(pre_dispatch):
    queue = warm_queue()

    def step(logits, targets):
        loss, after = pauc_loss_fn(logits, targets, queue, beta=0.5)
        return loss, torch.autograd.grad(loss, logits)[0], after

    recorded = make_fx(step, pre_dispatch=pre_dispatch)(*batch(0))
    called = [str(node.target) for node in recorded.graph.nodes]
    assert [name for name in called if name.startswith("pauc.")] == [
        STEPS,
        "pauc.native_enter.default",
    ]
    for found, expected in zip(recorded(*batch(1)), step(*batch(1)), strict=True):
        assert equal(found, expected) if isinstance(found, tuple) else torch.equal(found, expected)


# --- torch.compile ---


class Graphs:
    """A compiler that runs graphs as they are, and keeps what they call."""

    def __init__(self):
        torch._dynamo.reset()
        counters.clear()
        self.forward, self.backward = [], []

    def keep(self, calls):
        def compiler(graph, _inputs):
            called = [node for node in graph.graph.nodes if node.op == "call_function"]
            # An operator that writes its arguments is the first argument of one that says so.
            calls.append(
                [str(n.args[0] if "auto_func" in str(n.target) else n.target) for n in called]
            )
            return make_boxed_func(graph.forward)

        return compiler

    def compile(self, function):
        backend = aot_autograd(
            fw_compiler=self.keep(self.forward), bw_compiler=self.keep(self.backward)
        )
        return torch.compile(function, fullgraph=True, backend=backend)

    @property
    def count(self):
        return counters["stats"]["unique_graphs"]


def test_a_compiled_step_of_a_module_is_two_calls():
    """And its backward pass a product; the queue is not copied."""
    module, graphs = PAUCAtBudgetLoss(3, beta=0.2, surrogate="pairwise"), Graphs()
    graphs.compile(module)(*batch(0, classes=3)).backward()
    (forward,), (backward,) = graphs.forward, graphs.backward
    assert forward.count(STEPS) == forward.count(ENTRIES) == 1
    # Five options as one tensor, the new bounds, and the queue's new rows where they are already.
    small = ("full", "ones", "mul", "unsqueeze", "cat", "stack", "copy", "detach", "getitem")
    assert [n for n in forward if not any(name in n for name in (*small, STEPS, ENTRIES))] == []
    assert backward == ["aten.mul.Tensor"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "options"),
    [
        (1, {"surrogate": "pairwise", "link": "logistic", "gradient_scale": "live"}),
        (3, {"bce_weight": 0.3, "n_knots": 3}),
        (2, {"multilabel": True, "surrogate": "pairwise", "reduction": "sum"}),
    ],
    ids=str,
)
def test_twenty_compiled_steps_equal_eager_bit_for_bit(classes, options):
    torch._dynamo.reset()
    eager, module = (PAUCAtBudgetLoss(classes, queue_size=300, beta=0.1, **options) for _ in "ab")
    compiled = torch.compile(module, fullgraph=True)
    places = [part.data_ptr() for part in module.queue]
    for seed in range(20):  # the queue fills up and wraps
        logits, targets = batch(seed, 64, classes)
        if options.get("multilabel"):
            targets = (torch.rand(64, classes) < 0.3).long()
        rows = logits, targets, torch.rand(64) < 0.8 if seed % 2 else torch.ones(64) > 0
        found = compiled(*rows, return_per_class=True)
        expected = eager(*rows, return_per_class=True)
        assert equal(found, expected)
        assert torch.equal(
            *(torch.autograd.grad(loss, logits)[0] for loss, *_ in (found, expected))
        )
        assert equal(module.queue, eager.queue)
    assert [part.data_ptr() for part in module.queue] == places
    assert equal([module._bounds], [eager._bounds])  # a compiled step finds and leaves them, too


@pytest.mark.slow
def test_a_compiled_function_equals_eager():
    torch._dynamo.reset()
    torch.manual_seed(0)

    def loss_of(weight, features, targets, queue):
        return pauc_loss_fn((features @ weight).bfloat16(), targets, queue, beta=0.1)

    compiled = torch.compile(loss_of, fullgraph=True)
    # In float64, whose rounding by another matmul hardly ever moves a bfloat16.
    weight = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    queue = init_queue(150, 1)
    for seed in range(5):
        rows = torch.randn(64, 5, dtype=torch.float64), batch(seed, 64)[1]
        found, expected = (call(weight, *rows, queue) for call in (compiled, loss_of))
        torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)  # of the matmul
        gradients = [torch.autograd.grad(loss, weight)[0] for loss, _ in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)
        queue = expected[1]


def test_batches_of_any_size_take_two_graphs():
    module, graphs = PAUCAtBudgetLoss(2, beta=0.3, queue_size=100), Graphs()
    compiled, eager = graphs.compile(module), copy.deepcopy(module)
    for seed, count in enumerate((60, 61, 62, 40, 200, 7, 120)):
        rows = batch(seed, count, 2)
        assert torch.equal(compiled(*rows), eager(*rows))
    assert graphs.count == 2  # one for the first size, one for all


def test_a_schedule_moves_the_operators_numbers_in_one_graph():
    graphs = Graphs()
    module, eager = (PAUCAtBudgetLoss(1, beta=0.05, bce_weight=0.1) for _ in "ab")
    moves = {"warmup_steps": 2, "blend_steps": 3, "anneal_steps": 5, "beta_start": 1.0}
    schedules = [PAUCSchedule(loss, **moves) for loss in (module, eager)]
    compiled = graphs.compile(module)
    for seed in range(10):
        logits, targets = batch(seed)
        losses = [loss(logits, targets) for loss in (compiled, eager)]
        torch.testing.assert_close(*losses, rtol=0, atol=1e-6)
        for schedule in schedules:
            schedule.step()
    assert graphs.count == 1
    assert STEPS in graphs.forward[0]
    module.config = module.config._replace(temperature=0.7)
    eager.config = module.config
    logits, targets = batch(11)
    torch.testing.assert_close(compiled(logits, targets), eager(logits, targets))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _, targets, __: targets[3:4].fill_(7), r"targets must be .* got 7 in row 3"),
        (lambda _, __, weight: weight[5:6].fill_(-1), "sample_weight must be finite"),
        (lambda queue, *_: queue.fill.fill_(999), "fill=999.*which no queue can have"),
    ],
)
def test_an_illegal_value_in_a_graph_is_named_and_changes_nothing(spoil, message):
    module = PAUCAtBudgetLoss(1, beta=0.3, queue_size=100)
    compiled = Graphs().compile(module)
    logits, targets = batch(0)
    weight = torch.ones(60)
    compiled(logits, targets, sample_weight=weight)
    spoil(module.queue, targets, weight)
    before = [part.clone() for part in (*module.queue, module._bounds)]
    with pytest.raises(ValueError, match=message):
        compiled(logits, targets, sample_weight=weight)
    assert equal((*module.queue, module._bounds), before)


def test_a_module_that_was_used_before_and_in_inference_compiles_once():
    module, graphs = PAUCAtBudgetLoss(1, beta=0.3, queue_size=100), Graphs()
    with torch.inference_mode():
        module(*batch(0))
    compiled, eager = graphs.compile(module), copy.deepcopy(module)
    for seed in range(3):
        assert torch.equal(compiled(*batch(seed)), eager(*batch(seed)))
        assert torch.equal(module(*batch(9)), eager(*batch(9)))  # eager steps between
    assert graphs.count == 1


def test_a_module_of_another_dtype_keeps_its_bounds():
    module = PAUCAtBudgetLoss(1, beta=0.3).double()
    assert module._bounds.dtype == torch.float64
    rows = batch(0, dtype=torch.float64)
    eager = copy.deepcopy(module)
    assert torch.equal(Graphs().compile(module)(*rows), eager(*rows))
    assert equal([module._bounds], [eager._bounds])


def composed(graphs):
    """Whether no graph calls the native step."""
    return graphs.forward and not any(
        "native" in name for graph in graphs.forward for name in graph
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.3},
])  # fmt: skip
def test_what_it_does_not_know_is_compiled_of_operators(options):
    module, graphs = PAUCAtBudgetLoss(1, beta=0.05, queue_size=100, **options), Graphs()
    compiled, eager = graphs.compile(module), copy.deepcopy(module)
    for seed in range(2):
        torch.testing.assert_close(compiled(*batch(seed)), eager(*batch(seed)))
    assert composed(graphs)


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    {"edge_gradient": "implicit", "n_knots": 3},
    {"max_pool_size": 80},
    {"budget_basis": "population"},
    {"weight_scale": "explained", "bce_weight": 0.5},
], ids=str)  # fmt: skip
def test_every_option_of_the_native_step_is_one_call_of_a_graph(options):
    module, graphs = PAUCAtBudgetLoss(1, beta=0.3, queue_size=100, **options), Graphs()
    compiled, eager = graphs.compile(module), copy.deepcopy(module)
    for seed in range(2):
        torch.testing.assert_close(compiled(*batch(seed)), eager(*batch(seed)))
    assert not composed(graphs)


@pytest.mark.slow
def test_a_transform_inside_of_a_graph_is_compiled_of_operators():
    graphs, queue, (logits, targets) = Graphs(), warm_queue(), batch(0)
    gradient_of = torch.func.grad(lambda x: pauc_loss_fn(x, targets, queue, beta=0.3)[0])
    found = graphs.compile(gradient_of)(logits.detach())
    torch.testing.assert_close(found, gradient_of(logits.detach()))
    assert composed(graphs)


@pytest.mark.slow
def test_an_option_that_learns_is_compiled_of_operators():
    graphs, queue, (logits, targets) = Graphs(), warm_queue(), batch(0)
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss_of(temperature):
        return pauc_loss_fn(logits, targets, queue, beta=0.3, temperature=temperature)[0]

    slopes = [
        torch.autograd.grad(call(temperature), temperature)[0]
        for call in (graphs.compile(loss_of), loss_of)
    ]
    torch.testing.assert_close(*slopes)
    assert slopes[0] != 0
    assert composed(graphs)


@pytest.mark.slow
def test_without_the_native_code_a_graph_has_the_same_numbers(monkeypatch):
    module = PAUCAtBudgetLoss(1, beta=0.3, queue_size=100)
    expected = [copy.deepcopy(module)(*batch(0)).detach()]
    monkeypatch.setattr(extension, "ext", None)
    graphs = Graphs()
    torch.testing.assert_close([graphs.compile(module)(*batch(0)).detach()], expected)
    assert composed(graphs)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_step_holds_operators_of_torch_alone(strict):
    """It is to run where this package is not."""
    model, rows = trained(), held_batch(1)
    expected = copy.deepcopy(model)(*rows)
    exported = torch.export.export(model, rows, strict=strict)
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("pauc.")]
    torch.testing.assert_close(exported.module()(*rows), expected)
