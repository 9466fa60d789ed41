"""Steps with windows that are carried along: against steps without, and against the pure loss."""

from __future__ import annotations

import copy
import io
import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from pauc import PAUCAtBudgetLoss, init_queue, pauc_loss_terms, windows
from pauc.carried import pauc_step
from pauc.config import PAUCConfig
from pauc.queue import write_entry_

KINDS = ["normal", "ties", "constant", "drift", "jump", "heavy"]


def scores_of(kind, step, count, classes, g):
    x = torch.randn(count, classes, generator=g)
    if kind == "ties":
        return (2 * x).round() / 2
    if kind == "constant":
        return torch.zeros_like(x)
    if kind == "drift":
        return x + 0.2 * step
    if kind == "jump":
        return x * (10.0 if step == 5 else 1.0)
    if kind == "heavy":
        return x / torch.randn(count, classes, generator=g).abs().clamp(min=1e-3)
    return x


def stream(kind, classes, steps, count, seed, *, plain=False):
    """Batches with ignored rows, rows that are not iid, weights, and now and then a nan."""
    g = torch.Generator().manual_seed(seed)
    for step in range(steps):
        logits = scores_of(kind, step, count, classes, g)
        targets = torch.randint(0, max(classes, 2), (count,), generator=g)
        if classes == 1:
            targets = (torch.rand(count, generator=g) < 0.1).long()
        if plain:
            yield logits, targets, None, None
            continue
        if step % 3 == 1:
            targets[torch.rand(count, generator=g) < 0.1] = -100
        iid = torch.rand(count, generator=g) < 0.8 if step % 4 == 2 else None
        weight = torch.randint(0, 3, (count,), generator=g).float() if step % 4 == 3 else None
        if step % 7 == 4:
            logits[step % count, 0] = torch.nan
        yield logits, targets, iid, weight


def run(step, logits, *arguments):
    """Loss, gradient and the rest of a step."""
    attached = logits.clone().requires_grad_()
    terms, *rest = step(attached, *arguments)
    terms.loss.sum().backward()
    return terms, attached.grad, rest


def assert_windows_are_true(carried, queue):
    """What is carried is what the rows say, from scratch."""
    fill, size = int(queue.fill), queue.targets.shape[0]
    classes, held = queue.scores.shape[0], carried.windows
    assert (held.values[..., :-1] <= held.values[..., 1:]).all()
    is_held = held.numbers >= held.oldest
    oldest = int(queue.cursor) if fill == size else 0
    slots = (torch.arange(fill) + oldest) % size  # oldest row first
    scores, targets = queue.scores[:, slots], queue.targets[slots]
    iid, weight = queue.iid[slots], queue.weight[slots]
    assert carried.others == int((~iid).sum())
    positive = targets == 1 if classes == 1 else torch.ones_like(iid)
    own = torch.zeros_like(targets) if classes == 1 else targets
    assert torch.equal(carried.positives.class_index, own[positive])
    assert torch.equal(carried.positives.scores, scores[own, torch.arange(fill)][positive])
    assert torch.equal(carried.positives.weight, weight[positive])
    for c in range(classes):
        is_reference = iid & (targets != (1 if classes == 1 else c))
        reference = scores[c, is_reference]
        assert int(carried.negatives[c]) == len(reference)
        for g in range(len(held.values)):
            above, within = held.bounds[:, g, c]
            if above.isnan():
                assert not is_held[g, c].any()
                continue
            inside = (reference > within) & (reference <= above)
            kept = is_held[g, c]
            assert torch.equal(
                held.values[g, c][kept].sort().values, reference[inside].sort().values
            )
            numbers = held.numbers[g, c][kept].long() - (carried.newest + 1 - fill)
            assert torch.equal(scores[c, numbers], held.values[g, c][kept])
            assert torch.equal(numbers.sort().values, is_reference.nonzero()[inside].squeeze(1))
            assert int(held.beyond[0, g, c]) == int((reference > above).sum())
            assert int(held.beyond[1, g, c]) == int((reference > within).sum())


OPTIONS = [
    {},
    {"alpha": 0.02, "beta": 0.1, "n_knots": 4, "quantile_interpolation": "linear"},
    {"tau_scale": "band", "beta": 0.05, "quantile_interpolation": "nearest", "bce_weight": 0.1},
    {"surrogate": "pairwise", "beta": 0.05},
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


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_equal_those_without_windows_and_the_pure_loss(kind, options, classes):
    config = PAUCConfig(**options)
    queue, carried, used = init_queue(500, classes), None, 0
    for logits, targets, iid, weight in stream(kind, classes, 16, 96, seed=1):
        rows = {"iid_mask": iid, "sample_weight": weight}

        def with_windows(logits, queue=queue, known=carried, targets=targets, rows=rows):
            return pauc_step(logits, targets, queue, known, config, **rows)

        def without(logits, queue=queue, targets=targets, rows=rows):
            return pauc_step(logits, targets, queue, None, config, **rows)

        def pure(logits, queue=queue, targets=targets, rows=rows):
            return (pauc_loss_terms(logits, targets, queue, **rows, **options),)

        terms, grad, (entry, carried) = run(with_windows, logits)
        others, other_grad, _ = run(without, logits)
        expected, expected_grad, _ = run(pure, logits)
        # Bit for bit: a run that is resumed has no windows.
        for name in ("loss", "per_class", "valid", "degenerate", "ref_count"):
            assert torch.equal(
                getattr(terms, name).nan_to_num(), getattr(others, name).nan_to_num()
            )
        assert torch.equal(grad.nan_to_num(), other_grad.nan_to_num())
        # float32 sums over up to a thousand pairs, in another order
        assert torch.allclose(terms.per_class, expected.per_class, atol=2e-6, equal_nan=True)
        assert torch.allclose(grad, expected_grad, atol=1e-6, equal_nan=True)
        assert torch.equal(terms.valid, expected.valid)
        assert torch.equal(terms.ref_count, expected.ref_count)
        if entry is None:
            queue = terms.queue
        else:
            used += 1
            queue = type(queue)(*(tensor.clone() for tensor in queue))
            write_entry_(queue, entry)
            assert_windows_are_true(carried, queue)
        assert all(torch.equal(a, b) for a, b in zip(queue, expected.queue, strict=True))
    assert used >= 13  # all but the steps with a nan


@given(
    kind=st.sampled_from(KINDS),
    classes=st.sampled_from([1, 2, 5]),
    size=st.integers(1, 300),
    count=st.integers(1, 120),
    seed=st.integers(0, 2**20),
)
def test_any_sizes(kind, classes, size, count, seed):
    options = {"surrogate": "pairwise" if seed % 2 else "trapezoid", "beta": 0.1}
    loss = PAUCAtBudgetLoss(classes, queue_size=size, **options)
    loss._warned = {"degenerate", "starved"}
    for logits, targets, iid, weight in stream(kind, classes, 6, count, seed):
        expected = pauc_loss_terms(
            logits, targets, loss.queue, iid_mask=iid, sample_weight=weight, **options
        )
        value = loss(logits, targets, iid, sample_weight=weight)
        assert torch.allclose(value, expected.loss, atol=2e-6, equal_nan=True)
        assert all(torch.equal(a, b) for a, b in zip(loss.queue, expected.queue, strict=True))


@pytest.mark.parametrize("width", [64, 128, 1984, 2048, 2112, 5120])
def test_counting_bytes_eight_at_a_time(width):
    g = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 3, width, generator=g) < torch.tensor([0.0, 0.5, 1.0]).view(3, 1)
    assert torch.equal(windows.count_true(mask), mask.sum(dim=-1))
    assert windows.padded_width(width) == width


def trained(steps=8, **options):
    loss = PAUCAtBudgetLoss(1, queue_size=2000, beta=0.02, **options)
    for logits, targets, *_ in stream("normal", 1, steps, 500, 0, plain=True):
        loss(logits, targets)
    assert loss._carried_on() is not None
    return loss


def assert_as_the_pure_loss(loss):
    logits, targets, *_ = next(stream("normal", 1, 1, 500, 9, plain=True))
    expected, _ = pauc_loss_terms(logits, targets, loss.queue, beta=0.02)[:2]
    assert torch.equal(loss(logits, targets), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda loss: loss.queue_scores.mul_(-3),
        lambda loss: loss.queue_targets.copy_(loss.queue_targets.flip(0)),
        lambda loss: loss.queue_iid[:900].fill_(False),
        lambda loss: setattr(loss, "queue_scores", -loss.queue_scores),
        lambda loss: loss.load_state_dict(trained(steps=5).state_dict()),
        lambda loss: loss.reset_queue(),
        lambda loss: loss.to(torch.float64).to(torch.float32),
    ],
)
def test_windows_of_rows_that_somebody_has_touched_are_not_used(change):
    loss = trained()
    change(loss)
    assert loss._carried_on() is None
    assert_as_the_pure_loss(loss)


def test_eval_leaves_the_windows_as_they_are():
    loss = trained()
    before = loss._carried_on()
    loss.eval()
    assert_as_the_pure_loss(loss)
    assert loss._carried_on() is before
    loss.train()
    assert_as_the_pure_loss(loss)


def test_copies_and_pickles_go_on_bit_for_bit():
    loss = trained()
    twins = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), trained(steps=1)]
    twins[-1].load_state_dict(loss.state_dict())
    shallow = copy.copy(loss)
    assert len(pickle.dumps(loss)) < 2000 * 20 + 20_000  # the rows, no windows
    for logits, targets, *_ in stream("normal", 1, 5, 500, 3, plain=True):
        expected = loss(logits, targets)
        assert all(torch.equal(twin(logits, targets), expected) for twin in twins)
    assert_as_the_pure_loss(shallow)  # shares the buffers that have moved on


def test_windows_made_in_inference_mode_serve_training():
    loss = PAUCAtBudgetLoss(1, queue_size=2000, beta=0.02, surrogate="pairwise")
    with torch.inference_mode():
        made = PAUCAtBudgetLoss(1, queue_size=500, beta=0.1)
        for logits, targets, *_ in stream("normal", 1, 8, 500, 0, plain=True):
            loss(logits, targets)
            made(logits, targets)
    for logits, targets, *_ in stream("normal", 1, 3, 500, 1, plain=True):
        expected = pauc_loss_terms(
            logits, targets, loss.queue, beta=0.02, surrogate="pairwise"
        ).loss
        value = loss(logits.requires_grad_(), targets)
        value.backward()
        assert torch.allclose(value, expected, atol=1e-6)


def test_a_schedule_of_the_band_uses_windows_all_the_way():
    loss = PAUCAtBudgetLoss(2, queue_size=2000)
    for step, (logits, targets, *_) in enumerate(stream("normal", 2, 12, 400, 0, plain=True)):
        beta = 0.25 * 0.8**step
        loss.config = loss.config._replace(beta=beta)
        expected = pauc_loss_terms(logits, targets, loss.queue, beta=beta).loss
        assert torch.equal(loss(logits, targets), expected)
        assert loss._carried_on() is not None


def test_options_are_checked_as_ever():
    loss = trained()
    loss.config = loss.config._replace(temperature=-1.0)
    with pytest.raises(ValueError, match="temperature"):
        loss(torch.randn(5, 1), torch.zeros(5, dtype=torch.int64))


def test_a_checkpoint_has_rows_and_no_windows():
    loss = trained()
    assert set(loss.state_dict()) == {f"queue_{name}" for name in init_queue(1, 1)._fields}
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    assert buffer.tell() < 2000 * 17 + 10_000
