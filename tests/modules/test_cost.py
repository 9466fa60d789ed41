"""What a step costs, counted rather than timed: operators, bytes, and what stays alive."""

from __future__ import annotations

import gc
import weakref
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._witness import with_witness
from pauc import (
    PAUCAtBudgetLoss,
    RecallAtQuantileLoss,
    SmoothAPLoss,
    init_queue,
    pauc_loss_fn,
)
from pauc.native import extension
from pauc.pairs import blocks
from pauc.pairs.links import SIGMOID
from tests.conftest import set_may_look

BATCH = 256
needs_native = pytest.mark.skipif(extension.ext is None, reason="installed without a compiler")
VIEWS = ("view", "as_strided", "expand", "slice", "select", "unsqueeze", "squeeze", "t", "permute")


class Work(TorchDispatchMode):
    """Counts operators that compute, the bytes that they return, and keeps the largest result."""

    def __init__(self):
        super().__init__()
        self.calls, self.bytes, self.largest = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in VIEWS and not func.is_view:
            self.calls[name] = self.calls.get(name, 0) + 1
            given = {id(a) for a in args if isinstance(a, torch.Tensor)}
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor) and id(tensor) not in given:
                    self.bytes += tensor.numel() * tensor.element_size()
                    self.largest = max(self.largest, tensor.numel())
        return result

    @property
    def total(self):
        return sum(self.calls.values())


def tensors_of(state):
    """All tensors in nested tuples."""
    if isinstance(state, torch.Tensor):
        return [state]
    return [t for part in state for t in tensors_of(part)] if isinstance(state, tuple) else []


def batch(classes, g, count=BATCH):
    logits = torch.randn(count, classes, generator=g)
    targets = torch.randint(0, max(classes, 2), (count,), generator=g)
    return logits.requires_grad_(), targets


def warm_loss(classes, queue_size, *, kind=PAUCAtBudgetLoss, **options):
    g = torch.Generator().manual_seed(0)
    band = {"beta": 0.02} if kind is PAUCAtBudgetLoss else {"quantile": 0.02}
    loss = kind(classes, queue_size=queue_size, **band, **options)
    with torch.no_grad():
        loss(*batch(classes, g, queue_size))
    for _ in range(3):
        loss(*batch(classes, g)).backward()
    return loss, g


def work_of_a_step(classes, queue_size, *, diagnostics=False, **options):
    loss, g = warm_loss(classes, queue_size, **options)
    logits, targets = batch(classes, g)
    with Work() as work:
        value = loss(logits, targets, return_diagnostics=diagnostics)
        (value[0] if diagnostics else value).backward()
    return work


@needs_native
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
@pytest.mark.parametrize("classes", [1, 8])
def test_operators_of_a_native_step_stay_below_a_ceiling(classes, surrogate):
    work = work_of_a_step(classes, 4096, surrogate=surrogate)
    assert work.total <= 9, dict(sorted(work.calls.items(), key=lambda item: -item[1]))


OPTIONS = [
    {"edge_gradient": "implicit"},
    {"budget_basis": "population"},
    {"surrogate": "pairwise", "budget_basis": "population"},
    {"max_pool_size": 1000},
    {"surrogate": "pairwise", "max_pool_size": 1000},
    {"kind": RecallAtQuantileLoss},
]


@needs_native
@pytest.mark.filterwarnings("ignore:.*max_pool_size:UserWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("classes", [1, 8])
def test_options_of_a_native_step_take_no_more_operators(classes, options):
    # One more for the warning of a capped pool, which reads how many rows the queue has.
    ceiling = 10 if "max_pool_size" in options else 9
    assert work_of_a_step(classes, 4096, **options).total <= ceiling


@needs_native
@pytest.mark.parametrize("options", [{}, {"surrogate": "pairwise"}, {"kind": RecallAtQuantileLoss}])
@pytest.mark.parametrize("classes", [1, 8])
def test_diagnostics_of_a_native_step_are_two_operators_more(classes, options):
    plain = work_of_a_step(classes, 4096, **options)
    shown = work_of_a_step(classes, 4096, diagnostics=True, **options)
    assert plain.total < shown.total <= plain.total + 2, shown.calls


@needs_native
def test_a_native_step_reads_an_option_that_is_a_tensor_once():
    rows = batch(1, torch.Generator().manual_seed(0))
    queue, tensors = init_queue(4096, 1), {}

    def step():
        rows[0].grad = None
        with Work() as work:
            pauc_loss_fn(*rows, queue, **tensors)[0].backward()
        return work

    plain = step()
    assert "_local_scalar_dense" not in plain.calls
    tensors = {"beta": torch.tensor(0.02), "temperature": torch.tensor(0.1)}
    read = step()
    assert read.calls["_local_scalar_dense"] == 2
    assert read.total == plain.total + 2


@needs_native
@pytest.mark.parametrize("classes", [1, 8])
def test_operators_of_smooth_ap_do_not_grow_with_the_pool(classes):
    g = torch.Generator().manual_seed(0)
    works = []
    for queue_size in (1024, 8192):
        loss = SmoothAPLoss(classes, queue_size=queue_size)
        with torch.no_grad():
            loss(*batch(classes, g, queue_size))
        logits, targets = batch(classes, g)
        with Work() as work:
            loss(logits, targets).backward()
        works.append(work)
    assert works[1].total <= 9, works[1].calls
    assert works[0].bytes == works[1].bytes


@needs_native
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_a_native_step_makes_nothing_of_the_size_of_the_queue(surrogate):
    classes = 20
    short, long = (work_of_a_step(classes, size, surrogate=surrogate) for size in (2048, 16_384))
    assert short.bytes == long.bytes < 10 * 4 * classes * BATCH
    assert long.largest == classes * BATCH
    assert short.calls == long.calls


@pytest.mark.parametrize(("surrogate", "ceiling"), [("trapezoid", 185), ("pairwise", 190)])
def test_operators_of_a_step_without_native_code(surrogate, ceiling, monkeypatch):
    monkeypatch.setattr("pauc.native.extension.ext", None)
    work = work_of_a_step(8, 4096, surrogate=surrogate)
    assert work.total <= ceiling, dict(sorted(work.calls.items(), key=lambda item: -item[1]))


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
@pytest.mark.parametrize(("classes", "forward", "backward"), [(1, 99, 21), (8, 120, 27)])
def test_operators_of_a_step_on_an_accelerator(classes, forward, backward, surrogate):
    """At the defaults, value checks included. Who reads data of the device "meta" gets an error."""
    loss = PAUCAtBudgetLoss(classes, queue_size=4096, beta=0.02, surrogate=surrogate).to("meta")
    logits = torch.empty(BATCH, classes, device="meta", requires_grad=True)
    with Work() as work:
        value = loss(logits, torch.empty(BATCH, dtype=torch.int64, device="meta"))
    with Work() as after:
        value.backward()
    assert work.total <= forward, work.calls
    assert after.total <= backward, after.calls
    assert work.calls.get("sum_link", 0) == (surrogate == "pairwise")


def test_operators_inside_sums_over_pairs_on_an_accelerator():
    """What :func:`test_operators_of_a_step_on_an_accelerator` counts as one."""

    def work_of(count, classes):
        x, y = torch.empty(count, device="meta"), torch.empty(classes, count, device="meta")
        index = torch.empty(count, dtype=torch.int64, device="meta")
        with Work() as work:
            pairs = blocks.make_pairs(x, index, None, y, y > 0, y[:, 0])
            blocks.sums(pairs, SIGMOID)
        return work.total

    assert work_of(4352, 1) <= 80  # few pairs, which are compared one by one
    assert work_of(17_408, 1) == work_of(17_408, 10) <= 440


@pytest.mark.parametrize(
    ("beta", "looks", "copies"), [(0.02, True, 12), (1.0, True, 40), (0.02, False, 4)]
)
def test_pairs_without_reads_take_memory_linear_in_the_scores(beta, looks, copies, monkeypatch):
    """In copies of the scores, at any width of the band; also where looking would cost."""
    monkeypatch.setattr("pauc.native.extension.ext", None)
    set_may_look(monkeypatch, looks)
    classes = 10
    if not looks:  # without what is fixed, some 64 MB
        classes = 80
        monkeypatch.setattr(blocks, "_FEW_THERE", 0)
        monkeypatch.setattr(blocks, "_LARGE_TILE", 1 << 14)
        monkeypatch.setattr("pauc.pairs.operator.ENTRIES", 0)
        monkeypatch.setattr("pauc.core.quantiles._ENTRIES", 0)
    peak = peak_in_copies(classes, 8192, beta=beta, surrogate="pairwise", validate_args=False)
    assert 1 < peak < copies


def test_edges_of_many_classes_take_few_copies_of_the_scores_on_an_accelerator(monkeypatch):
    monkeypatch.setattr("pauc.native.extension.ext", None)
    set_may_look(monkeypatch, False)
    monkeypatch.setattr("pauc.core.quantiles._ENTRIES", 0)
    assert 1 < peak_in_copies(40, 8192, beta=0.02, surrogate="trapezoid") < 4


def peak_in_copies(classes, queue_size, **options):
    """Return the most bytes that a step holds at once, in copies of the pool's scores."""
    loss = PAUCAtBudgetLoss(classes, queue_size=queue_size, **options)
    g = torch.Generator().manual_seed(0)
    loss(*batch(classes, g, queue_size))
    rows = batch(classes, g)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss(*rows).backward()
    events = [
        (event.start_ns(), event.nbytes())
        for event in recorded.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    return max(accumulate(size for _, size in sorted(events))) / (
        4 * classes * (queue_size + BATCH)
    )


@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_the_queue_keeps_nothing_of_the_graph(surrogate):
    loss, g = warm_loss(3, 2048, surrogate=surrogate, bce_weight=0.1)
    features = torch.randn(BATCH, 3, generator=g, requires_grad=True)
    logits = features * 2
    kept = [weakref.ref(logits), weakref.ref(features)]
    value = loss(logits, torch.randint(0, 3, (BATCH,), generator=g))
    value.backward()
    del features, logits, value
    gc.collect()
    assert [ref() for ref in kept] == [None, None]
    assert not any(tensor.requires_grad for tensor in (*loss.queue, *tensors_of(loss._bounds)))


def test_what_the_module_holds_does_not_grow():
    loss, g = warm_loss(2, 2048)

    def held():
        tensors = [*loss.buffers(), *loss.queue, *tensors_of(loss._bounds)]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    before = held()
    for _ in range(50):
        loss(*batch(2, g)).backward()
    gc.collect()
    live = sum(type(thing) is torch.Tensor for thing in gc.get_objects())
    for _ in range(50):
        loss(*batch(2, g)).backward()
    gc.collect()
    assert held() == before
    assert sum(type(thing) is torch.Tensor for thing in gc.get_objects()) <= live


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 10])
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_training_holds_nothing_of_past_steps(surrogate, classes):
    """benchmarks/memory.py takes 10,000 steps."""
    others = set(storages())
    loss, g = warm_loss(classes, 1024, surrogate=surrogate, bce_weight=0.1)
    model = torch.nn.Linear(5, classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def live_bytes_after(steps):
        nodes = []
        for _ in range(steps):
            features = torch.randn(BATCH, 5, generator=g)
            targets = torch.randint(0, max(classes, 2), (BATCH,), generator=g)
            logits, node = with_witness(model(features))
            optimizer.zero_grad()
            loss(logits, targets).backward()
            optimizer.step()
            nodes.append(node)
        del features, targets, logits
        assert all(node() is None for node in nodes)
        assert not any(part.requires_grad for part in loss.queue)
        return sum(size for at, size in storages().items() if at not in others)

    early = live_bytes_after(20)
    assert live_bytes_after(100) == early


def storages():
    """Return the bytes of every storage that a tensor of the interpreter holds, by its address."""
    gc.collect()
    plain = torch.Tensor, torch.nn.Parameter  # not what a compiler has left behind
    tensors = [thing for thing in gc.get_objects() if type(thing) in plain]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def test_the_witness_of_a_graph_can_fail():
    logits, node = with_witness(torch.zeros(2, requires_grad=True))
    kept = (logits * 2).grad_fn
    del logits
    assert node() is not None
    del kept
    assert node() is None
