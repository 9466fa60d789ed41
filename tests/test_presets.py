"""The preset: what it promises of band and queue, and that overrides win."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc import PAUCAtBudgetLoss, pauc_loss_fn
from pauc.metrics import tpr_at_fpr
from pauc.presets import preset_for_budget

budgets = st.floats(1e-5, 1.0)
batch_sizes = st.integers(1, 1_000_000)
rates = st.floats(1e-6, 0.999)


iid_shares = st.floats(1e-3, 1.0)


@given(budgets, batch_sizes, rates, iid_shares)
def test_band_and_queue_keep_their_promises(budget, batch_size, rate, iid_share):
    preset = preset_for_budget(
        budget, batch_size=batch_size, positive_rate=rate, iid_share=iid_share
    )
    beta = preset.options["beta"]
    assert beta >= budget
    if beta > budget:  # widened until 50 negatives of a batch lie in it, or to 0.1
        assert beta <= 0.1
        assert math.isclose(beta * batch_size, 50) or (beta == 0.1 and batch_size < 500)
    else:
        assert beta * batch_size >= 50 or beta >= 0.1
    if preset.queue_size < 65_536:
        assert preset.queue_size * iid_share * (1 - rate) * beta >= 100 * (1 - 1e-9)
        positives = batch_size if preset.options["pos_numerator"] == "live" else preset.queue_size
        assert positives * rate >= 50 * (1 - 1e-12)


def test_a_dense_batch_needs_no_long_queue():
    """At 0.2 % positives a plain batch of 1,000 has two, and the queue makes up for them."""
    plain = preset_for_budget(0.005, batch_size=1000, positive_rate=0.002)
    assert (plain.queue_size, plain.options["pos_numerator"]) == (25_000, "pool")
    assert plain.options["gradient_scale"] == "pool"
    dense = preset_for_budget(0.005, batch_size=1000, positive_rate=0.25, iid_share=0.5)
    assert (dense.queue_size, dense.options["pos_numerator"]) == (5334, "live")
    assert dense.options["gradient_scale"] == "live"


@pytest.mark.parametrize(("rate", "scale"), [(0.0049, "pool"), (0.005, "live")])
def test_from_five_positives_in_a_batch_on_their_number_is_a_divisor(rate, scale):
    preset = preset_for_budget(0.005, batch_size=1000, positive_rate=rate)
    assert preset.options["gradient_scale"] == scale


def test_module_has_what_the_preset_chose_and_shows_it():
    preset = preset_for_budget(0.005, batch_size=1000, positive_rate=0.02)
    module = PAUCAtBudgetLoss.for_budget(0.005, batch_size=1000, positive_rate=0.02)
    assert module.queue_size == preset.queue_size == 2500
    assert module.config._asdict().items() >= preset.options.items()
    for name, value in preset.options.items():
        assert f"{name}={value!r}" in repr(module)


def test_overrides_win():
    module = PAUCAtBudgetLoss.for_budget(
        0.005,
        batch_size=1000,
        positive_rate=0.02,
        num_classes=3,
        beta=0.01,
        queue_size=7,
        bce_weight=1.0,
        validate_args=False,
    )
    assert (module.num_classes, module.queue_size, module.config.beta) == (3, 7, 0.01)
    assert module.config.bce_weight == 1.0
    assert module.config.link == "logistic"
    assert not module.validate_args


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"budget": 0.0}, ValueError, "budget"),
        ({"budget": 1.1}, ValueError, "budget"),
        ({"budget": math.nan}, ValueError, "budget"),
        ({"budget": "low"}, TypeError, "budget"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 10.5}, TypeError, "batch_size"),
        ({"positive_rate": 0.0}, ValueError, "positive_rate"),
        ({"positive_rate": 1.0}, ValueError, "positive_rate"),
        ({"positive_rate": None}, TypeError, "positive_rate"),
        ({"iid_share": 0.0}, ValueError, "iid_share"),
        ({"iid_share": 1.1}, ValueError, "iid_share"),
        ({"iid_share": "half"}, TypeError, "iid_share"),
        ({"no_such_option": 1}, TypeError, "no_such_option"),
    ],
)
def test_bad_arguments_are_named(changed, error, named):
    known = {"budget": 0.005, "batch_size": 1000, "positive_rate": 0.02}
    with pytest.raises(error, match=named):
        PAUCAtBudgetLoss.for_budget(**{**known, **changed})


def test_options_are_keywords_of_the_function():
    preset = preset_for_budget(0.1, batch_size=64, positive_rate=0.3)
    module = PAUCAtBudgetLoss.for_budget(0.1, batch_size=64, positive_rate=0.3)
    torch.manual_seed(0)
    logits, targets = torch.randn(64, 1), torch.randint(0, 2, (64,))
    loss, _ = pauc_loss_fn(logits, targets, module.queue, **preset.options)
    assert loss == module(logits, targets)


def contested(n, seed):
    """Positives and a decoy ten times as frequent share a shift; a product of signs tells them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    kind = torch.rand(n, generator=g)
    targets = (kind < 0.01).long()
    x[:, :2] += 2.5 * (kind < 0.1).float()[:, None]
    sign = (torch.randint(0, 2, (n,), generator=g) * 2 - 1).float()
    x[:, 3:5] += 2 * (sign * targets)[:, None]
    return x, targets


def trained_tpr(loss_fn):
    x, targets = contested(40_000, 0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(5):
        for rows in torch.randperm(len(x)).split(1000):
            loss = loss_fn(model(x[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    x, targets = contested(100_000, 1)
    with torch.no_grad():
        return tpr_at_fpr(model(x)[:, 0], targets, 0.005).item()


def test_a_cold_start_catches_more_than_bce_in_as_many_steps():
    """200 steps from random weights, on what the preset is for; measured 0.75 against 0.02."""
    preset = PAUCAtBudgetLoss.for_budget(0.005, batch_size=1000, positive_rate=0.01)

    def bce(logits, targets):
        return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets.float())

    assert trained_tpr(preset) > trained_tpr(bce) + 0.3
