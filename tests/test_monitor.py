"""The monitor against all possible histories, against sums over starts, and by simulation."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pauc import FPRMonitor
from pauc.monitor import (
    MonitorConfig,
    MonitorState,
    init_monitor,
    monitor_status,
    monitor_step,
)

CONFIG = MonitorConfig(budget=0.25, confidence=0.9, window=5)
TILTS = [2.0**k for k in range(-5, 3)]
batches = st.lists(
    st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), max_size=12
)


def fed(config: MonitorConfig, history: list[tuple[int, int]]) -> MonitorState:
    state = init_monitor()
    for alerts, rows in history:
        state = monitor_step(state, config, alerts, rows)
    return state


def slow_ratio(tilt: float, rate: float, alerts: int, rows: int) -> float:
    """The likelihood of the alerts at the tilted odds, over that at the rate, row by row."""
    odds = rate / (1 - rate) * math.exp(tilt)
    other = odds / (1 + odds)
    ratio = 1.0
    for k in range(rows):
        ratio *= other / rate if k < alerts else (1 - other) / (1 - rate)
    return ratio


def slow_evidence(budget: float, history: list[tuple[int, int]]) -> float:
    """The average over tilts and starts, each start with a product of its own."""

    def later(rows: int) -> float:
        return 0.5 / math.sqrt(1 + budget * rows)

    starts = list(itertools.accumulate((rows for _, rows in history), initial=0))
    total = later(starts[-2] if history else 0)  # starts to come, whose evidence is still 1
    for k in range(len(history)):
        weight = 0.5 if k == 0 else later(starts[k - 1]) - later(starts[k])
        alerts, rows = (sum(column) for column in zip(*history[k:], strict=True))
        total += weight * sum(slow_ratio(t, budget, alerts, rows) for t in TILTS) / len(TILTS)
    return total + (0 if history else 0.5)


# --- the evidence


@given(st.floats(0.01, 0.9), batches)
def test_evidence_is_the_average_over_starts_and_tilts(
    budget: float, history: list[tuple[int, int]]
) -> None:
    config = CONFIG._replace(budget=budget)
    found = monitor_status(fed(config, history), config)
    assert found.evidence == pytest.approx(slow_evidence(budget, history), rel=1e-9)
    peaks = [slow_evidence(budget, history[:k]) for k in range(len(history) + 1)]
    assert found.p_value == pytest.approx(1 / max(peaks), rel=1e-9)


def _split(bits: tuple[int, ...]) -> list[tuple[int, int]]:
    """Batches that end with each alert, or with the third row: a split that looks at the data."""
    history, alerts, rows = [], 0, 0
    for bit in bits:
        alerts, rows = alerts + bit, rows + 1
        if bit or rows == 3:
            history.append((alerts, rows))
            alerts = rows = 0
    return [*history, (alerts, rows)]


@pytest.mark.parametrize("split", [_split, lambda bits: [(bit, 1) for bit in bits]])
@pytest.mark.parametrize("rate", [0.25, 0.2, 0.05])
def test_nobody_can_expect_the_evidence_to_grow_while_the_budget_is_kept(split, rate) -> None:
    """All 512 histories of 9 rows, each with its probability."""
    mean = 0.0
    for bits in itertools.product((0, 1), repeat=9):
        chance = rate ** sum(bits) * (1 - rate) ** (9 - sum(bits))
        mean += chance * monitor_status(fed(CONFIG, split(bits)), CONFIG).evidence
    if rate == CONFIG.budget:
        assert mean == pytest.approx(1, rel=1e-12)  # a martingale: nothing is given away
    else:
        assert mean < 1


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9])
def test_an_alarm_has_at_most_its_chance_over_all_histories(confidence: float) -> None:
    config = CONFIG._replace(confidence=confidence)
    alarms = 0.0
    for bits in itertools.product((0, 1), repeat=9):
        if fed(config, [(bit, 1) for bit in bits]).alarm_row is not None:
            alarms += 0.25 ** sum(bits) * 0.75 ** (9 - sum(bits))
    assert 0 < alarms <= 1 - confidence


@given(batches)
def test_the_alarm_is_raised_when_the_evidence_first_reaches_its_limit(history) -> None:
    expected = None
    for k in range(1, len(history) + 1):
        if slow_evidence(0.25, history[:k]) >= 10 * (1 - 1e-12) and expected is None:
            expected = sum(rows for _, rows in history[:k])
    state = fed(CONFIG, history)
    assert state.alarm_row == expected
    assert monitor_status(state, CONFIG).holds == (expected is None)


def test_a_doubled_fpr_is_found_after_a_long_quiet_time() -> None:
    """Measured: 7,000 to 10,000 rows. Evidence from the first row alone would need over 300,000."""
    monitor = FPRMonitor(0.005)
    for _ in range(1000):
        assert monitor.update(4, 1000)
    batches = 0
    while monitor.update(10, 1000):
        batches += 1
    assert 3 < batches < 20
    assert monitor.status().alarm_row == 1_000_000 + 1000 * (batches + 1)
    assert not monitor.update(0, 10_000)  # it stays raised


# --- the interval


def span_of(history: list[tuple[int, int]], window: int) -> tuple[int, int]:
    """The number of the interval and its first batch, told from the whole history."""
    begins, rows = [0], 0
    for k, (_, n) in enumerate(history, start=1):
        rows += n
        if rows >= window:
            begins.append(k)
            rows = 0
    number = max(len(begins) - 1, 1)
    return number, begins[number - 1]


@given(batches, st.integers(1, 8))
def test_the_interval_is_all_rates_that_its_own_rows_do_not_exclude(history, window) -> None:
    config = CONFIG._replace(window=window)
    found = monitor_status(fed(config, history), config)
    number, begin = span_of(history, window)
    alerts, rows = sum(a for a, _ in history[begin:]), sum(n for _, n in history[begin:])
    assert found.recent_rows == rows
    assert rows >= min(window, found.rows)
    limit = 2 / (0.1 / (number * (number + 1)))
    for end, hits in ((found.low, alerts), (1 - found.high, rows - alerts)):
        share = hits / rows if rows else 0.0
        assert 0 <= end <= share
        for rate in (0.5 * end, end * (1 - 1e-6), end * (1 + 1e-6), (end + share) / 2):
            if 0 < rate < 1:
                excluded = sum(slow_ratio(t, rate, hits, rows) for t in TILTS) / len(TILTS) >= limit
                assert excluded == (rate < end)


def test_without_rows_the_interval_is_everything() -> None:
    found = FPRMonitor(0.1).status()
    assert math.isnan(found.estimate)
    assert (found.low, found.high, found.evidence, found.p_value) == (0, 1, 1, 1)


def test_intervals_hold_a_moving_fpr_at_all_times_at_once() -> None:
    """The FPR goes up and down; a stream counts as missed if one interval of it misses."""
    draws, config = random.Random(0), CONFIG._replace(confidence=0.8, window=400)
    rates = [0.05 + 0.04 * math.sin(step / 7) for step in range(120)]
    missed = 0
    for _ in range(60):
        state, held = init_monitor(), True
        for step, rate in enumerate(rates, start=1):
            state = monitor_step(state, config, sum(draws.random() < rate for _ in range(50)), 50)
            if step % 4:
                continue
            found = monitor_status(state, config)
            recent = rates[step - found.recent_rows // 50 : step]
            held &= found.low <= sum(recent) / len(recent) <= found.high
        missed += not held
    assert missed <= 18  # promised is a fifth of the streams, 12 of 60


# --- counts, states, errors


@given(batches, st.randoms())
def test_batches_without_rows_and_the_size_of_the_window_move_no_evidence(history, shuffle) -> None:
    padded = list(history)
    for _ in range(3):
        padded.insert(shuffle.randint(0, len(padded)), (0, 0))
    plain, other = fed(CONFIG, history), fed(CONFIG, padded)
    assert plain == other
    wide = fed(CONFIG._replace(window=1000), history)
    assert (wide.evidence, wide.alarm_row) == (plain.evidence, plain.alarm_row)


@given(batches, batches)
def test_a_state_travels_by_json_and_goes_on_bit_for_bit(before, after) -> None:
    monitor = FPRMonitor(0.25, confidence=0.9, window=5)
    for batch in before:
        monitor.update(*batch)
    other = FPRMonitor(0.25, confidence=0.9, window=5)
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    for batch in after:
        assert monitor.update(*batch) == other.update(*batch)
    assert monitor.state == other.state == fed(CONFIG, before + after)
    assert monitor.status().holds == monitor.holds


def test_counts_of_numpy_become_plain_numbers() -> None:
    monitor, plain = FPRMonitor(np.float32(0.25)), FPRMonitor(0.25)
    monitor.update(np.int64(3), np.int32(10))
    plain.update(3, 10)
    assert json.dumps(monitor.state_dict()) == json.dumps(plain.state_dict())


def test_billions_of_rows_lose_no_digits() -> None:
    monitor = FPRMonitor(1e-4)
    for _ in range(100):
        monitor.update(1000, 10**7)
    found = monitor.status()
    assert found.holds
    assert found.low < 1e-4 < found.high
    assert 0 < found.high - found.low < 1e-4


def test_the_window_expects_two_hundred_alerts() -> None:
    assert FPRMonitor(0.005).config.window == 40_000
    assert repr(FPRMonitor(0.5, window=7)) == "FPRMonitor(0.5, confidence=0.95, window=7)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.update(3, 2), ValueError, "alerts must be at most rows=2, got 3"),
        (lambda m: m.update(-1, 2), ValueError, "alerts must be an integer of at least 0, got -1"),
        (lambda m: m.update(0, -1), ValueError, "rows must be an integer of at least 0, got -1"),
        (lambda m: m.update(0.5, 2), TypeError, "alerts must be an integer of at least 0, got 0.5"),
        (lambda _: FPRMonitor(0), ValueError, "budget must be above 0 and below 1, got 0"),
        (lambda _: FPRMonitor("a"), TypeError, "budget must be a real number, got str 'a'"),
        (lambda _: FPRMonitor(0.1, confidence=1), ValueError, "confidence must be above 0"),
        (lambda _: FPRMonitor(0.1, window=0), ValueError, "window must be an integer of at least"),
        (lambda m: m.load_state_dict({}), ValueError, "state_dict must hold a state with"),
        (
            lambda m: m.load_state_dict(FPRMonitor(0.2).state_dict()),
            ValueError,
            "state_dict must be of a monitor with .*0.25.* got .*0.2",
        ),
    ],
)
def test_bad_input_is_named_and_changes_nothing(call, error, message) -> None:
    monitor = FPRMonitor(0.25)
    monitor.update(1, 4)
    before = monitor.state
    with pytest.raises(error, match=message):
        call(monitor)
    assert monitor.state is before
