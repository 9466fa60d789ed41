"""Recall at a quantile and Smooth-AP: against loops in plain Python, and identities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

import pauc
from pauc import (
    PAUCConfig,
    RecallAtQuantileConfig,
    SmoothAPConfig,
    enqueue,
    init_queue,
    pauc_loss_fn,
    recall_at_quantile_loss_fn,
    recall_at_quantile_terms,
    smooth_ap_loss_fn,
    smooth_ap_terms,
)
from pauc.metrics import coverage_at_budget
from tests.core.test_loss_against_oracle import (
    as_rows,
    as_tensors,
    assert_close,
    reference_arguments,
    tolerance,
)
from tests.oracles.knife_edges import scale_is_in_doubt
from tests.oracles.reference import reference_set, sigmoid, weighted_variance, with_end
from tests.oracles.reference_companions import (
    ap_value,
    companion_step,
    own_pools,
    recall_value,
    soft_precision,
)
from tests.oracles.strategies import problems

LOSSES = {"recall": recall_at_quantile_loss_fn, "ap": smooth_ap_loss_fn}
TERMS = {"recall": recall_at_quantile_terms, "ap": smooth_ap_terms}
CONFIGS = {"recall": RecallAtQuantileConfig, "ap": SmoothAPConfig}
VALUES = {"recall": recall_value, "ap": ap_value}
OPTIONS = [
    ("recall", {"quantile": 0.2}),
    ("recall", {"quantile": 0.1, "budget_basis": "fpr", "tau_scale": "band"}),
    ("recall", {"quantile": 0.3, "edge_gradient": "implicit", "gradient_scale": "live"}),
    ("ap", {}),
    ("ap", {"gradient_scale": "live", "pos_numerator": "live"}),
]
both = pytest.mark.parametrize("kind", ["recall", "ap"])
cases = pytest.mark.parametrize(("kind", "options"), OPTIONS, ids=str)
classes = pytest.mark.parametrize("num_classes", [1, 3])


def batch(num_classes, count=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, max(num_classes, 2), (count,), generator=g)
    return torch.randn(count, num_classes, generator=g, dtype=torch.float64), targets


def filled_queue(num_classes, seed=1):
    queue = init_queue(80, num_classes, dtype=torch.float64)
    return enqueue(queue, *batch(num_classes, 70, seed))


def value_and_gradient(kind, logits, targets, queue, **options):
    logits = logits.clone().requires_grad_()
    loss, _ = LOSSES[kind](logits, targets, queue, **options)
    loss.backward()
    return loss.detach(), logits.grad


# --- against the reference ---


def companion_problems(kind, **limits):
    """Problems of `strategies`, with the options that the loss has; beta becomes the quantile."""

    def translate(problem):
        given = {k: v for k, v in problem.options.items() if k in CONFIGS[kind]._fields}
        if kind == "recall" and "beta" in problem.options:
            given["quantile"] = problem.options["beta"]
        if kind == "ap" and given.get("tau_scale") == "band":
            del given["tau_scale"]
        return problem._replace(options=given)

    return problems(**limits).map(translate)


def options_of_reference(kind, problem):
    """All options, the defaults included: the package's, which the reference does not know."""
    return CONFIGS[kind](**problem.options)._asdict()


def doubtful(kind, problem, batch, queue):
    """Per class, whether rounding decides that there is no dispersion."""
    options = options_of_reference(kind, problem)
    pools, o = own_pools(reference_arguments(problem, batch, queue), **options)
    references = [reference_set(pool, o.budget_basis) for pool in pools]
    return [
        bool(scores)
        and all(math.isfinite(s) for s in scores)
        and scale_is_in_doubt(scores, with_end(pool, o), problem.eps)
        for pool, scores in zip(pools, references, strict=True)
    ]


@both
@given(data=st.data())
def test_terms_equal_the_reference(kind, data):
    problem = data.draw(companion_problems(kind))
    state = init_queue(problem.queue_size, problem.num_classes, dtype=problem.compute_dtype)
    queue = []
    for rows in problem.batches:
        inputs = as_tensors(problem, rows)
        terms = TERMS[kind](
            inputs.logits,
            inputs.targets,
            state,
            **inputs.side,
            diagnostics=True,
            **problem.options,
        )
        args, keywords = reference_arguments(problem, rows, queue)
        loss, per_class, valid, poisoned, after = companion_step(
            VALUES[kind],
            *args,
            **keywords,
            queue_size=problem.queue_size,
            **options_of_reference(kind, problem),
        )
        doubts = doubtful(kind, problem, rows, queue)
        event(f"valid: {sum(valid)} of {len(valid)} classes")
        allowed = []
        for c in range(problem.num_classes):
            tau = terms.stats["tau_eff"][c].item()
            tol = tolerance(problem, rows, queue, tau if tau > 0 else math.inf, c)
            bce = problem.options.get("bce_weight", 0.0)
            allowed.append(tol.loss + 64 * problem.eps * bce * 31)
            if doubts[c]:
                continue
            assert terms.valid[c].item() is valid[c]
            if poisoned[c]:
                assert math.isnan(terms.per_class[c].item())
            else:
                assert_close(terms.per_class[c].item(), per_class[c], tol.loss, f"class {c}")
        if isinstance(loss, list):
            for c, value in enumerate(loss):
                if not doubts[c]:
                    assert_close(terms.loss[c].item(), value, allowed[c], f"loss[{c}]")
        elif not any(doubts):
            assert_close(terms.loss.item(), loss, sum(allowed), "loss")
        queue, state = after, terms.queue
        assert as_rows(state) == queue


@both
@classes
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_gradcheck(kind, num_classes, temperature):
    """Threshold and scale come from the queue alone, so that nothing detached moves."""
    logits, targets = batch(num_classes, 12)
    queue, mask = filled_queue(num_classes), torch.zeros(12, dtype=torch.bool)

    def loss(logits):
        return LOSSES[kind](logits, targets, queue, iid_mask=mask, temperature=temperature)[0]

    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), atol=1e-7, rtol=1e-6)


def test_gradcheck_of_average_precision_in_raw_units():
    logits, targets = batch(3, 20)
    weight = torch.rand(20, dtype=torch.float64)

    def loss(logits):
        terms = smooth_ap_terms(
            logits,
            targets,
            init_queue(0, 3),
            sample_weight=weight,
            tau_scale="unit",
            temperature=0.5,
            bce_weight=0.3,
        )
        return terms.loss

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@classes
@pytest.mark.parametrize("scale", ["pool", "live"])
def test_the_sums_in_linear_memory_are_those_of_the_matrix(num_classes, scale, monkeypatch):
    logits, targets = batch(num_classes, 300)
    queue = filled_queue(num_classes)
    options = {"gradient_scale": scale, "temperature": 0.3}
    expected = value_and_gradient("ap", logits, targets, queue, **options)
    monkeypatch.setattr("pauc.pairs.operator.few_pairs", lambda *_: False)
    monkeypatch.setattr("pauc.pairs.blocks.few_pairs", lambda *_: False)
    found = value_and_gradient("ap", logits, targets, queue, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


# --- identities ---


@cases
@given(num_classes=st.sampled_from([1, 3]), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_shift_and_scale_change_nothing(kind, options, num_classes, scale, shift):
    logits, targets = batch(num_classes)
    queue = filled_queue(num_classes)
    moved = queue._replace(scores=queue.scores * scale + shift)
    loss, gradient = value_and_gradient(kind, logits, targets, queue, **options)
    other, other_gradient = value_and_gradient(
        kind, logits * scale + shift, targets, moved, **options
    )
    torch.testing.assert_close(other, loss, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(other_gradient * scale, gradient, rtol=1e-6, atol=1e-8)


@cases
@classes
def test_the_order_of_the_rows_changes_nothing(kind, options, num_classes):
    logits, targets = batch(num_classes)
    queue = filled_queue(num_classes)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    loss, gradient = value_and_gradient(kind, logits, targets, queue, **options)
    other, moved = value_and_gradient(kind, logits[order], targets[order], queue, **options)
    torch.testing.assert_close(other, loss, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(moved, gradient[order], rtol=1e-10, atol=1e-13)


@cases
@classes
def test_an_ignored_row_is_an_absent_row(kind, options, num_classes):
    logits, targets = batch(num_classes)
    queue = filled_queue(num_classes)
    targets[::4] = -100
    logits[::8] = math.nan
    kept = targets != -100
    loss, gradient = value_and_gradient(kind, logits, targets, queue, **options)
    other, own = value_and_gradient(kind, logits[kept], targets[kept], queue, **options)
    torch.testing.assert_close(loss, other, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(gradient[kept], own, rtol=1e-12, atol=1e-14)
    assert (gradient[~kept] == 0).all()


@classes
@given(seed=st.integers(0, 2**32 - 1), weighted=st.booleans())
def test_average_precision_at_zero_temperature_is_that_of_scikit_learn(num_classes, seed, weighted):
    logits, targets = batch(num_classes, 50, seed)
    weight = torch.ones(50, dtype=torch.float64)
    if weighted and num_classes == 1:  # scikit-learn weighs ranks too: all positives alike, then
        weight = torch.where(targets == 1, 3.0, 7.0).double()
    terms = smooth_ap_terms(
        logits,
        targets,
        init_queue(0, num_classes),
        sample_weight=weight,
        temperature=1e-12,
        diagnostics=True,
    )
    for c in range(num_classes):
        positive = (targets == (1 if num_classes == 1 else c)).numpy()
        assume(0 < positive.sum() < 50)
        expected = average_precision_score(positive, logits[:, c].numpy())
        assert 1 - terms.per_class[c].item() == pytest.approx(expected, abs=1e-12)
        assert terms.stats["ap"][c].item() == pytest.approx(expected, abs=1e-12)


@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_reported_average_precision_keeps_ties_together(scores, seed):
    logits = torch.tensor(scores, dtype=torch.float64).unsqueeze(1)
    targets = torch.randint(0, 2, (len(scores),), generator=torch.Generator().manual_seed(seed))
    assume(0 < targets.sum() < len(scores))
    terms = smooth_ap_terms(
        logits, targets, init_queue(0, 1), tau_scale="unit", temperature=1.0, diagnostics=True
    )
    expected = average_precision_score(targets.numpy(), logits[:, 0].numpy())
    assert terms.stats["ap"].item() == pytest.approx(expected, abs=1e-12)


@given(seed=st.integers(0, 2**32 - 1), quantile=st.integers(1, 127))
def test_recall_at_zero_temperature_is_the_metric(seed, quantile):
    count, quantile = 129, quantile / 128  # 128 steps: the rank of the threshold is whole
    logits, targets = batch(1, count, seed)
    terms = recall_at_quantile_terms(
        logits,
        targets,
        init_queue(0, 1),
        quantile=quantile,
        temperature=1e-12,
        diagnostics=True,
    )
    expected = coverage_at_budget(logits, targets, quantile).item()
    assert terms.stats["recall"].item() == pytest.approx(expected, abs=1e-12)
    # A positive that is the threshold itself counts half.
    at = (logits[:, 0] == terms.stats["threshold"]) & (targets == 1)
    half = 0.5 * at.sum().item() / (targets == 1).sum().item()
    assert 1 - terms.loss.item() == pytest.approx(expected + half, abs=1e-9)


@given(
    num_classes=st.sampled_from([1, 3]),
    basis=st.sampled_from(["population", "fpr"]),
    edge=st.sampled_from(["detached", "implicit"]),
    scale=st.sampled_from(["pool", "live"]),
    seed=st.integers(0, 2**32 - 1),
    quantile=st.floats(0.01, 0.99),
)
def test_recall_is_the_trapezoid_over_a_band_without_width(
    num_classes, basis, edge, scale, seed, quantile
):
    logits, targets = batch(num_classes, 60, seed)
    queue = filled_queue(num_classes)
    shared = {
        "budget_basis": basis,
        "edge_gradient": edge,
        "gradient_scale": scale,
        "quantile_interpolation": "linear",
        "bce_weight": 0.5,
    }
    found = value_and_gradient("recall", logits, targets, queue, quantile=quantile, **shared)
    attached = logits.clone().requires_grad_()
    band = {"alpha": quantile - 1e-9, "beta": quantile}
    loss, _ = pauc_loss_fn(attached, targets, queue, **band, **shared)
    loss.backward()
    torch.testing.assert_close(found, (loss.detach(), attached.grad), rtol=1e-5, atol=1e-6)


def test_single_positives_by_hand():
    logits = torch.tensor([[3.0], [1.0], [2.0], [0.0]], dtype=torch.float64)
    targets, queue = torch.tensor([0, 0, 1, 0]), init_queue(0, 1)
    options = {"tau_scale": "unit", "temperature": 1.0}
    above = sum(1 / (1 + math.exp(2.0 - s)) for s in (3.0, 1.0, 0.0))
    loss, _ = smooth_ap_loss_fn(logits, targets, queue, **options)
    assert loss.item() == pytest.approx(1 - 1 / (1 + above), abs=1e-12)
    # The threshold is the second largest of all four scores, the positive's own.
    loss, _ = recall_at_quantile_loss_fn(logits, targets, queue, quantile=0.5, **options)
    assert loss.item() == pytest.approx(0.5, abs=1e-12)
    # Of the three negatives it is the second largest too: 1.
    loss, _ = recall_at_quantile_loss_fn(
        logits, targets, queue, quantile=0.5, budget_basis="fpr", **options
    )
    assert loss.item() == pytest.approx(1 / (1 + math.e), abs=1e-12)


def test_the_variance_is_over_the_positives_contributions():
    logits, targets = batch(1, 30)
    weight = torch.rand(30, dtype=torch.float64)
    side = {"sample_weight": weight, "diagnostics": True, "tau_scale": "unit", "temperature": 1.0}
    (pool,), _ = own_pools(
        (
            (logits.tolist(), targets.tolist(), []),
            {"iid": None, "weight": weight.tolist(), "num_classes": 1},
        )
    )
    own = [x for x in pool if x.positive]
    recall = recall_at_quantile_terms(logits, targets, init_queue(0, 1), quantile=0.2, **side)
    threshold = recall.stats["threshold"].item()
    soft = [sigmoid(x.score - threshold) for x in own]
    expected = weighted_variance(soft, [x.weight for x in own])
    assert recall.stats["recall_var"].item() == pytest.approx(expected, rel=1e-12)
    ap = smooth_ap_terms(logits, targets, init_queue(0, 1), **side)
    soft = [soft_precision(x, pool, 1.0) for x in own]
    expected = weighted_variance(soft, [x.weight for x in own])
    assert ap.stats["ap_var"].item() == pytest.approx(expected, rel=1e-10)


@classes
def test_the_mask_of_iid_rows_moves_the_scale_of_smooth_ap_alone(num_classes):
    logits, targets = batch(num_classes)
    mask, queue = torch.arange(60) % 3 == 0, init_queue(0, num_classes)
    raw = {"tau_scale": "unit", "temperature": 0.5}
    plain = smooth_ap_loss_fn(logits, targets, queue, **raw)[0]
    assert torch.equal(smooth_ap_loss_fn(logits, targets, queue, iid_mask=mask, **raw)[0], plain)
    # All rows marked: nothing to read a scale from, but raw units need none.
    none = torch.zeros(60, dtype=torch.bool)
    terms = smooth_ap_terms(logits, targets, queue, iid_mask=none)
    assert not terms.valid.any()
    assert not terms.degenerate.any()
    assert torch.equal(smooth_ap_loss_fn(logits, targets, queue, iid_mask=none, **raw)[0], plain)


# --- gradients of a pool of which the batch is a part ---


@both
@classes
@pytest.mark.parametrize("copies", [1, 3])
def test_the_live_gradient_is_that_of_the_whole_pool(kind, num_classes, copies):
    """Where the queue holds copies of the batch, a row's gradient is that of all its copies."""
    logits, targets = batch(num_classes)
    weight = torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    options = {"quantile": 0.3, "edge_gradient": "implicit"} if kind == "recall" else {}
    queue = init_queue(60 * copies, num_classes, dtype=torch.float64)
    for _ in range(copies):
        queue = enqueue(queue, logits, targets, sample_weight=weight)
    loss, gradient = value_and_gradient(
        kind, logits, targets, queue, sample_weight=weight, gradient_scale="live", **options
    )
    many = copies + 1
    expected, of_all = value_and_gradient(
        kind,
        logits.repeat(many, 1),
        targets.repeat(many),
        init_queue(0, num_classes),
        sample_weight=weight.repeat(many),
        **options,
    )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    summed = of_all.reshape(many, 60, num_classes).sum(dim=0)
    torch.testing.assert_close(gradient, summed, rtol=1e-9, atol=1e-12)


@both
def test_without_a_queue_the_two_gradient_scales_are_one(kind):
    logits, targets = batch(3)
    pool, live = (
        value_and_gradient(kind, logits, targets, init_queue(0, 3), gradient_scale=scale)
        for scale in ("pool", "live")
    )
    torch.testing.assert_close(pool, live, rtol=1e-12, atol=1e-14)


def test_the_capped_recall_is_an_unbiased_estimate():
    logits, targets = batch(3, 90)
    queue = filled_queue(3)
    options = {"quantile": 0.3, "temperature": 0.5}
    expected = value_and_gradient("recall", logits, targets, queue, **options)
    draws = [
        value_and_gradient(
            "recall",
            logits,
            targets,
            queue._replace(step=torch.tensor(step)),
            max_pool_size=40,
            **options,
        )
        for step in range(400)
    ]
    for k in range(2):
        values = torch.stack([draw[k] for draw in draws])
        error = values.std(dim=0) / 20
        # Five sigma for each of 271 numbers: a false failure in about 1 of 6,000 sets of draws.
        assert ((values.mean(dim=0) - expected[k]).abs() <= 5 * error + 1e-12).all()
        assert (error > 0).any()


# --- what the options share ---


def test_the_options_for_type_checkers_are_the_configurations():
    pairs = [
        (pauc.RecallAtQuantileOptions, RecallAtQuantileConfig),
        (pauc.SmoothAPOptions, SmoothAPConfig),
    ]
    for options, config in pairs:
        assert set(options.__annotations__) == set(config._fields)
        assert all(
            options.__annotations__[name].__forward_arg__ == kind
            for name, kind in config.__annotations__.items()
            if isinstance(kind, str)
        )


def test_shared_options_have_the_defaults_of_the_partial_auc():
    owner = PAUCConfig()._asdict()
    different = {
        (kind, name)
        for kind, config in CONFIGS.items()
        for name, default in config()._asdict().items()
        if name in owner and owner[name] != default
    }
    assert different == {("recall", "budget_basis")}
