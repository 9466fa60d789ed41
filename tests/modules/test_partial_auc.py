"""The module: equal to the function, resumable, frozen in eval, and silent or loud as promised."""

from __future__ import annotations

import copy
import math
import pickle
import re
import warnings

import pytest
import torch

from pauc import (
    PAUCAtBudgetLoss,
    PAUCConfig,
    PAUCOptions,
    QueueState,
    SmoothAPConfig,
    init_queue,
    pauc_loss_fn,
    pauc_loss_terms,
)

pytestmark = pytest.mark.usefixtures("each_path")

quiet = pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")


def stream(num_classes, seed=0):
    g = torch.Generator().manual_seed(seed)
    while True:
        count = int(torch.randint(5, 40, (), generator=g))
        targets = torch.randint(0, max(num_classes, 2), (count,), generator=g)
        targets[torch.rand(count, generator=g) < 0.1] = -100
        yield {
            "logits": torch.randn(count, num_classes, generator=g),
            "targets": targets,
            "iid_mask": torch.rand(count, generator=g) < 0.8,
            "sample_weight": torch.rand(count, generator=g),
        }


def take(batches, count):
    return [next(batches) for _ in range(count)]


@quiet
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"surrogate": "pairwise", "beta": 0.2, "max_pool_size": 60},
        {"n_knots": 4, "tau_scale": "band", "beta": 0.4, "reduction": "none"},
    ],
    ids=str,
)
def test_module_equals_function(options, num_classes):
    module = PAUCAtBudgetLoss(num_classes, queue_size=64, **options)
    queue = init_queue(64, num_classes)
    for batch in take(stream(num_classes), 20):
        loss, per_class, valid, stats = module(
            **batch, return_per_class=True, return_diagnostics=True
        )
        terms = pauc_loss_terms(**batch, queue=queue, diagnostics=True, **options)
        assert torch.equal(loss.nan_to_num(9), terms.loss.nan_to_num(9))
        assert torch.equal(per_class.nan_to_num(9), terms.per_class.nan_to_num(9))
        assert torch.equal(valid, terms.valid)
        assert all(torch.equal(stats[k].nan_to_num(9), terms.stats[k].nan_to_num(9)) for k in stats)
        queue = terms.queue
        assert all(torch.equal(a, b) for a, b in zip(module.queue, queue, strict=True))


@quiet
def test_return_forms():
    module = PAUCAtBudgetLoss(2, queue_size=0)
    logits, targets = torch.randn(20, 2), torch.randint(0, 2, (20,))
    assert module(logits, targets).shape == ()
    loss, per_class, valid = module(logits, targets, return_per_class=True)
    assert (loss.shape, per_class.shape, valid.dtype) == ((), (2,), torch.bool)
    loss, stats = module(logits, targets, return_diagnostics=True)
    assert set(stats) == {
        *("t_alpha", "t_beta", "tau_eff", "pauc_var", "pauc"),
        *("band_neg_count", "grad_pos_count", "ref_count", "realised_fpr"),
    }
    assert all(value.shape == (2,) and not value.requires_grad for value in stats.values())
    assert len(module(logits, targets, None, True, True)) == 4


@quiet
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"surrogate": "pairwise", "max_pool_size": 40}], ids=str)
def test_resume_in_mid_wrap_is_bit_for_bit(options, num_classes, dtype, tmp_path):
    def losses(module, batches):
        return [
            module(**{**batch, "logits": batch["logits"].to(dtype)}).item() for batch in batches
        ]

    before, after = take(stream(num_classes, 1), 9), take(stream(num_classes, 2), 50)
    first = PAUCAtBudgetLoss(num_classes, queue_size=50, beta=0.2, **options)
    losses(first, before)
    assert int(first.queue_fill) == 50
    assert int(first.queue_cursor) not in (0, 50)
    torch.save(first.state_dict(), tmp_path / "checkpoint.pt")
    resumed = PAUCAtBudgetLoss(num_classes, queue_size=50, beta=0.2, **options)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert losses(first, after) == losses(resumed, after)
    assert all(torch.equal(a, b) for a, b in zip(first.queue, resumed.queue, strict=True))


@quiet
def test_eval_freezes_the_queue_unless_asked():
    logits, targets = torch.randn(8, 1), torch.randint(0, 2, (8,))
    for update, expected in ((False, 0), (True, 8)):
        module = PAUCAtBudgetLoss(1, queue_size=16, update_queue_in_eval=update).eval()
        module(logits, targets)
        assert int(module.queue_fill) == expected


@quiet
def test_checkpoint_of_another_size_keeps_the_newest():
    first = PAUCAtBudgetLoss(1, queue_size=6)
    first(torch.arange(8.0).unsqueeze(1), torch.zeros(8, dtype=torch.int64))
    smaller, larger = PAUCAtBudgetLoss(1, queue_size=3), PAUCAtBudgetLoss(1, queue_size=9)
    smaller.load_state_dict(first.state_dict())
    larger.load_state_dict(first.state_dict())
    assert sorted(smaller.queue_scores[0].tolist()) == [5.0, 6.0, 7.0]
    assert larger.queue_scores[0, :6].tolist() == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert int(larger.queue_fill) == 6


def test_checkpoint_of_another_num_classes_is_refused_and_changes_nothing():
    module = PAUCAtBudgetLoss(2, queue_size=4)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(RuntimeError, match=r"3 classes.*num_classes=2"):
        module.load_state_dict(PAUCAtBudgetLoss(3, queue_size=4).state_dict())
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


@quiet
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("part", QueueState._fields)
def test_checkpoint_with_a_missing_part_says_which_and_changes_nothing(part, strict):
    module, other = PAUCAtBudgetLoss(2, queue_size=4), PAUCAtBudgetLoss(2, queue_size=4)
    for loss in (module, other):
        loss(torch.randn(3, 2), torch.tensor([0, 1, 0]))
    before = copy.deepcopy(module.state_dict())
    incomplete = other.state_dict()
    del incomplete[f"queue_{part}"]
    if strict:
        with pytest.raises(RuntimeError, match=f"Missing key.*queue_{part}"):
            module.load_state_dict(incomplete)
    else:
        assert f"queue_{part}" in module.load_state_dict(incomplete, strict=False).missing_keys
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


@quiet
def test_checkpoint_inside_a_larger_model():
    model = torch.nn.ModuleDict({"net": torch.nn.Linear(3, 1), "loss": PAUCAtBudgetLoss(1)})
    model["loss"](torch.randn(9, 1), torch.zeros(9, dtype=torch.int64))
    other = torch.nn.ModuleDict({"net": torch.nn.Linear(3, 1), "loss": PAUCAtBudgetLoss(1)})
    other.load_state_dict(model.state_dict())
    assert int(other["loss"].queue_fill) == 9


@quiet
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_precision(surrogate, dtype):
    module = PAUCAtBudgetLoss(1, queue_size=64, beta=0.2, surrogate=surrogate)
    g = torch.Generator().manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for _ in range(2):
        logits = torch.randn(50, 1, generator=g).to(dtype).requires_grad_()
        targets = torch.randint(0, 2, (50,), generator=g)
        loss, _ = module(logits, targets, return_diagnostics=True)
        loss.backward()
    assert loss.dtype == module.queue_scores.dtype == wide
    assert logits.grad.dtype == dtype
    assert (logits.grad != 0).any()


@quiet
def test_under_autocast():
    net, module = torch.nn.Linear(4, 1), PAUCAtBudgetLoss(1, queue_size=32, beta=0.2)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(torch.randn(30, 4))
            loss = module(logits, torch.randint(0, 2, (30,)))
        assert logits.dtype == torch.bfloat16
        assert loss.dtype == torch.float32
        loss.backward()


@quiet
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_non_finite_step_is_seen_once_and_leaves_no_trace(surrogate, target, value):
    clean, spoiled = (
        PAUCAtBudgetLoss(1, queue_size=64, beta=0.2, surrogate=surrogate) for _ in range(2)
    )
    logits, targets = torch.randn(40, 1), torch.randint(0, 2, (40,))
    for module in (clean, spoiled):
        module(logits, targets)
    bad, bad_targets = torch.randn(5, 1), torch.tensor([0, 1, 0, 1, target])
    clean(bad[:4], bad_targets[:4])
    bad = bad.index_fill(0, torch.tensor(4), value).requires_grad_()
    by_function, _ = pauc_loss_fn(bad, bad_targets, spoiled.queue, **spoiled.config._asdict())
    assert not math.isfinite(by_function.item())
    loss = spoiled(bad, bad_targets)
    loss.backward()
    assert not math.isfinite(loss.item())
    assert not bad.grad.isfinite().all()  # a gradient scaler looks here
    assert torch.equal(spoiled(logits, targets), clean(logits, targets))
    assert all(torch.equal(a, b) for a, b in zip(clean.queue, spoiled.queue, strict=True))


@quiet
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(
    "targets", [[], [-100, -100], [0, 0, 0], [1, 1, 1]], ids=["empty", "ignored", "zeros", "ones"]
)
@pytest.mark.parametrize("surrogate", ["trapezoid", "pairwise"])
def test_nothing_to_compare_is_an_attached_zero(surrogate, targets, num_classes, reduction):
    options = {"surrogate": surrogate, "reduction": reduction}
    module = PAUCAtBudgetLoss(num_classes, queue_size=8, **options)
    logits = torch.randn(len(targets), num_classes, requires_grad=True)
    labels = torch.tensor(targets, dtype=torch.int64)
    by_function, queue = pauc_loss_fn(logits, labels, init_queue(8, num_classes), **options)
    loss, per_class, valid = module(logits, labels, return_per_class=True)
    assert by_function.requires_grad
    assert torch.equal(by_function.nan_to_num(9), loss.nan_to_num(9))
    assert int(queue.fill) == int(module.queue_fill)
    assert not valid.any()
    assert per_class.isnan().all()
    assert loss.requires_grad
    if reduction == "none":
        assert loss.shape == (num_classes,)
        assert loss.isnan().all()
    else:
        assert loss.item() == 0.0
    loss.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert int(module.queue_fill) == sum(t != -100 for t in targets)


def messages(module, *arguments, steps=3, **keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            module(*arguments, **keywords)
    return [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def test_degenerate_dispersion_warns_once():
    module = PAUCAtBudgetLoss(2, queue_size=100)
    found = messages(module, torch.ones(30, 2), torch.randint(0, 2, (30,)))
    assert len(found) == 1
    assert "no dispersion" in found[0]
    assert "Cure" in found[0]


def test_starvation_warns_once_the_queue_is_full_and_names_a_size_that_does():
    g = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(100, 1, generator=g), torch.randint(0, 2, (100,), generator=g)
    module = PAUCAtBudgetLoss(1, queue_size=300, beta=0.01)
    assert messages(module, logits, targets, steps=3) == []
    found = messages(module, logits, targets, steps=3)
    assert len(found) == 1
    assert "band starvation" in found[0]
    size = int(re.search(r"queue_size=(\d+)", found[0]).group(1))
    assert (
        messages(PAUCAtBudgetLoss(1, queue_size=size, beta=0.01), logits, targets, steps=40) == []
    )
    smaller = PAUCAtBudgetLoss(1, queue_size=size - 60, beta=0.01)
    assert len(messages(smaller, logits, targets, steps=40)) == 1


def test_subsampling_warns_once():
    module = PAUCAtBudgetLoss(1, queue_size=100, beta=0.5, max_pool_size=80)
    found = messages(module, torch.randn(50, 1), torch.randint(0, 2, (50,)))
    assert [m for m in found if "max_pool_size=80" in m] == found
    assert len(found) == 1


def test_no_misleading_warning():
    positives = torch.ones(30, dtype=torch.int64)
    assert messages(PAUCAtBudgetLoss(1, queue_size=8), torch.randn(30, 1), positives) == []
    empty = PAUCAtBudgetLoss(1, queue_size=0)
    assert messages(empty, torch.zeros(0, 1), positives[:0]) == []
    assert len(messages(empty, torch.randn(30, 1), torch.arange(30) % 2)) == 1
    for value in (math.nan, math.inf, -math.inf):
        module = PAUCAtBudgetLoss(1, queue_size=100)
        logits = torch.full((30, 1), value)
        assert messages(module, logits, torch.arange(30) % 2) == []


def test_warning_points_at_the_callers_line():
    module = PAUCAtBudgetLoss(1, queue_size=100)
    with pytest.warns(UserWarning, match="no dispersion") as caught:
        module(torch.ones(30, 1), torch.arange(30) % 2)
    assert caught[0].filename == __file__


def test_a_warning_of_many_classes_stays_short():
    found = messages(PAUCAtBudgetLoss(1000), torch.ones(30, 1000), torch.arange(30))
    assert "1000 of 1000" in found[0]
    assert len(found[0]) < 500


@quiet
def test_queue_stays_wide_when_the_model_goes_half():
    module = PAUCAtBudgetLoss(1, queue_size=8)
    module(torch.full((4, 1), 1e5), torch.tensor([0, 1, 0, 1]))
    module.half()
    assert module.queue_scores.dtype == module.queue_weight.dtype == torch.float32
    assert module.queue_scores[0, 0].item() == 1e5
    with torch.inference_mode():
        module(torch.randn(4, 1).half(), torch.tensor([0, 1, 0, 1]))
    module(torch.randn(4, 1).half(), torch.tensor([0, 1, 0, 1]))
    module.double().reset_queue()
    assert module.queue_scores.dtype == torch.float64


def test_no_warning_without_value_checks():
    module = PAUCAtBudgetLoss(1, queue_size=4, validate_args=False)
    assert messages(module, torch.ones(30, 1), torch.randint(0, 2, (30,))) == []


def test_extra_repr_shows_the_configuration():
    shown = repr(PAUCAtBudgetLoss(3, queue_size=7, surrogate="pairwise", beta=0.02))
    for part in ("3, queue_size=7", "surrogate='pairwise'", "beta=0.02", "max_pool_size=None"):
        assert part in shown
    assert all(f"{name}=" in shown for name in PAUCConfig._fields)


def test_options_for_type_checkers_are_the_configuration():
    assert set(PAUCOptions.__annotations__) == set(PAUCConfig._fields)
    assert all(
        PAUCOptions.__annotations__[name].__forward_arg__ == kind
        for name, kind in PAUCConfig.__annotations__.items()
        if isinstance(kind, str)
    )


@quiet
def test_copies_are_independent():
    module = PAUCAtBudgetLoss(1, queue_size=8)
    twin = copy.deepcopy(module)
    module(torch.randn(4, 1), torch.zeros(4, dtype=torch.int64))
    assert int(module.queue_fill) == 4
    assert int(twin.queue_fill) == 0
    module.reset_queue()
    assert int(module.queue_fill) == 0


@quiet
def test_the_graph_is_not_kept_alive():
    module = PAUCAtBudgetLoss(1, queue_size=8)
    logits = torch.randn(4, 1, requires_grad=True)
    module(logits, torch.tensor([0, 1, 0, 1]))
    assert not any(part.requires_grad for part in module.queue)


def test_functional_loop_on_the_first_page():
    queue = init_queue(512, 1)
    logits, targets = torch.randn(64, 1, requires_grad=True), torch.randint(0, 2, (64,))
    loss, queue = pauc_loss_fn(logits, targets, queue, beta=0.1)
    loss.backward()
    assert int(queue.fill) == 64


@pytest.mark.parametrize(
    ("config", "error", "match"),
    [
        (SmoothAPConfig(), TypeError, "config must be a PAUCConfig, got SmoothAPConfig"),
        (PAUCConfig(beta=torch.tensor(0.1)), TypeError, "beta must be a number in a module"),
        (PAUCConfig(beta=2.0), ValueError, "beta"),
    ],
)
def test_a_config_is_checked_where_it_is_set(config, error, match):
    loss = PAUCAtBudgetLoss(1)
    with pytest.raises(error, match=match):
        loss.config = config
    assert loss.config == PAUCConfig()


def test_a_pickled_module_has_its_plan_again():
    loss = PAUCAtBudgetLoss(1, beta=0.5, queue_size=50)
    again = pickle.loads(pickle.dumps(loss))
    assert b"pauc.native" not in pickle.dumps(loss)  # private types do not enter a file
    logits, targets = torch.randn(40, 1), torch.arange(40) % 2
    assert torch.equal(again(logits, targets), loss(logits, targets))
