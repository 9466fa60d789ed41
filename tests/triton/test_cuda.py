"""What only a GPU can show. Written on machines that had none, and run on none so far."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import pauc
from pauc.triton.choice import is_installed

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.skipif(not is_installed(), reason="triton is not installed"),
]
SURROGATES = ["trapezoid", "pairwise"]


def make_loss(classes=1, **options):
    loss = pauc.PAUCAtBudgetLoss(classes, queue_size=5000, beta=0.05, **options).cuda()
    loss._seen.kinds = {"degenerate", "starved"}
    return loss


def batches(classes, steps, count=1000, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        targets = torch.randint(0, max(classes, 2), (count,), generator=g)
        yield torch.randn(count, classes, generator=g).to(dtype).cuda(), targets.cuda()


def step_of(loss, logits, targets):
    attached = logits.clone().requires_grad_()
    value = loss(attached, targets)
    value.backward()
    return value.detach(), attached.grad


@pytest.mark.parametrize("options", [{}, {"bce_weight": 1.0}], ids=str)
@pytest.mark.parametrize("classes", [1, 10, 300])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_steps_equal_the_operators(surrogate, classes, options):
    kernels = make_loss(classes, surrogate=surrogate, **options)
    operators = make_loss(classes, surrogate=surrogate, **options)
    operators._plan = operators._plan._replace(triton=None)
    for logits, targets in batches(classes, 8):
        value, grad = step_of(kernels, logits, targets)
        expected, expected_grad = step_of(operators, logits, targets)
        assert torch.allclose(value, expected, rtol=1e-5, atol=2e-6)
        assert torch.allclose(grad, expected_grad, rtol=1e-3, atol=1e-8)
        assert all(torch.equal(a, b) for a, b in zip(kernels.queue, operators.queue, strict=True))


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_recipe_equals_the_operators(multilabel):
    """Of logits that explain a part of the targets, so that the pairs have a weight."""
    g = torch.Generator().manual_seed(0)
    kernels, operators = (
        pauc.PAUCAtBudgetLoss.for_budget(
            0.01, batch_size=1000, positive_rate=0.1, num_classes=10, multilabel=multilabel
        ).cuda()
        for _ in range(2)
    )
    operators._plan = operators._plan._replace(triton=None)
    kernels._seen.kinds = operators._seen.kinds = {"degenerate", "starved"}
    for _ in range(8):
        own = torch.nn.functional.one_hot(torch.randint(0, 10, (1000,), generator=g), 10)
        logits = (torch.randn(1000, 10, generator=g) + 6 * own - 4).cuda()
        targets = (own if multilabel else own.argmax(dim=1)).cuda()
        value, grad = step_of(kernels, logits, targets)
        expected, expected_grad = step_of(operators, logits, targets)
        assert torch.allclose(value, expected, rtol=1e-5, atol=2e-6)
        assert torch.allclose(grad, expected_grad, rtol=1e-3, atol=1e-8)
        assert all(torch.equal(a, b) for a, b in zip(kernels.queue, operators.queue, strict=True))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_two_runs_are_the_same_to_the_bit(surrogate):
    runs = []
    for _ in range(2):
        loss = make_loss(surrogate=surrogate)
        runs.append([step_of(loss, *batch) for batch in batches(1, 8)])
    for first, second in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_step_launches_few_kernels_and_waits_for_none(surrogate):
    loss = make_loss(surrogate=surrogate, validate_args=False)
    logits, targets = next(batches(1, 1))
    for _ in range(3):
        step_of(loss, logits, targets)
    attached = logits.clone().requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            loss(attached, targets).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    kernels = [e.name for e in profiler.events() if "cuda" in str(e.device_type).lower()]
    # Beside those of the step, autograd fills the gradient of the loss with a one.
    assert len(kernels) <= 13, kernels


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_graph_captures_a_whole_step(surrogate):
    """Forward, backward and the queue's entry; replayed, it goes on as steps do."""
    captured = make_loss(surrogate=surrogate, validate_args=False)
    eager = make_loss(surrogate=surrogate, validate_args=False)
    given = list(batches(1, 8))
    logits = given[0][0].clone().requires_grad_()
    targets = given[0][1].clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            captured(logits, targets).backward()
    torch.cuda.current_stream().wait_stream(side)
    captured.reset_queue()
    logits.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = captured(logits, targets)
        value.backward()
    captured.reset_queue()
    for new_logits, new_targets in given:
        with torch.no_grad():
            logits.copy_(new_logits)
        targets.copy_(new_targets)
        graph.replay()
        expected, expected_grad = step_of(eager, new_logits, new_targets)
        assert torch.equal(value, expected)
        assert torch.equal(logits.grad, expected_grad)
        assert all(torch.equal(a, b) for a, b in zip(captured.queue, eager.queue, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_a_model_learns_in_half_precision(surrogate, dtype):
    """Autocast with a gradient scaler; an overflow is found, and the step is skipped."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1).cuda()
    loss = make_loss(surrogate=surrogate)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    values = []
    for _ in range(150):
        targets = (torch.rand(512, device="cuda") < 0.2).long()
        x = torch.randn(512, 4, device="cuda")
        x[:, 0] += 2 * targets
        with torch.autocast("cuda", dtype=dtype):
            value = loss(model(x), targets)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        values.append(value.item())
    assert sum(values[-10:]) < sum(values[20:30])


def test_an_illegal_target_ends_in_an_error_that_names_it():
    code = (
        "import torch, pauc; loss = pauc.PAUCAtBudgetLoss(1).cuda(); "
        "x = torch.randn(64, 1, device='cuda'); t = torch.full((64,), 7, device='cuda'); "
        "loss(x, t); torch.cuda.synchronize()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "targets must be" in done.stderr


def _gathered(rank: int, init: str, out: str) -> None:
    torch.cuda.set_device(rank)
    torch.distributed.init_process_group("nccl", init_method=init, rank=rank, world_size=2)
    loss = make_loss(surrogate="pairwise", gather_distributed=True)
    for logits, targets in batches(1, 3):
        half = slice(500 * rank, 500 * (rank + 1))
        value = loss(logits[half], targets[half])
    torch.save((value.cpu(), [part.cpu() for part in loss.queue]), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs")
@pytest.mark.skipif(find_spec("torch.distributed") is None, reason="torch has no distributed")
def test_two_gpus_gather_by_nccl(tmp_path: Path):
    torch.multiprocessing.spawn(_gathered, (f"file://{tmp_path}/init", str(tmp_path)), nprocs=2)
    loss = make_loss(surrogate="pairwise")
    for logits, targets in batches(1, 3):
        expected = loss(logits, targets)
    for rank in range(2):
        value, queue = torch.load(tmp_path / f"{rank}.pt")
        assert torch.allclose(value, expected.cpu(), atol=2e-6)
        assert all(torch.equal(a, b.cpu()) for a, b in zip(queue, loss.queue, strict=True))
