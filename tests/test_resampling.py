"""The short cut through the bootstrap against all resamples of a few rows, and on many rows."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pauc.intervals import bootstrap_interval, tpr_at_fpr_interval
from pauc.metrics import tpr_at_fpr
from pauc.resampling import (
    difference_draws,
    percentile_interval,
    resamples_for,
    tpr_draws,
    tpr_interval,
)

DRAWS = 20_000
few = st.lists(st.integers(0, 4), min_size=1, max_size=3)
two_models = st.tuples(st.integers(0, 4), st.integers(0, 4))


def all_resamples(negatives: int, positives: int):
    """Each draw of rows, negatives first; all are equally likely."""
    for neg in itertools.product(range(negatives), repeat=negatives):
        for pos in itertools.product(range(negatives, negatives + positives), repeat=positives):
            yield torch.tensor([*neg, *pos])


def check_distribution(draws: torch.Tensor, exact: list[float]) -> None:
    """Compare shares of each value to within five standard errors."""
    expected = Counter(round(value, 9) for value in exact)
    found = Counter(round(value, 9) for value in draws.tolist())
    assert set(found) <= set(expected)
    for value, count in expected.items():
        share = count / len(exact)
        error = (share * (1 - share) / len(draws)) ** 0.5
        assert abs(found[value] / len(draws) - share) <= 5 * error + 1e-12, value


@settings(max_examples=40)
@given(few, few, st.sampled_from([0.0, 0.2, 0.34, 0.5, 0.67, 1.0]), st.integers(0, 99))
def test_draws_have_the_distribution_of_whole_resamples(neg, pos, fpr, seed) -> None:
    scores = torch.tensor([*neg, *pos])
    targets = torch.tensor([0] * len(neg) + [1] * len(pos))
    exact = [
        float(tpr_at_fpr(scores[rows], targets, fpr)) for rows in all_resamples(len(neg), len(pos))
    ]
    draws = tpr_draws(scores, targets, torch.tensor([fpr]), n_resamples=DRAWS, seed=seed)
    check_distribution(draws[:, 0], exact)


@settings(max_examples=25)
@given(
    st.lists(two_models, min_size=1, max_size=3),
    st.lists(two_models, min_size=1, max_size=2),
    st.sampled_from([0.0, 0.34, 0.5, 0.67]),
)
def test_differences_have_the_distribution_of_whole_resamples(neg, pos, fpr) -> None:
    rows = torch.tensor([*neg, *pos])
    first, second = rows[:, 0], rows[:, 1].double()
    targets = torch.tensor([0] * len(neg) + [1] * len(pos))
    exact = [
        float(tpr_at_fpr(second[rows], targets, fpr) - tpr_at_fpr(first[rows], targets, fpr))
        for rows in all_resamples(len(neg), len(pos))
    ]
    draws = difference_draws(first, second, targets, fpr, n_resamples=DRAWS // 4)
    check_distribution(draws, exact)


def rows_like(negatives: int, positives: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    targets = torch.cat([torch.zeros(negatives), torch.ones(positives)]).long()
    common = torch.randn(len(targets), generator=g)
    first = common + torch.randn(len(targets), generator=g) + 2 * targets
    second = common + torch.randn(len(targets), generator=g) + 2.5 * targets
    return first, second, targets


def test_intervals_of_many_rows_are_those_of_the_slow_way() -> None:
    first, second, targets = rows_like(4000, 300)
    at = torch.tensor([0.002, 0.01, 0.1])
    fast = tpr_interval(first, targets, at, confidence=0.9)
    slow = tpr_at_fpr_interval(first, targets, at, confidence=0.9)
    assert torch.equal(fast.estimate, slow.estimate)
    torch.testing.assert_close(fast.low, slow.low, atol=0.012, rtol=0)
    torch.testing.assert_close(fast.high, slow.high, atol=0.012, rtol=0)

    def difference(s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return tpr_at_fpr(s[:, 1], t, 0.01) - tpr_at_fpr(s[:, 0], t, 0.01)

    slow = bootstrap_interval(
        difference, torch.stack([first, second], 1), targets, confidence=0.9, n_resamples=999
    )
    # 91 of 4,000 negatives can set a threshold here: the rest is left out.
    draws = difference_draws(first, second, targets, 0.01)
    fast = percentile_interval(slow.estimate, draws, 0.9)
    assert float(draws.std()) == pytest.approx(float(slow.high - slow.low) / 3.29, rel=0.1)
    torch.testing.assert_close(fast.low, slow.low, atol=0.02, rtol=0)
    torch.testing.assert_close(fast.high, slow.high, atol=0.02, rtol=0)


def test_a_seed_gives_the_same_draws_and_leaves_the_global_generator_alone() -> None:
    first, second, targets = rows_like(200, 30)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draws = [tpr_draws(first, targets, torch.tensor([0.1]), seed=s) for s in (1, 1, 2)]
    pairs = [difference_draws(first, second, targets, 0.1, seed=s) for s in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    for one, same, other in (draws, pairs):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("confidence", "draws"), [(0.5, 2000), (0.999, 2000), (0.9995, 4000), (0.99998, 100_000)]
)
def test_the_ends_of_an_interval_are_among_its_draws(confidence: float, draws: int) -> None:
    assert resamples_for(confidence) == draws
    values = torch.arange(1.0, draws + 1)
    found = percentile_interval(torch.tensor(0.0), values, confidence)
    assert float(found.low) == max(1, math.floor((draws + 1) * (1 - confidence) / 2 + 1e-6))
    assert float(found.low + found.high) == draws + 1


def test_a_confidence_that_would_take_too_many_draws_is_refused() -> None:
    with pytest.raises(ValueError, match=r"confidence must be at most 0\.99998"):
        resamples_for(0.99999)


def test_ignored_rows_count_nowhere() -> None:
    first, second, targets = rows_like(200, 30)
    padded = [torch.cat([part, torch.tensor([torch.nan])]) for part in (first, second)]
    labels = torch.cat([targets, torch.tensor([-100])])
    at = torch.tensor([0.1])
    assert torch.equal(tpr_draws(first, targets, at), tpr_draws(padded[0], labels, at))
    assert torch.equal(
        difference_draws(first, second, targets, 0.1), difference_draws(*padded, labels, 0.1)
    )


def test_progress_is_told_of_all_resamples() -> None:
    first, second, targets = rows_like(50, 10)
    seen: list[int] = []
    difference_draws(
        first, second, targets, 0.1, n_resamples=7,
        progress=lambda rows: (seen.append(k) or k for k in rows),
    )  # fmt: skip
    assert seen == [0]  # few rows: one step


@pytest.mark.slow
def test_a_million_rows_take_seconds() -> None:
    """Measured 1.5 s for both together, half of it sorts."""
    first, second, targets = rows_like(950_000, 50_000)
    start = time.perf_counter()
    tpr_interval(first, targets, torch.logspace(-5, 0, 32).double(), confidence=0.95)
    difference_draws(first, second, targets, 0.005)
    assert time.perf_counter() - start < 20
