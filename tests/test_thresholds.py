"""`select_threshold` against brute force in rational numbers, and its guarantee by simulation."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from pauc import select_threshold
from pauc.metrics import tpr_at_fpr
from pauc.thresholds.point import between
from pauc.thresholds.tails import binomial_cdf

few_values = st.sampled_from([-math.inf, -2.0, -0.0, 0.0, 0.5, 1.0, math.inf])
any_values = st.floats(allow_nan=False, width=16)
columns = st.one_of(
    *(st.lists(values, min_size=1, max_size=60) for values in (few_values, any_values))
)


def slow_tail(count: int, rate: Fraction, k: int) -> Fraction:
    """P(Binomial(count, rate) <= k) without any rounding."""
    return sum(
        (math.comb(count, j) * rate**j * (1 - rate) ** (count - j) for j in range(k + 1)),
        Fraction(0),
    )


def slow_threshold(negatives: list[float], allowed: int) -> float:
    """The lowest score of a negative that at most `allowed` negatives exceed."""
    return min(t for t in negatives if sum(s > t for s in negatives) <= allowed)


def check_threshold(found: Any, negatives: list[float], positives: list[float], allowed: int):
    """The threshold flags what is above the slow one, and leaves no tie at it in doubt."""
    low = slow_threshold(negatives, allowed)
    rows = negatives + positives
    if low == math.inf:
        assert math.isnan(found.threshold)
    else:
        assert low < found.threshold <= min((s for s in rows if s > low), default=math.inf)
    flagged = [s > low for s in rows]
    assert [s >= found.threshold for s in rows] == flagged
    assert [s > found.threshold for s in rows] == flagged or math.inf in rows


def just_above(score: float, found: Any) -> bool:
    return score < found.threshold < score + 1e-6 * (1 + score)


def point(negatives: list[float], positives: list[float], *args: Any, **options: Any):
    scores = torch.tensor(negatives + positives, dtype=torch.float64)
    targets = torch.tensor([0] * len(negatives) + [1] * len(positives))
    return select_threshold(scores, targets, *args, **options)


# --- the binomial tail


@given(st.integers(1, 60), st.integers(1, 999))
def test_tail_equals_rational_arithmetic(count: int, thousandths: int) -> None:
    rate = thousandths / 1000
    first, tail = binomial_cdf(count, rate)
    assert first + len(tail) == count + 1
    for k, value in enumerate(tail.tolist(), start=first):
        expected = float(slow_tail(count, Fraction(rate), k))
        assert value == pytest.approx(expected, rel=1e-11, abs=1e-290)


@pytest.mark.parametrize("count", [10**3, 10**5, 10**7])
@pytest.mark.parametrize("rate", [1e-6, 1e-4, 1e-3, 0.01, 0.3, 0.999])
def test_tail_of_many_rows_equals_scipy(count: int, rate: float) -> None:
    first, tail = binomial_cdf(count, rate)
    assert len(tail) < 200_000
    k = torch.arange(first, first + len(tail))
    expected = torch.from_numpy(binom.cdf(k.numpy(), count, rate))
    # SciPy's own error is 3e-10 at the smallest rate.
    torch.testing.assert_close(tail, expected, rtol=1e-9, atol=1e-280)
    assert binom.cdf(first - 1, count, rate) == 0


# --- without confidence


@given(columns, st.lists(any_values, max_size=20), st.integers(1, 99))
def test_without_confidence_it_is_the_lowest_within_the_budget(
    negatives: list[float], positives: list[float], percent: int
) -> None:
    found = point(negatives, positives, percent / 100)
    allowed = math.floor(Fraction(percent, 100) * len(negatives))
    check_threshold(found, negatives, positives, allowed)
    assert found.fpr == sum(s >= found.threshold for s in negatives) / len(negatives)
    assert found.fpr <= percent / 100
    tail = slow_tail(len(negatives), Fraction(percent / 100), allowed)
    assert found.risk == pytest.approx(float(tail), rel=1e-11)
    if not positives:
        assert math.isnan(found.tpr)
        return
    assert found.tpr == sum(s >= found.threshold for s in positives) / len(positives)
    scores = torch.tensor(negatives + positives, dtype=torch.float64)
    targets = torch.tensor([0] * len(negatives) + [1] * len(positives))
    assert found.tpr == tpr_at_fpr(scores, targets, percent / 100).item()


def test_a_whole_product_does_not_lose_a_row_to_rounding() -> None:
    negatives = [float(k) for k in range(100)]
    assert just_above(70, point(negatives, [], 0.29))  # 0.29 * 100 < 29 in floating point
    assert just_above(0, point(negatives, [], 1 - 1e-16))


def test_the_risk_of_a_threshold_without_confidence_is_a_coin_flip() -> None:
    found = point([float(k) for k in range(10_000)], [], 0.01)
    assert 0.5 < found.risk < 0.55


# --- with confidence

# As in the paper's table: (1 - budget) ** n <= 0.05.
NEEDED = {0.05: 59, 0.01: 299, 0.001: 2995, 0.0001: 29956}


@pytest.mark.parametrize(("budget", "needed"), NEEDED.items())
def test_the_fewest_negatives_that_a_budget_needs(budget: float, needed: int) -> None:
    scores, targets = torch.arange(float(needed)), torch.zeros(needed)
    found = select_threshold(scores, targets, budget, confidence=0.95)
    assert just_above(needed - 1, found)
    assert found.fpr == 0
    assert 0.94 * 0.05 < found.risk <= 0.05
    message = rf"at least {needed} negatives for budget={budget} .*=0\.95, got {needed - 1}"
    with pytest.raises(ValueError, match=message):
        select_threshold(scores[1:], targets[1:], budget, confidence=0.95)


def test_a_limit_that_is_met_exactly_counts_as_met() -> None:
    # 0.1 ** 1 = 1 - 0.9 and 0.5 ** 2 = 1 - 0.75, whatever floating point makes of 1 - 0.9.
    assert just_above(3, point([3.0], [], 0.9, confidence=0.9))
    assert just_above(4, point([3.0, 4.0], [], 0.5, confidence=0.75))
    # P(Binomial(2, 0.9) <= 1) = 0.19
    assert just_above(3, point([3.0, 4.0], [], 0.9, confidence=0.81))


@given(columns, st.integers(1, 99), st.integers(50, 99))
def test_with_confidence_it_is_the_lowest_that_the_tail_admits(
    negatives: list[float], percent: int, sure: int
) -> None:
    budget, limit = Fraction(percent, 100), 1 - Fraction(sure, 100)
    tails = [slow_tail(len(negatives), budget, k) for k in range(len(negatives))]
    fitting = [k for k, tail in enumerate(tails) if tail <= limit]
    if not fitting:
        with pytest.raises(ValueError, match="targets must hold at least"):
            point(negatives, [], percent / 100, confidence=sure / 100)
        return
    found = point(negatives, [], percent / 100, confidence=sure / 100)
    check_threshold(found, negatives, [], fitting[-1])
    assert found.risk == pytest.approx(float(tails[fitting[-1]]), rel=1e-9)


def test_ten_million_negatives() -> None:
    scores = torch.arange(10**7, dtype=torch.float64)
    found = select_threshold(scores, torch.zeros(10**7), 1e-4, confidence=0.999)
    allowed = int(binom.ppf(0.001, 10**7, 1e-4)) - 1  # the largest k whose tail is below 0.001
    assert just_above(10**7 - 1 - allowed, found)
    assert found.risk == pytest.approx(binom.cdf(allowed, 10**7, 1e-4), rel=1e-9)


def continuous(generator: torch.Generator) -> tuple[torch.Tensor, Any]:
    return torch.randn(100, generator=generator, dtype=torch.float64), norm.sf


# A grid point at 1.28, which 10.03 % of a normal exceed: just over the budget.
GRID = 0.64


def discrete(generator: torch.Generator) -> tuple[torch.Tensor, Any]:
    """Normal scores rounded up to a grid: P(score > t) = P(normal > t) for t on it."""
    scores, sf = continuous(generator)
    return (scores / GRID).ceil() * GRID, sf


REPEATS = 3000
CHANCE = 1e-6  # of a false failure, for each assertion on a count below


@pytest.mark.parametrize("draw", [continuous, discrete])
def test_the_true_fpr_exceeds_the_budget_as_rarely_as_promised(draw: Any) -> None:
    """100 negatives, 10 %, confidence 90 %: k = 5 with risk 0.058; 6 would have 0.117, 4 0.024."""
    generator, targets = torch.Generator().manual_seed(0), torch.zeros(100)
    exceeded = exceeded_with_ties = 0
    for _ in range(REPEATS):
        scores, true_fpr = draw(generator)
        found = select_threshold(scores, targets, 0.1, confidence=0.9)
        exceeded += true_fpr(found.threshold) > 0.1
        exceeded_with_ties += true_fpr(found.threshold - GRID) > 0.1
    assert found.risk == pytest.approx(binom.cdf(5, 100, 0.1))
    assert exceeded <= binom.isf(CHANCE, REPEATS, found.risk)
    # Continuous scores have exactly this risk; these discrete ones are close to it.
    assert exceeded >= binom.ppf(CHANCE, REPEATS, found.risk)
    if draw is discrete:
        # On this grid the rule `score >= threshold` would break the budget: hence the strict one.
        assert exceeded_with_ties > binom.isf(CHANCE, REPEATS, 0.1)


# --- where the threshold is put


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@given(st.lists(st.floats(-100, 100, width=16), min_size=3, max_size=30), st.integers(0, 20))
def test_no_tie_breaks_the_budget_under_either_rule(
    dtype: torch.dtype, negatives: list[float], k: int
) -> None:
    """In the dtype of the scores, in NumPy's and in float64: `>=` is exact, `>` never over it."""
    scores = torch.tensor(negatives).to(dtype)
    found = select_threshold(scores, torch.zeros(len(scores)), (k % 19 + 1) / 20)
    exact = scores.double() >= found.threshold
    assert torch.equal(found.predict(scores), exact)
    assert exact.double().mean() <= (k % 19 + 1) / 20
    assert torch.equal(scores >= found.threshold, exact)
    assert not ((scores > found.threshold) & ~exact).any()
    if dtype != torch.bfloat16:
        assert (scores.numpy() >= found.threshold).tolist() == exact.tolist()


def test_between_two_scores_there_is_room_or_the_upper_one_is_taken() -> None:
    below = 0.1
    above = math.nextafter(below, 1)
    assert between(below, above, torch.float64) == above
    above = math.nextafter(above, 1)
    assert below < between(below, above, torch.float64) < above
    single = torch.tensor(below)
    after = torch.nextafter(single, torch.tensor(1.0))
    assert between(float(single), float(after), torch.float32) == float(after)
    assert between(float(single), 0.2, torch.float32) == float(after)
    assert between(3.0, 4.0, torch.int64) == 3.5


def test_above_a_tie_at_zero_lies_no_denormal() -> None:
    assert between(0.0, 1.0, torch.float64) == torch.finfo(torch.float32).tiny
    assert between(-0.0, 1.0, torch.float32) == torch.finfo(torch.float32).tiny
    assert 0 < between(0.0, 1e-300, torch.float64) < 1e-300


def test_infinite_scores_at_the_threshold() -> None:
    found = select_threshold([math.inf, math.inf, 0.0, 0.0], [0, 1, 0, 0], 0.1)
    assert math.isnan(found.threshold)
    assert not found.predict([math.inf, 0.0]).any()
    found = select_threshold([math.inf, -math.inf, -math.inf], [1, 0, 0], 0.1)
    assert found.predict([math.inf, 0.0, -math.inf]).tolist() == [True, True, False]


def test_predict_takes_what_the_functions_take() -> None:
    scores, targets = torch.randn(90, 3), torch.arange(90) % 3
    found = select_threshold(scores, targets, 0.1)
    expected = scores.double() >= found.threshold
    assert torch.equal(found.predict(scores), expected)
    one = select_threshold(scores[:, 0], targets == 0, 0.1)
    assert torch.equal(one.predict(scores[:, :1]), expected[:, :1])
    arrays = select_threshold(scores.numpy(), targets.numpy(), 0.1)
    assert isinstance(arrays.threshold, np.ndarray)
    assert (arrays.predict(scores.numpy()) == expected.numpy()).all()
    assert one.predict(scores[:, 0].tolist()).tolist() == expected[:, 0].tolist()
    with pytest.raises(ValueError, match=r"scores must be \[N, C\] = \[N, 3\], got shape \[90\]"):
        found.predict(scores[:, 0])
    with pytest.raises(ValueError, match=r"scores must not be nan, got 1 nan"):
        one.predict([0.0, math.nan])
    with pytest.raises(TypeError, match=r"scores must be a tensor"):
        one.predict("a")


# --- rows and errors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_the_rule_holds_in_the_dtype_of_the_scores(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = (100 * torch.randn(2000, 1, generator=generator)).to(dtype)
    targets = (torch.rand(2000, 1, generator=generator) < 0.3).long()
    found = select_threshold(scores, targets, 0.01)
    for alerts in (scores >= found.threshold, found.predict(scores)):
        assert alerts[targets == 0].double().mean().item() == pytest.approx(found.fpr)
    assert (scores > found.threshold)[targets == 0].double().mean().item() <= found.fpr
    assert 0 < found.fpr <= 0.01


def test_large_integers_that_float64_rounds_stay_within_the_budget() -> None:
    scores = 2**53 + torch.arange(50)
    found = select_threshold(scores, torch.zeros(50), 0.1)
    assert (scores >= torch.tensor(found.threshold, dtype=torch.float64)).sum() <= 5
    assert found.predict(scores).sum() <= 5


def test_an_ignored_row_is_as_good_as_absent() -> None:
    scores, targets = torch.tensor([math.nan, 2, 1, 3, 4]), torch.tensor([-100, 0, 0, 0, 1])
    assert select_threshold(scores, targets, 0.4) == select_threshold(scores[1:], targets[1:], 0.4)
    found = select_threshold(scores, targets, 0.4)
    assert just_above(2, found)
    assert found[1:] == (1 / 3, 1.0, 0.5, 0.5, pytest.approx(0.648))


def test_inputs_stay_as_they_are() -> None:
    scores, targets = torch.tensor([1.0, 3, 2], requires_grad=True), torch.tensor([0, 1, 0])
    select_threshold(scores, targets, 0.5)
    assert scores.tolist() == [1, 3, 2]
    assert targets.tolist() == [0, 1, 0]


SCORES, TARGETS = torch.tensor([3.0, 2, 1]), torch.tensor([1, 0, 0])


@pytest.mark.parametrize(
    ("error", "message", "scores", "targets", "options"),
    [
        (TypeError, r"scores must be a tensor, an array or a seq", ["a"], TARGETS, {}),
        (ValueError, r"number of rows, got 2 and 3", SCORES[1:], TARGETS, {}),
        (ValueError, r"scores must not be nan", SCORES * math.nan, TARGETS, {}),
        (ValueError, r"targets must be 0, 1 or ignore_index", SCORES, TARGETS * 2, {}),
        (ValueError, r"must hold negatives, got 0 in 3 rows", SCORES, TARGETS * 0 + 1, {}),
        (ValueError, r"must hold negatives, got 0 in 0 rows", SCORES, TARGETS * 0 - 100, {}),
        (TypeError, r"ignore_index must be an integer", SCORES, TARGETS, {"ignore_index": None}),
        (TypeError, r"budget must be a real number, got str", SCORES, TARGETS, {"budget": "1"}),
        (TypeError, r"budget must be a real number, got bool", SCORES, TARGETS, {"budget": True}),
        (ValueError, r"budget .* above 0 and below 1, got 0", SCORES, TARGETS, {"budget": 0}),
        (ValueError, r"budget .* below 1, got 1.0", SCORES, TARGETS, {"budget": 1.0}),
        (ValueError, r"budget .* got nan", SCORES, TARGETS, {"budget": math.nan}),
        (TypeError, r"confidence must be a real", SCORES, TARGETS, {"confidence": "a"}),
        (ValueError, r"confidence .* at least 0\.5 and", SCORES, TARGETS, {"confidence": 0.49}),
        (ValueError, r"confidence .* below 1, got 1", SCORES, TARGETS, {"confidence": 1}),
        (ValueError, r"confidence .* got nan", SCORES, TARGETS, {"confidence": math.nan}),
    ],
)
def test_bad_arguments(
    error: type[Exception], message: str, scores: Any, targets: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=message):
        select_threshold(scores, targets, **{"budget": 0.5, **options})
