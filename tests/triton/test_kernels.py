"""What the kernels promise beside their numbers: what they refuse, launch and import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pauc
from pauc.backends import plan_step
from pauc.config import PAUCConfig
from pauc.core.batch import Rows
from pauc.presets import preset_for_budget
from pauc.triton import triton_options


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_importing_and_planning_import_no_triton():
    """Nothing of what imports triton; torch may have imported triton itself."""
    code = "import sys, pauc; pauc.PAUCAtBudgetLoss(1); print(*sys.modules)"
    modules = run_python("-c", code).stdout.split()
    assert "pauc.triton" in modules
    assert not [
        name for name in modules if name.startswith(("pauc.triton.kernels", "pauc.triton.step"))
    ]


@pytest.mark.slow
def test_every_kernel_compiles_for_a_gpu():
    """The interpreter takes what the compiler refuses; no GPU is needed to find that out."""
    done = run_python("-m", "tests.triton.compile_kernels", "80")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 9 + 10 + 10


def a_batch(classes=1, count=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, max(classes, 2), (count,), generator=g)
    return torch.randn(count, classes, generator=g).requires_grad_(), targets


@pytest.fixture
def loss(everywhere):
    del everywhere
    module = pauc.PAUCAtBudgetLoss(1, queue_size=60, beta=0.2)
    module._seen.kinds = {"degenerate", "starved"}
    return module


# NumPy, in which the interpreter computes, warns of a nan as an integer; a GPU does not.
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": 2}, r"targets must be whole numbers in 0\.\.1 or ignore_index=-100"),
        ({"targets": -1}, "targets must be"),
        ({"targets": 0.5}, "targets must be"),
        ({"targets": -100.5}, "targets must be"),
        ({"targets": float("nan")}, "targets must be"),
        ({"weight": -0.5}, "sample_weight finite and non-negative"),
        ({"weight": float("nan")}, "sample_weight finite"),
        ({"cursor": 7}, "the queue's counters those of a queue"),
        ({"fill": 61}, "the queue's counters"),
    ],
    ids=str,
)
def test_what_is_illegal_is_named(loss, change, message):
    """On a CPU the assertion is an error at once; on a GPU it is one at the next wait."""
    logits, targets = a_batch()
    weight = torch.ones(40) if "weight" in change else None
    if "targets" in change:
        targets = targets.to(torch.float64 if isinstance(change["targets"], float) else torch.int64)
        targets[5] = change["targets"]
    if weight is not None:
        weight[5] = change["weight"]
    for name in ("cursor", "fill"):
        if name in change:
            getattr(loss.queue, name).fill_(change[name])
    with pytest.raises(RuntimeError, match=message):
        loss(logits, targets, sample_weight=weight)
    assert int(loss.queue.step) == 0


def test_every_class_of_labels_is_looked_at(everywhere):
    del everywhere
    loss = pauc.PAUCAtBudgetLoss(3, multilabel=True, queue_size=60, beta=0.2)
    logits, targets = torch.randn(40, 3), torch.zeros(40, 3, dtype=torch.int64)
    targets[5, 2] = 2
    with pytest.raises(RuntimeError, match=r"targets must be whole numbers in 0\.\.1"):
        loss(logits, targets)
    assert int(loss.queue.step) == 0


def test_the_weight_of_a_row_to_ignore_may_be_anything(loss):
    logits, targets = a_batch()
    weight = torch.ones(40)
    targets[5], weight[5] = -100, float("nan")
    assert loss(logits, targets, sample_weight=weight).isfinite()


class _Operators(TorchDispatchMode):
    """The operators that launch something: not allocations, not views."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        name = func.__name__.split(".")[0]
        idle = ("empty", "view", "detach", "split", "as_strided", "alias", "expand", "ones_like")
        if not name.startswith(idle):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


RECIPE = preset_for_budget(0.2, batch_size=40, positive_rate=0.5).options


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("options", [{"beta": 0.2}, {**RECIPE, "weight_scale": "unit"}, RECIPE])
def test_a_step_launches_at_most_twelve_kernels(everywhere, monkeypatch, options, multilabel):
    """Of a loss and its backward pass, the check of values and the queue's entry included."""
    del everywhere
    from triton.runtime.interpreter import InterpretedFunction

    kernels = []
    run = InterpretedFunction.run

    def counted(self, *args, **keywords):
        kernels.append(self.fn.__name__)
        return run(self, *args, **keywords)

    monkeypatch.setattr(InterpretedFunction, "run", counted)
    logits, targets = a_batch()
    loss = pauc.PAUCAtBudgetLoss(1, queue_size=60, multilabel=multilabel, **options)
    rows = Rows(logits, targets.view(-1, 1) if multilabel else targets)
    from pauc.triton.step import take_step

    def one_step():
        outcome = take_step(
            rows, loss.queue, plan_step(loss.config).triton, None, check_values=True
        )
        outcome.loss.backward()
        outcome.entry.into(loss.queue, in_place=True)

    one_step()  # the levels are copied once
    kernels.clear()
    with _Operators() as operators:
        one_step()
    # The interpreter itself copies what it is given; and autograd sets or adds up `.grad`.
    ours = [name for name in operators.names if name in ("zeros", "_assert_async")]
    assert len(kernels) + len(ours) == (12 if "surrogate" in options else 11)


@pytest.mark.parametrize("bce_weight", [0.0, 0.5])
def test_a_second_derivative_is_the_operators(everywhere, bce_weight):
    del everywhere
    logits, targets = a_batch(seed=3)
    queue = pauc.init_queue(0, 1)
    options = {"beta": 0.5, "surrogate": "pairwise", "bce_weight": bce_weight}
    value, _ = pauc.pauc_loss_fn(logits, targets, queue, **options)
    assert type(value.grad_fn).__name__ == "_AttachedBackward"
    (slope,) = torch.autograd.grad(value, logits, create_graph=True)
    wide = logits.detach().double().requires_grad_()
    expected, _ = pauc.pauc_loss_fn(wide, targets, pauc.init_queue(0, 1), **options)
    (expected_slope,) = torch.autograd.grad(expected, wide, create_graph=True)
    found = torch.autograd.grad((slope**2).sum(), logits)[0]
    wanted = torch.autograd.grad((expected_slope**2).sum(), wide)[0]
    assert torch.allclose(found.double(), wanted, rtol=1e-3, atol=1e-6)


def test_parts_and_loss_have_their_gradients_together(everywhere):
    del everywhere
    logits, targets = a_batch(classes=3)
    queue = pauc.init_queue(0, 3)
    terms = pauc.pauc_loss_terms(logits, targets, queue, beta=0.5, reduction="none")
    (terms.loss * torch.tensor([1.0, 2.0, 0.0]) + 3 * terms.per_class).nansum().backward()
    wide = logits.detach().double().requires_grad_()
    terms = pauc.pauc_loss_terms(
        wide, targets, pauc.init_queue(0, 3, dtype=torch.float64), beta=0.5, reduction="none"
    )
    (terms.loss * torch.tensor([1.0, 2.0, 0.0]) + 3 * terms.per_class).nansum().backward()
    assert torch.allclose(logits.grad.double(), wide.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "rows",
    [
        Rows(torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)),
        Rows(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64)),
    ],
    ids=["float64", "no rows"],
)
def test_what_the_kernels_do_not_read_declines(device, rows):
    del device
    from pauc.triton.step import take_step

    options = triton_options(PAUCConfig())
    assert take_step(rows, pauc.init_queue(4, 1), options, None, check_values=True) is None


@pytest.mark.parametrize(
    "options",
    [
        {"budget_basis": "population"},
        {"max_pool_size": 100},
        {"edge_gradient": "implicit"},
        {"temperature": torch.tensor(0.1)},
    ],
    ids=str,
)
def test_what_the_kernels_do_not_compute_is_not_planned(options):
    assert plan_step(PAUCConfig(**options)).triton is None
    assert plan_step(PAUCConfig()).triton is not None


def test_a_step_with_very_many_pairs_declines(device):
    del device
    from pauc.triton import memory, step

    options = triton_options(PAUCConfig(surrogate="pairwise", beta=1.0))
    shape = memory.make_shape(1024, 1, 1 << 20, options)
    assert step._most_pairs(shape, options) > step.MOST_PAIRS
    narrow = triton_options(PAUCConfig(surrogate="pairwise"))
    assert step._most_pairs(shape, narrow) <= step.MOST_PAIRS
