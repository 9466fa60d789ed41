"""The companion losses' modules and transforms: what they share with the partial AUC, each once."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch

from pauc import (
    PAUCSchedule,
    QueueState,
    RecallAtQuantileLoss,
    SmoothAPLoss,
    enqueue,
    init_queue,
    recall_at_quantile_loss_fn,
    recall_at_quantile_terms,
    smooth_ap_loss_fn,
    smooth_ap_terms,
)
from tests.modules.test_partial_auc import messages, stream, take
from tests.test_checks import BAD_BATCHES
from tests.test_functional import NoHostReads, assert_same_state, batch, warm_queue

quiet = pytest.mark.filterwarnings("ignore:(RecallAtQuantileLoss|SmoothAPLoss)")
MODULES = {"recall": RecallAtQuantileLoss, "ap": SmoothAPLoss}
FUNCTIONS = {"recall": recall_at_quantile_loss_fn, "ap": smooth_ap_loss_fn}
TERMS = {"recall": recall_at_quantile_terms, "ap": smooth_ap_terms}
STATS = {
    "recall": {"threshold", "recall", "recall_var", "false_alert_count"},
    "ap": {"ap", "ap_var"},
}
OPTIONS = [
    ("recall", {"quantile": 0.2}),
    ("recall", {"quantile": 0.1, "edge_gradient": "implicit", "max_pool_size": 90}),
    ("ap", {}),
    ("ap", {"gradient_scale": "live", "tau_scale": "unit", "bce_weight": 0.5}),
]
both = pytest.mark.parametrize("kind", list(MODULES))
cases = pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
classes = pytest.mark.parametrize("num_classes", [1, 3])


# --- the modules ---


@quiet
@cases
@classes
def test_module_equals_function(kind, options, num_classes):
    module = MODULES[kind](num_classes, queue_size=64, **options)
    queue = init_queue(64, num_classes)
    for rows in take(stream(num_classes), 12):
        found = module(**rows, return_per_class=True, return_diagnostics=True)
        terms = TERMS[kind](**rows, queue=queue, diagnostics=True, **options)
        expected = (terms.loss, terms.per_class, terms.valid, terms.stats)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        queue = terms.queue
        assert_same_state(module.queue, queue)
    assert set(found[3]) == STATS[kind] | {"tau_eff", "grad_pos_count", "ref_count"}
    assert all(value.shape == (num_classes,) for value in found[3].values())
    assert not any(value.requires_grad for value in found[3].values())


@quiet
@both
@classes
def test_resume_is_bit_for_bit_and_another_size_keeps_the_newest(kind, num_classes, tmp_path):
    before, after = take(stream(num_classes, 1), 9), take(stream(num_classes, 2), 9)
    first = MODULES[kind](num_classes, queue_size=50)
    for rows in before:
        first(**rows)
    torch.save(first.state_dict(), tmp_path / "checkpoint.pt")
    resumed = MODULES[kind](num_classes, queue_size=50)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(state)
    smaller = MODULES[kind](num_classes, queue_size=20)
    smaller.load_state_dict(state)
    assert int(smaller.queue_fill) == 20
    assert set(state) == {f"queue_{name}" for name in QueueState._fields}
    assert [first(**rows).item() for rows in after] == [resumed(**rows).item() for rows in after]
    with pytest.raises(RuntimeError, match=f"this {type(first).__name__} has num_classes"):
        MODULES[kind](num_classes + 1).load_state_dict(state)


@quiet
@both
def test_eval_copies_and_half_precision(kind):
    logits, targets = torch.randn(8, 1), torch.arange(8) % 2
    module = MODULES[kind](1, queue_size=16).eval()
    module(logits, targets)
    assert int(module.queue_fill) == 0
    twin, unpickled = copy.deepcopy(module), pickle.loads(pickle.dumps(module))
    module.train().half()
    half = logits.half().requires_grad_()
    loss = module(half, targets)
    loss.backward()
    assert loss.dtype == module.queue_scores.dtype == torch.float32
    assert half.grad.dtype == torch.float16
    assert int(module.queue_fill) == 8
    assert int(twin.queue_fill) == int(unpickled.queue_fill) == 0
    module.reset_queue()
    assert int(module.queue_fill) == 0


@quiet
@both
@classes
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("targets", [[], [-100, -100], [0, 0, 0], [1, 1, 1]], ids=str)
def test_nothing_to_compare_is_an_attached_zero(kind, targets, num_classes, reduction):
    logits = torch.randn(len(targets), num_classes, requires_grad=True)
    labels = torch.tensor(targets, dtype=torch.int64)
    module = MODULES[kind](num_classes, queue_size=8, reduction=reduction)
    loss, per_class, valid = module(logits, labels, return_per_class=True)
    assert not valid.any()
    assert per_class.isnan().all()
    assert loss.isnan().all() if reduction == "none" else loss.item() == 0
    loss.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert int(module.queue_fill) == sum(t != -100 for t in targets)


@quiet
@both
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("target", [0, 1])
def test_non_finite_step_is_seen_once_and_leaves_no_trace(kind, target, value):
    clean, spoiled = (MODULES[kind](1, queue_size=64) for _ in range(2))
    logits, targets = torch.randn(40, 1), torch.arange(40) % 2
    for module in (clean, spoiled):
        module(logits, targets)
    bad, bad_targets = torch.randn(5, 1), torch.tensor([0, 1, 0, 1, target])
    clean(bad[:4], bad_targets[:4])
    bad = bad.index_fill(0, torch.tensor(4), value).requires_grad_()
    loss = spoiled(bad, bad_targets)
    loss.backward()
    assert not math.isfinite(loss.item())
    assert not bad.grad.isfinite().all()
    assert_same_state(clean.queue, spoiled.queue)
    assert torch.equal(spoiled(logits, targets), clean(logits, targets))


def test_warnings_name_the_loss_and_what_it_rests_on():
    equal = torch.ones(30, 1), torch.arange(30) % 2
    varied = torch.randn(100, 1), torch.arange(100) % 2
    (found,) = messages(RecallAtQuantileLoss(1, queue_size=400), *equal)
    assert found.startswith("RecallAtQuantileLoss: the reference scores of class 0")
    (found,) = messages(SmoothAPLoss(1, queue_size=4), *equal)
    assert found.startswith("SmoothAPLoss: the reference scores of class 0")
    (found,) = messages(RecallAtQuantileLoss(1, queue_size=100, quantile=0.01), *varied)
    assert "200 reference rows put 2 in the top 0.01, fewer than 10" in found
    assert messages(SmoothAPLoss(1, queue_size=4), *varied) == []  # it has no edge to starve
    capped = RecallAtQuantileLoss(1, queue_size=0, quantile=0.5, max_pool_size=60)
    (found,) = messages(capped, *varied)
    assert "max_pool_size=60" in found


@both
def test_repr_shows_every_option(kind):
    module = MODULES[kind](3, queue_size=7, temperature=0.25)
    shown = repr(module)
    assert "3, queue_size=7" in shown
    assert "temperature=0.25" in shown
    assert all(f"{name}=" in shown for name in module.config._fields)


@quiet
@both
def test_a_schedule_moves_what_the_loss_has(kind):
    loss = MODULES[kind](1, queue_size=0, temperature=0.1)
    made = loss.config
    schedule = PAUCSchedule(
        loss, warmup_steps=1, blend_steps=1, anneal_steps=2, temperature_start=1.0
    )
    logits, targets = torch.randn(40, 1), torch.arange(40) % 2
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
    assert loss(logits, targets).item() == pytest.approx(bce.item(), abs=1e-6)
    for _ in range(3):
        schedule.step()
    assert loss.config == made
    with pytest.raises(ValueError, match="beta_start needs a loss over a band"):
        PAUCSchedule(loss, beta_start=1.0)
    assert loss.config == made


# --- bad input ---

BAD_OPTIONS = [
    ("recall", {"quantile": 0.0}, ValueError, "quantile must satisfy 0 < quantile <= 1, got 0.0"),
    ("recall", {"quantile": 1.1}, ValueError, "quantile"),
    ("recall", {"quantile": math.nan}, ValueError, "quantile"),
    ("recall", {"quantile": True}, TypeError, "quantile"),
    ("recall", {"beta": 0.1}, TypeError, "unknown option 'beta'"),
    ("recall", {"budget_basis": "tpr"}, ValueError, "budget_basis"),
    ("recall", {"precision": 0.5}, ValueError, "precision must be None unless budget_basis="),
    (
        "recall",
        {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.001},
        ValueError,
        "quantile must be below 0.001001, the FPR that precision=0.5 allows",
    ),
    ("ap", {"precision": 0.5}, TypeError, "unknown option 'precision'"),
    ("recall", {"tau_scale": "std"}, ValueError, "tau_scale"),
    ("recall", {"edge_gradient": 1}, TypeError, "edge_gradient"),
    ("recall", {"max_pool_size": 1}, ValueError, "max_pool_size"),
    ("ap", {"tau_scale": "band"}, ValueError, r"tau_scale must be one of \('iqr', 'unit'\)"),
    ("ap", {"max_pool_size": 100}, TypeError, "unknown option 'max_pool_size'"),
    ("ap", {"quantile": 0.1}, TypeError, "unknown option 'quantile'"),
]
BAD_SHARED = [
    ({"temperature": 0.0}, ValueError, "temperature must be above 0"),
    ({"reduction": "max"}, ValueError, "reduction"),
    ({"pos_numerator": "queue"}, ValueError, "pos_numerator"),
    ({"ignore_index": 0.5}, TypeError, "ignore_index"),
    ({"quantile_interpolation": "cubic"}, ValueError, "quantile_interpolation"),
    ({"gradient_scale": "batch"}, ValueError, "gradient_scale"),
    ({"bce_weight": -0.1}, ValueError, "bce_weight"),
    ({"pauc_weight": "1"}, TypeError, "pauc_weight"),
]


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    BAD_OPTIONS + [(kind, *row) for kind in MODULES for row in BAD_SHARED],
    ids=str,
)
def test_bad_options(kind, options, error, message):
    with pytest.raises(error, match=message):
        MODULES[kind](3, **options)
    with pytest.raises(error, match=message):
        FUNCTIONS[kind](torch.randn(4, 3), torch.zeros(4), init_queue(0, 3), **options)


@both
@pytest.mark.parametrize(
    ("keywords", "error"),
    [
        ({"num_classes": 0}, ValueError),
        ({"queue_size": -1}, ValueError),
        ({"update_queue_in_eval": 1}, TypeError),
        ({"gather_distributed": 1}, TypeError),
        ({"process_group": -100}, TypeError),
        ({"validate_args": None}, TypeError),
    ],
    ids=str,
)
def test_bad_module_arguments(kind, keywords, error):
    (name,) = keywords
    with pytest.raises(error, match=name):
        MODULES[kind](**{"num_classes": 2, **keywords})
    with pytest.raises(TypeError, match="shard_queue"):
        MODULES[kind](2, shard_queue=True)


@quiet
@both
@pytest.mark.parametrize("case", list(BAD_BATCHES))
def test_bad_batch_is_refused_and_nothing_has_entered(kind, case):
    arguments, keywords, error, message = BAD_BATCHES[case]
    logits, targets = torch.randn(6, 3), torch.zeros(6, dtype=torch.int64)
    queue = enqueue(init_queue(10, 3), logits, targets)
    module = MODULES[kind](3, queue_size=10)
    module(logits, targets)
    before = [tensor.clone() for tensor in (*queue, *module.queue)]
    with pytest.raises(error, match=message):
        FUNCTIONS[kind](*arguments, queue, **keywords)
    with pytest.raises(error, match=message):
        module(*arguments, **keywords)
    assert_same_state(before, [*queue, *module.queue])


def test_cap_below_the_number_of_classes():
    with pytest.raises(ValueError, match=r"max_pool_size.*3, got 2"):
        recall_at_quantile_loss_fn(
            torch.randn(4, 3), torch.zeros(4), init_queue(0, 3), max_pool_size=2
        )


# --- transforms ---


@cases
@classes
def test_func_grad_with_the_queue_as_aux(kind, options, num_classes):
    logits, targets = batch(num_classes, 0)
    queue = warm_queue(num_classes)

    def step(logits):
        return FUNCTIONS[kind](logits, targets, queue, **options)

    gradient, new_queue = torch.func.grad(step, has_aux=True)(logits)
    attached = logits.clone().requires_grad_()
    loss, expected_queue = step(attached)
    loss.backward()
    assert torch.allclose(gradient, attached.grad, atol=1e-7)
    assert_same_state(new_queue, expected_queue)


@cases
@classes
def test_vmap_over_an_ensemble(kind, options, num_classes):
    members = [batch(num_classes, seed)[0] for seed in range(3)]
    _, targets = batch(num_classes, 0)
    queues = [warm_queue(num_classes) for _ in members]
    queues = [q._replace(scores=q.scores * (1 + i)) for i, q in enumerate(queues)]
    stacked = QueueState(*(torch.stack(tensors) for tensors in zip(*queues, strict=True)))

    def step(logits, queue):
        return FUNCTIONS[kind](logits, targets, queue, validate_args=False, **options)

    losses, new_queues = torch.func.vmap(step)(torch.stack(members), stacked)
    for i, (logits, queue) in enumerate(zip(members, queues, strict=True)):
        loss, new_queue = step(logits, queue)
        assert torch.allclose(losses[i], loss, atol=1e-6)
        assert_same_state([tensor[i] for tensor in new_queues], new_queue)


@cases
@classes
def test_without_checks_the_host_reads_nothing_and_the_numbers_are_the_same(
    kind, options, num_classes
):
    logits, targets = batch(num_classes, 0)
    queue, results = warm_queue(num_classes), []
    weight = torch.rand(64)

    def run(validate_args):
        attached = logits.clone().requires_grad_()
        terms = TERMS[kind](
            attached,
            targets,
            queue,
            sample_weight=weight,
            validate_args=validate_args,
            diagnostics=True,
            **options,
        )
        terms.loss.backward()
        return terms.loss.detach(), attached.grad, terms.stats

    results.append(run(True))
    with NoHostReads():
        results.append(run(False))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "backend", "options"),
    [
        # Inductor has compiled the trapezoid, of which recall is the case of one knot.
        ("recall", "aot_eager", {"quantile": 0.1, "edge_gradient": "implicit"}),
        ("ap", "inductor", {"gradient_scale": "live", "bce_weight": 0.5}),
    ],
)
def test_compiled_training_step_equals_eager(kind, backend, options):
    torch._dynamo.reset()

    def forward(weight, features, targets, queue):
        return FUNCTIONS[kind](features @ weight, targets, queue, **options)

    compiled = torch.compile(forward, fullgraph=True, backend=backend)
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 2, generator=g, requires_grad=True)
    queue = init_queue(150, 2)
    for seed in range(4):  # the queue fills up and wraps
        features = torch.randn(64, 5, generator=g)
        _, targets = batch(2, seed)
        loss, new_queue = forward(weight, features, targets, queue)
        other, other_queue = compiled(weight, features, targets, queue)
        gradients = [torch.autograd.grad(value, weight)[0] for value in (loss, other)]
        torch.testing.assert_close(other, loss, rtol=0, atol=1e-5)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
        torch.testing.assert_close(other_queue.scores, new_queue.scores, rtol=0, atol=1e-6)
        assert_same_state(other_queue[1:], new_queue[1:])
        queue = new_queue


@pytest.mark.slow
@quiet
@both
def test_compiled_module_trains_and_keeps_its_queue_in_place(kind):
    torch._dynamo.reset()
    eager, module = (MODULES[kind](1, queue_size=100, validate_args=False) for _ in range(2))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    places = [part.data_ptr() for part in module.queue]
    for seed in range(3):
        logits, targets = batch(1, seed)
        assert torch.allclose(compiled(logits, targets), eager(logits, targets), atol=1e-6)
    assert_same_state(module.queue, eager.queue)
    assert [part.data_ptr() for part in module.queue] == places


@both
def test_no_warning_without_value_checks(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MODULES[kind](1, validate_args=False)(torch.ones(30, 1), torch.arange(30) % 2)
