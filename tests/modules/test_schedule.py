"""The schedule: exact ends, one-way moves, weights that blend, resuming, and the forgotten step."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn
from torch._dynamo.testing import CompileCounter

from pauc import (
    PAUCAtBudgetLoss,
    PAUCSchedule,
    RecallAtQuantileLoss,
    ScheduleConfig,
    SmoothAPLoss,
    schedule_at,
)

STEPS = st.integers(0, 40)
POSITIVE = st.floats(1e-3, 1e3)


@st.composite
def configs(draw):
    """Any combination of moves; what is left out takes its default."""
    beta = draw(st.floats(1e-4, 1.0))
    optional = {
        "warmup_steps": STEPS,
        "blend_steps": STEPS,
        "anneal_steps": STEPS,
        "temperature_start": st.none() | POSITIVE,
        "beta_start": st.none() | st.floats(beta, 1.0),
        "bce_weight": st.floats(0.0, 5.0),
        "pauc_weight": st.floats(0.0, 5.0),
        "temperature": POSITIVE,
        "alpha": st.floats(0.0, beta, exclude_max=True),
    }
    return ScheduleConfig(**draw(st.fixed_dictionaries({"beta": st.just(beta)}, optional=optional)))


def sequence(config, length=130):
    return [schedule_at(step, config) for step in range(length)]


@given(configs())
def test_starts_and_ends_are_exact(config):
    last = config.warmup_steps + max(config.blend_steps, config.anneal_steps)
    end = schedule_at(last, config)
    assert end == schedule_at(10**9, config)
    assert all(value == getattr(config, name) for name, value in end._asdict().items())

    start = schedule_at(0, config)
    if config.warmup_steps or config.blend_steps:
        assert (start.bce_weight, start.pauc_weight) == (1.0, 0.0)
    if config.warmup_steps or config.anneal_steps:
        assert start.temperature == (config.temperature_start or config.temperature)
        assert start.beta == (config.beta_start or config.beta)
        assert start.alpha == (0.0 if config.beta_start else config.alpha)


@given(configs())
def test_every_value_moves_one_way_and_stays_legal(config):
    values = sequence(config)
    for name in values[0]._fields:
        column = [getattr(value, name) for value in values]
        sign = 1 if column[-1] >= column[0] else -1
        # `pow` may be an ulp off either way, no more.
        assert all(sign * b >= sign * a - 2e-15 * abs(a) for a, b in pairwise(column))
    assert all(0 <= value.alpha < value.beta <= 1 and value.temperature > 0 for value in values)


@given(STEPS, st.integers(1, 40))
def test_weights_that_end_in_one_sum_to_one_throughout(warmup_steps, blend_steps):
    values = sequence(ScheduleConfig(warmup_steps=warmup_steps, blend_steps=blend_steps))
    assert all(math.isclose(v.bce_weight + v.pauc_weight, 1.0, rel_tol=1e-15) for v in values)
    assert [v.pauc_weight for v in values[:warmup_steps]] == [0.0] * warmup_steps
    halfway = schedule_at(warmup_steps + 1, ScheduleConfig(warmup_steps, blend_steps=2))
    assert (halfway.bce_weight, halfway.pauc_weight) == (0.5, 0.5)


def test_a_bce_term_stays():
    config = ScheduleConfig(warmup_steps=10, blend_steps=10, bce_weight=0.3)
    assert schedule_at(9, config)[:2] == (1.0, 0.0)
    assert schedule_at(15, config)[:2] == (0.65, 0.5)
    assert schedule_at(500, config)[:2] == (0.3, 1.0)


def test_temperature_and_band_move_by_equal_factors():
    config = ScheduleConfig(
        warmup_steps=5, anneal_steps=4, beta_start=1.0, beta=1e-4, temperature_start=0.5
    )
    values = [schedule_at(step, config) for step in (0, 5, 6, 7, 8, 9, 10)]
    assert [v.beta for v in values] == pytest.approx([1, 1, 0.1, 1e-2, 1e-3, 1e-4, 1e-4])
    ratios = [b.temperature / a.temperature for a, b in pairwise(values[1:6])]
    assert ratios == pytest.approx([0.2**0.25] * 4)  # 0.5 -> 0.1 in four steps


def test_left_to_the_defaults_nothing_moves():
    assert set(sequence(ScheduleConfig())) == {(0.0, 1.0, 0.0, 0.005, 0.1)}


# --- the wrapper ---


def test_the_loss_follows_and_ends_where_it_was_made():
    loss = PAUCAtBudgetLoss(1, beta=0.05, alpha=0.01, temperature=0.2, surrogate="pairwise")
    made = loss.config
    schedule = PAUCSchedule(loss, anneal_steps=3, beta_start=1.0, temperature_start=1.0)
    seen = [loss.config]
    for _ in range(4):
        schedule.step()
        seen.append(loss.config)
    assert (seen[0].alpha, seen[0].beta, seen[0].temperature) == (0.0, 1.0, 1.0)
    assert seen[1].beta == pytest.approx(0.05 ** (1 / 3))
    assert seen[3] == seen[4] == made._replace(max_beta=1.0)
    assert schedule.step_count == 4
    assert all(config.surrogate == "pairwise" for config in seen)


def test_the_band_of_the_step_is_the_band_of_the_loss():
    torch.manual_seed(0)
    logits, targets = torch.randn(300, 1), (torch.rand(300) < 0.2).long()
    loss = PAUCAtBudgetLoss(1, beta=0.1, queue_size=0)
    schedule = PAUCSchedule(loss, anneal_steps=2, beta_start=0.9)
    for beta in (0.9, 0.3, 0.1):
        expected = PAUCAtBudgetLoss(1, beta=beta, queue_size=0)(logits, targets)
        torch.testing.assert_close(loss(logits, targets), expected)
        schedule.step()


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20))
def test_a_resumed_schedule_goes_on_identically(before, after, anneal_steps):
    moves = {"anneal_steps": anneal_steps, "beta_start": 1.0, "temperature_start": 2.0}
    loss, resumed_loss = PAUCAtBudgetLoss(1), PAUCAtBudgetLoss(1)
    schedule, resumed = PAUCSchedule(loss, **moves), PAUCSchedule(resumed_loss)
    for _ in range(before):
        schedule.step()
    resumed.load_state_dict(copy.deepcopy(schedule.state_dict()))
    for _ in range(after):
        assert resumed_loss.config == loss.config
        assert resumed.values == schedule.values
        schedule.step()
        resumed.step()
    assert resumed.state_dict() == schedule.state_dict()


def test_weights_go_from_bce_alone_to_where_the_loss_was_made():
    loss = SmoothAPLoss(1, bce_weight=0.4, pauc_weight=2.0, gradient_scale="live")
    schedule = PAUCSchedule(loss, warmup_steps=1, blend_steps=2)
    seen = [loss.config]
    for _ in range(4):
        schedule.step()
        seen.append(loss.config)
    assert [(c.bce_weight, c.pauc_weight) for c in seen] == [
        (1.0, 0.0),
        (1.0, 0.0),
        (0.7, 1.0),
        (0.4, 2.0),
        (0.4, 2.0),
    ]
    assert {c.gradient_scale for c in seen} == {"live"}


def test_a_band_that_the_loss_lacks_cannot_move():
    with pytest.raises(ValueError, match="beta_start needs a loss over a band, got SmoothAPLoss"):
        PAUCSchedule(SmoothAPLoss(1), beta_start=1.0)
    state = PAUCSchedule(PAUCAtBudgetLoss(1), beta_start=1.0).state_dict()
    schedule = PAUCSchedule(RecallAtQuantileLoss(1))
    with pytest.raises(ValueError, match="got RecallAtQuantileLoss"):
        schedule.load_state_dict(state)
    schedule.step()


def test_what_moves_goes_where_the_loss_goes_and_keeps_its_width():
    loss = PAUCAtBudgetLoss(1, beta=0.005)
    schedule = PAUCSchedule(loss, anneal_steps=3, beta_start=1.0)
    schedule.step()
    loss.half()
    (moving,) = loss._moving._tensors.values()
    assert (moving.dtype, float(moving)) == (torch.float64, loss.config.beta)
    assert loss._moving._tensors["beta"] is moving  # a recorded graph reads it there
    assert loss.to("meta")._moving._tensors["beta"].device.type == "meta"
    loss.to_empty(device="cpu")
    assert float(loss._moving._tensors["beta"]) == loss.config.beta


def test_a_call_does_not_write_what_moves():
    """A CUDA graph would record that, and undo the schedule at each replay."""
    loss = PAUCAtBudgetLoss(1, beta=0.1)
    schedule = PAUCSchedule(loss, anneal_steps=3, beta_start=1.0)
    schedule.step()
    (moving,) = loss._moving._tensors.values()
    written = moving._version
    loss(*BATCH)
    assert loss._moving._tensors["beta"] is moving
    assert moving._version == written


def test_a_schedule_without_a_moving_band_takes_the_bound_away():
    loss = PAUCAtBudgetLoss(1, beta=0.1)
    schedule = PAUCSchedule(loss, beta_start=0.2)
    state = PAUCSchedule(PAUCAtBudgetLoss(1, beta=0.5)).state_dict()
    schedule.load_state_dict(state)
    assert (loss.config.beta, loss.config.max_beta) == (0.5, None)
    loss(*BATCH)


def test_a_schedule_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        schedule = PAUCSchedule(PAUCAtBudgetLoss(1), anneal_steps=2, temperature_start=1.0)
    schedule.step()


# --- the forgotten step ---

BATCH = torch.arange(80.0).sin().unsqueeze(1), torch.arange(80) % 2


def test_a_schedule_that_is_never_stepped_warns_once():
    loss = PAUCAtBudgetLoss(1, beta=0.9, queue_size=0)
    PAUCSchedule(loss, anneal_steps=10, beta_start=1.0)
    for _ in range(99):
        loss(*BATCH)
    loss.eval()
    for _ in range(50):
        loss(*BATCH)
    loss.train()
    with pytest.warns(UserWarning, match=r"called 100 times in training, but step\(\) never"):
        loss(*BATCH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(150):
            loss(*BATCH)


def test_a_schedule_that_is_stepped_does_not_warn():
    loss = PAUCAtBudgetLoss(1, beta=0.9, queue_size=0)
    schedule = PAUCSchedule(loss, anneal_steps=10, beta_start=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(150):
            loss(*BATCH)
            if step == 98:
                schedule.step()
    assert not loss._forward_pre_hooks


def test_the_watch_does_not_break_or_repeat_compilation():
    loss = PAUCAtBudgetLoss(1, beta=0.9, queue_size=0)
    PAUCSchedule(loss)
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(loss, backend=counter, fullgraph=True)
    for _ in range(5):
        compiled(*BATCH)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss. band starvation")
def test_a_band_that_ends_at_a_precision_is_annealed_too():
    """From wider than the precision ever allows; in one graph, as in eager mode."""
    torch._dynamo.reset()
    basis = {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.3, "beta": 0.02}
    counter, losses, schedules = CompileCounter(), [], []
    for _ in range(2):
        loss = PAUCAtBudgetLoss(1, queue_size=50, surrogate="pairwise", **basis)
        schedules.append(PAUCSchedule(loss, anneal_steps=4, beta_start=0.9))
        losses.append(loss)
    compiled = torch.compile(losses[1], backend=counter, fullgraph=True)
    logits, targets = BATCH
    logits = logits + targets.reshape(-1, 1)
    for _ in range(6):
        torch.testing.assert_close(compiled(logits, targets), losses[0](logits, targets))
        for schedule in schedules:
            schedule.step()
    assert counter.frame_count == 1


# --- bad input ---

BAD = [
    ({"warmup_steps": -1}, ValueError, "warmup_steps"),
    ({"blend_steps": 1.5}, TypeError, "blend_steps"),
    ({"anneal_steps": True}, TypeError, "anneal_steps"),
    ({"temperature_start": 0.0}, ValueError, "temperature_start must be above 0, got 0.0"),
    ({"temperature_start": "1"}, TypeError, "temperature_start"),
    ({"beta_start": 0.001}, ValueError, r"beta_start must be in \[beta, 1\] = \[0.005, 1\]"),
    ({"beta_start": 1.1}, ValueError, "beta_start"),
    ({"beta_start": math.nan}, ValueError, "beta_start"),
]
BAD_ENDS = [
    ({"temperature": None}, TypeError, "temperature"),
    ({"temperature": -1.0}, ValueError, "temperature"),
    ({"alpha": 0.01}, ValueError, "alpha"),
    ({"bce_weight": -0.1}, ValueError, "bce_weight must not be negative, got -0.1"),
    ({"pauc_weight": math.inf}, ValueError, "pauc_weight"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD + BAD_ENDS)
def test_bad_fields_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        schedule_at(0, ScheduleConfig(**arguments))


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_moves_are_named_and_leave_the_loss_alone(arguments, error, message):
    loss = PAUCAtBudgetLoss(1)
    made = loss.config
    with pytest.raises(error, match=message):
        PAUCSchedule(loss, **arguments)
    assert loss.config == made
    assert not loss._forward_pre_hooks


def test_a_state_that_the_loss_refuses_changes_neither_loss_nor_schedule():
    basis = {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.1, "beta": 0.01}
    loss = PAUCAtBudgetLoss(1, **basis)
    schedule = PAUCSchedule(loss, anneal_steps=10, beta_start=0.05)
    state = schedule.state_dict()
    state["config"] |= {"beta": 0.9, "beta_start": None, "temperature_start": 1.0}
    before = schedule.config, schedule.step_count, loss.config, dict(loss._moving._tensors)
    with pytest.raises(ValueError, match="beta must be below"):
        schedule.load_state_dict(state)
    after = schedule.config, schedule.step_count, loss.config, dict(loss._moving._tensors)
    assert after == before


@pytest.mark.parametrize(("step", "error"), [(-1, ValueError), (0.5, TypeError)])
def test_a_bad_step_is_named(step, error):
    with pytest.raises(error, match="step"):
        schedule_at(step, ScheduleConfig())


def test_something_that_is_no_loss_is_named():
    with pytest.raises(TypeError, match="loss must be one of the losses of pauc, got Linear"):
        PAUCSchedule(nn.Linear(1, 1))
