"""The native step: against the pure loss, whatever the bounds that it looks between."""

from __future__ import annotations

import copy
import io
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch.fx.experimental.proxy_tensor import make_fx

from pauc import PAUCAtBudgetLoss, init_queue, pauc_loss_fn
from pauc.backends import Plan, plan_step, take_step
from pauc.config import PAUCConfig, make_config
from pauc.core.batch import Rows
from pauc.core.outcome import PAUCTerms
from pauc.native import extension
from pauc.native.entry import NativeEntry

pytestmark = pytest.mark.skipif(extension.ext is None, reason="installed without a compiler")
KINDS = ["normal", "ties", "constant", "drift", "jump", "heavy"]


def scores_of(kind, step, count, classes, g):
    x = torch.randn(count, classes, generator=g, dtype=torch.float64)
    if kind == "ties":
        return (2 * x).round() / 2
    if kind == "constant":
        return torch.zeros_like(x)
    if kind == "drift":
        return x + 0.2 * step
    if kind == "jump":
        return x * (10.0 if step == 5 else 1.0)
    if kind == "heavy":
        return x / torch.randn(count, classes, generator=g, dtype=torch.float64).abs().clamp(1e-3)
    return x


def stream(kind, classes, steps, count, seed, *, plain=False, multilabel=False):
    """Batches with ignored rows, rows that are not iid, weights, and now and then a nan."""
    g = torch.Generator().manual_seed(seed)
    for step in range(steps):
        logits = scores_of(kind, step, count, classes, g)
        targets = torch.randint(0, max(classes, 2), (count,), generator=g)
        if classes == 1:
            targets = (torch.rand(count, generator=g) < 0.1).long()
        if multilabel:
            targets = (torch.rand(count, classes, generator=g) < 0.3).long()
            targets[torch.rand(count, classes, generator=g) < 0.2] = -100
        if plain:
            yield logits.float(), targets, None, None
            continue
        if step % 3 == 1:
            targets[torch.rand(count, generator=g) < 0.1] = -100
        iid = torch.rand(count, generator=g) < 0.8 if step % 4 == 2 else None
        weight = torch.randint(0, 3, (count,), generator=g).double() if step % 4 == 3 else None
        if step % 7 == 4:
            logits[step % count, 0] = torch.nan
        yield logits, targets, iid, weight


def native_step(
    logits, targets, queue, bounds, config, *, iid_mask=None, sample_weight=None, **flags
):
    """The outcome, the native entry (None: the step was declined) and bounds."""
    rows = Rows(logits, targets, iid_mask, sample_weight)
    outcome, bounds = take_step(rows, queue, plan_step(config), bounds=bounds, **flags)
    return outcome, outcome.entry if isinstance(outcome.entry, NativeEntry) else None, bounds


def by_operators(
    logits,
    targets,
    queue,
    *,
    iid_mask=None,
    sample_weight=None,
    validate_args=True,
    **options,
):
    """The same by operators alone."""
    rows, plan = Rows(logits, targets, iid_mask, sample_weight), Plan(make_config(options), None)
    outcome, _ = take_step(rows, queue, plan, validate_args=validate_args)
    return PAUCTerms(*outcome[:6], outcome.entry.into(queue))


def copied(state):
    return type(state)(*(tensor.clone() for tensor in state))


def run(step, logits, *arguments):
    """Loss, gradient and the rest of a step."""
    attached = logits.clone().requires_grad_()
    terms, *rest = step(attached, *arguments)
    terms.loss.sum().backward()
    return terms, attached.grad, rest


OPTIONS = [
    {},
    {"alpha": 0.02, "beta": 0.1, "n_knots": 4, "quantile_interpolation": "linear"},
    {"tau_scale": "band", "beta": 0.05, "quantile_interpolation": "nearest", "bce_weight": 0.1},
    {"surrogate": "pairwise", "beta": 0.05},
    {"surrogate": "pairwise", "beta": 1.0, "temperature": 2.0, "quantile_interpolation": "lower"},
    {"surrogate": "pairwise", "beta": 0.3, "temperature": 1e-3, "gradient_scale": "live"},
    {
        "surrogate": "pairwise",
        "alpha": 0.01,
        "beta": 0.2,
        "link": "logistic",
        "gradient_scale": "live",
        "tau_scale": "unit",
        "pos_numerator": "live",
        "reduction": "none",
        "quantile_interpolation": "midpoint",
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize(("classes", "multilabel"), [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_the_operators_whatever_the_bounds(
    kind, options, classes, multilabel, validate_args
):
    config = PAUCConfig(**options)
    queue = init_queue(500, classes, multilabel=multilabel, dtype=torch.float64)
    bounds = None
    for logits, targets, iid, weight in stream(kind, classes, 16, 96, 1, multilabel=multilabel):
        rows = {"iid_mask": iid, "sample_weight": weight, "validate_args": validate_args}

        def native(logits, bounds, queue=queue, targets=targets, rows=rows):
            return native_step(logits, targets, queue, bounds, config, **rows)

        def pure(logits, queue=queue, targets=targets, rows=rows):
            return (by_operators(logits, targets, queue, **rows, **options),)

        before = copied(queue)
        terms, grad, (entry, bounds) = run(native, logits, bounds)
        others, other_grad, _ = run(native, logits, None)
        expected, expected_grad, _ = run(pure, logits)
        # Bit for bit: a run that is resumed has no bounds.
        for name in ("loss", "per_class", "valid", "degenerate", "ref_count"):
            assert torch.equal(
                getattr(terms, name).nan_to_num(), getattr(others, name).nan_to_num()
            )
        assert torch.equal(grad.nan_to_num(), other_grad.nan_to_num())
        # A table of sums errs by less than 1e-6, and its slopes are not used.
        assert torch.allclose(terms.loss, expected.loss, atol=1e-6, equal_nan=True)
        assert torch.allclose(terms.per_class, expected.per_class, atol=1e-6, equal_nan=True)
        assert torch.allclose(grad, expected_grad, rtol=1e-7, atol=1e-12, equal_nan=True)
        assert torch.equal(terms.valid, expected.valid)
        known = ~(terms.valid & terms.per_class.isnan())  # there is no quantile of a nan
        assert torch.equal(terms.degenerate[known], expected.degenerate[known])
        assert torch.equal(terms.ref_count, expected.ref_count)
        assert entry is not None
        assert all(torch.equal(a, b) for a, b in zip(queue, before, strict=True))
        queue = before
        entry.into(queue, in_place=True)
        assert all(torch.equal(a, b) for a, b in zip(queue, expected.queue, strict=True))


@given(
    kind=st.sampled_from(KINDS),
    classes=st.sampled_from([1, 2, 5]),
    size=st.integers(0, 300),
    count=st.integers(1, 200),
    bounds=st.floats(width=32),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 2**20),
    multilabel=st.booleans(),
)
def test_any_sizes_bounds_and_dtypes(kind, classes, size, count, bounds, dtype, seed, multilabel):
    options = {"surrogate": "pairwise" if seed % 2 else "trapezoid", "beta": 0.1}
    loss = PAUCAtBudgetLoss(classes, multilabel=multilabel, queue_size=size, **options)
    if dtype == torch.float64:
        loss.double()
    loss._seen.kinds = {"degenerate", "starved"}
    for logits, targets, iid, weight in stream(
        kind, classes, 6, count, seed, multilabel=multilabel
    ):
        logits = logits.to(dtype)
        expected = by_operators(
            logits, targets, loss.queue, iid_mask=iid, sample_weight=weight, **options
        )
        if loss._bounds is not None and seed % 3 == 0:
            loss._bounds = torch.full_like(loss._bounds, bounds)
        value = loss(logits, targets, iid, sample_weight=weight)
        assert torch.allclose(value, expected.loss, atol=2e-6, equal_nan=True)
        assert all(torch.equal(a, b) for a, b in zip(loss.queue, expected.queue, strict=True))


@pytest.mark.parametrize("link", ["sigmoid", "logistic"])
@pytest.mark.parametrize("pos_numerator", ["pool", "live"])
@pytest.mark.parametrize("temperature", [0.02, 1.0, 100.0])
@pytest.mark.parametrize("shift", [-60.0, -2.0, 0.0, 3.0, 200.0])
def test_many_pairs(link, pos_numerator, temperature, shift):
    """So many positives that their sums come from a table; far below the band and above."""
    g = torch.Generator().manual_seed(0)
    targets = (torch.arange(12_000) % 2).roll(1)
    logits = torch.randn(12_000, 1, generator=g, dtype=torch.float64) + shift * targets.view(-1, 1)
    options = {"surrogate": "pairwise", "beta": 0.02, "link": link, "temperature": temperature}
    options["pos_numerator"] = pos_numerator
    state = by_operators(
        logits[200:], targets[200:], init_queue(12_000, 1, dtype=torch.float64), beta=0.02
    ).queue
    found, expected = logits[:200].clone(), logits[:200].clone()
    terms, entry, _ = native_step(
        found.requires_grad_(), targets[:200], state, None, PAUCConfig(**options)
    )
    assert entry is not None
    loss = by_operators(expected.requires_grad_(), targets[:200], state, **options).loss
    terms.loss.backward()
    loss.backward()
    assert torch.allclose(terms.loss, loss, rtol=1e-6, atol=1e-6)
    assert torch.allclose(found.grad, expected.grad, rtol=1e-6, atol=1e-13)


def test_more_pairs_than_the_native_code_takes_are_left_to_the_pure_loss():
    targets = torch.arange(30_000) % 2
    logits = torch.randn(30_000, 1, generator=torch.Generator().manual_seed(0))
    config = PAUCConfig(surrogate="pairwise", beta=1.0)
    queue = init_queue(30_000, 1)
    terms, entry, _ = native_step(logits, targets, queue, None, config)
    assert entry is None
    assert torch.equal(terms.loss, by_operators(logits, targets, queue, **config._asdict()).loss)


def trained(steps=8, **options):
    loss = PAUCAtBudgetLoss(1, queue_size=2000, beta=0.02, **options)
    for logits, targets, *_ in stream("normal", 1, steps, 500, 0, plain=True):
        loss(logits, targets)
    assert loss._bounds is not None
    return loss


def assert_as_the_pure_loss(loss):
    logits, targets, *_ = next(stream("normal", 1, 1, 500, 9, plain=True))
    expected, _ = by_operators(logits, targets, loss.queue, beta=0.02)[:2]
    assert torch.allclose(loss(logits, targets), expected, equal_nan=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda loss: loss.queue_scores.mul_(-3),
        lambda loss: loss.queue_scores[0, :9].fill_(torch.nan),
        lambda loss: loss.queue_scores[0, :9].fill_(-torch.inf),
        lambda loss: loss.queue_targets.copy_(loss.queue_targets.flip(0)),
        lambda loss: loss.queue_iid[:900].fill_(False),
        lambda loss: setattr(loss, "queue_scores", -loss.queue_scores),
        lambda loss: setattr(loss, "queue_scores", loss.queue_scores.repeat(1, 2)[:, ::2]),
        lambda loss: loss.load_state_dict(trained(steps=5).state_dict()),
        lambda loss: loss.reset_queue(),
        lambda loss: loss.to(torch.float64).to(torch.float32),
    ],
)
def test_rows_that_somebody_has_touched(change):
    loss = trained()
    change(loss)
    assert_as_the_pure_loss(loss)


def test_rows_of_the_queue_whose_targets_are_no_class_are_negatives():
    loss = PAUCAtBudgetLoss(3, queue_size=900, beta=0.1)
    for logits, targets, *_ in stream("normal", 3, 3, 300, 0, plain=True):
        loss(logits, targets)
    loss.queue_targets[5:9] = torch.tensor([7, -3, 2**40, -(2**40)])
    logits, targets, *_ = next(stream("normal", 3, 1, 300, 1, plain=True))
    expected = by_operators(logits, targets, loss.queue, beta=0.1).loss
    assert torch.allclose(loss(logits, targets), expected, equal_nan=True)


def test_without_the_native_code_the_loss_is_the_same(monkeypatch):
    batches = list(stream("normal", 2, 8, 300, 0, plain=True))
    native = PAUCAtBudgetLoss(2, queue_size=2000, beta=0.02)
    values = [native(logits, targets) for logits, targets, *_ in batches]
    monkeypatch.setattr(extension, "ext", None)
    plain = PAUCAtBudgetLoss(2, queue_size=2000, beta=0.02)
    for value, (logits, targets, *_) in zip(values, batches, strict=True):
        assert torch.allclose(plain(logits, targets), value)
    assert plain._bounds is None
    assert all(torch.equal(a, b) for a, b in zip(native.queue, plain.queue, strict=True))


def test_copies_and_pickles_go_on_bit_for_bit():
    loss = trained()
    twins = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), trained(steps=1)]
    twins[-1].load_state_dict(loss.state_dict())
    for logits, targets, *_ in stream("normal", 1, 5, 500, 3, plain=True):
        expected = loss(logits, targets)
        assert all(torch.equal(twin(logits, targets), expected) for twin in twins)


def test_steps_in_inference_mode_and_in_training():
    loss = PAUCAtBudgetLoss(1, queue_size=2000, beta=0.02, surrogate="pairwise")
    with torch.inference_mode():
        for logits, targets, *_ in stream("normal", 1, 8, 500, 0, plain=True):
            loss(logits, targets)
    for logits, targets, *_ in stream("normal", 1, 3, 500, 1, plain=True):
        expected = by_operators(logits, targets, loss.queue, beta=0.02, surrogate="pairwise").loss
        value = loss(logits.requires_grad_(), targets)
        value.backward()
        assert torch.allclose(value, expected, atol=1e-6)


def test_a_schedule_of_the_band():
    loss = PAUCAtBudgetLoss(2, queue_size=2000)
    for step, (logits, targets, *_) in enumerate(stream("normal", 2, 12, 400, 0, plain=True)):
        beta = 0.8**step
        loss.config = loss.config._replace(beta=beta)
        expected = by_operators(logits, targets, loss.queue, beta=beta).loss
        assert torch.allclose(loss(logits, targets), expected, equal_nan=True)


def test_options_are_checked_as_ever():
    loss = trained()
    before = loss.config
    with pytest.raises(ValueError, match="temperature"):
        loss.config = loss.config._replace(temperature=-1.0)
    assert loss.config == before
    loss(torch.randn(5, 1), torch.zeros(5, dtype=torch.int64))


def test_a_checkpoint_has_rows_and_no_bounds():
    loss = trained()
    assert set(loss.state_dict()) == {f"queue_{name}" for name in init_queue(1, 1)._fields}
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    assert buffer.tell() < 2000 * 17 + 10_000


def test_what_has_no_memory_of_its_own_takes_the_other_path():
    loss = trained()
    loss.eval()
    logits, targets, *_ = next(stream("normal", 1, 1, 500, 9, plain=True))
    expected = loss(logits, targets)
    with torch.device("meta"):
        assert torch.allclose(loss(logits, targets), expected)
    squared = torch.func.grad(lambda weight: weight**2 * loss(logits, targets))
    assert torch.allclose(squared(torch.tensor(3.0)), 6 * expected)
    with pytest.raises(RuntimeError, match="unallocated storage"):  # the other path's
        torch.func.functionalize(lambda x: loss(x, targets))(logits)


@pytest.mark.parametrize("validate_args", [True, False])
@pytest.mark.parametrize(
    ("counter", "value"),
    [("fill", -3), ("fill", 2001), ("fill", 7), ("cursor", -1), ("cursor", 2000), ("step", -1)],
)
def test_a_queue_with_impossible_counters_is_not_read(counter, value, validate_args):
    loss = trained()
    loss.validate_args = validate_args
    getattr(loss, f"queue_{counter}").fill_(value)
    before = copied(loss.queue)
    logits, targets, *_ = next(stream("normal", 1, 1, 500, 9, plain=True))
    with pytest.raises(ValueError, match=f"{counter}={value}.*which no queue can have"):
        loss(logits, targets)
    assert all(map(torch.equal, loss.queue, before))


def test_a_graph_that_has_kept_the_queue_notices_that_rows_entered():
    loss = trained()
    weight = torch.ones((), requires_grad=True)
    kept = (loss.queue_scores * weight).sum()
    logits, targets, *_ = next(stream("normal", 1, 1, 500, 9, plain=True))
    loss(logits, targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


def test_a_step_that_warns_as_an_error_leaves_the_queue_as_it_was():
    loss = PAUCAtBudgetLoss(1, queue_size=50, beta=0.5)
    before = copied(loss.queue)
    with pytest.raises(UserWarning, match="no dispersion"):
        loss(torch.zeros(40, 1), torch.arange(40) % 2)
    assert all(torch.equal(a, b) for a, b in zip(loss.queue, before, strict=True))


@pytest.mark.parametrize("classes", [1, 3])
def test_bad_values_are_refused_or_taken_as_the_pure_loss_takes_them(classes):
    logits = torch.randn(60, classes, dtype=torch.float64)
    targets, weight = torch.arange(60) % 2, torch.ones(60, dtype=torch.float64)
    targets[7], weight[0] = 9, -1.0
    queue, config = init_queue(50, classes, dtype=torch.float64), PAUCConfig(beta=0.5)
    with pytest.raises(ValueError, match="targets must be"):
        native_step(logits, targets, queue, None, config)
    with pytest.raises(ValueError, match="sample_weight must be"):
        native_step(logits, targets % 2, queue, None, config, sample_weight=weight)
    terms, entry, _ = native_step(logits, targets, queue, None, config, validate_args=False)
    expected = by_operators(logits, targets, queue, validate_args=False, beta=0.5)
    assert torch.allclose(terms.loss, expected.loss)
    entry.into(queue, in_place=True)
    assert all(torch.equal(a, b) for a, b in zip(queue, expected.queue, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_pure_function_changes_nothing_and_equals_the_operators(options):
    queue = init_queue(300, 3, dtype=torch.float64)
    for logits, targets, iid, weight in stream("normal", 3, 9, 80, seed=2):
        rows = {"iid_mask": iid, "sample_weight": weight, **options}
        given = logits, targets, *queue
        before = [part.clone() for part in given]
        loss, after = pauc_loss_fn(logits, targets, queue, **rows)
        expected = by_operators(logits, targets, queue, **rows)
        assert torch.allclose(loss, expected.loss, atol=1e-6, equal_nan=True)
        assert all(torch.equal(a, b) for a, b in zip(after, expected.queue, strict=True))
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(given, before, strict=True)
        )
        addresses = [part.data_ptr() for part in (*queue, *after)]
        assert len(set(addresses)) == len(addresses)
        queue = after


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_who_traces_sees_operators(pre_dispatch):
    """Of a native call, a trace would keep the numbers and not how they came about."""
    logits, targets = torch.randn(40, 1), torch.arange(40) % 2
    queue = init_queue(50, 1)

    def loss(logits):
        return pauc_loss_fn(logits, targets, queue, beta=0.5, validate_args=False)[0]

    traced = make_fx(loss, pre_dispatch=pre_dispatch)(torch.zeros(40, 1))
    assert torch.allclose(traced(logits), loss(logits))


def test_a_gradient_to_the_queue_is_that_of_the_operators():
    logits, targets, *_ = next(stream("normal", 1, 1, 60, 0))
    _, queue = pauc_loss_fn(logits, targets, init_queue(60, 1, dtype=torch.float64))
    held = queue.scores.requires_grad_()
    pauc_loss_fn(logits, targets, queue, beta=0.5)[0].backward()
    assert held.grad.any()
