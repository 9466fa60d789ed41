"""`pauc.intervals`: against plain Python, against itself by another path, and by simulation."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from itertools import pairwise
from statistics import NormalDist, variance
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from torch import Tensor

from pauc.intervals import (
    Interval,
    bootstrap_interval,
    fpr_at_tpr_interval,
    partial_auc_interval,
    resamples,
    tpr_at_fpr_interval,
    wilson_interval,
)
from pauc.metrics import coverage_at_budget, fpr_at_tpr, partial_auc, tpr_at_fpr

examples = settings(max_examples=settings().max_examples // 3)
Rows = tuple[list[float], list[int]]

few_values = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0, math.inf])
any_values = st.floats(allow_nan=False, width=16)


def rows_from(values: st.SearchStrategy[float]) -> st.SearchStrategy[Rows]:
    """Rows with 2 or more of both classes, in any order."""
    some = st.lists(st.tuples(values, st.integers(0, 1)), max_size=20)
    both = st.tuples(*[values] * 4).map(lambda v: list(zip(v, (0, 1, 0, 1), strict=True)))
    rows = st.builds(lambda a, b, c: a + b + c, some, both, some)
    return rows.map(lambda rows: tuple(list(column) for column in zip(*rows, strict=True)))


any_rows = rows_from(few_values) | rows_from(any_values)
bands = st.tuples(st.integers(0, 12), st.integers(1, 12)).map(
    lambda b: (min(b[0], 11) / 12, min(min(b[0], 11) + b[1], 12) / 12)
)


def tensors(rows: Rows) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows[0], dtype=torch.float64), torch.tensor(rows[1])


def sample(seed: int = 0, rows: int = 300, shift: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(rows, generator=generator) < 0.3).long()
    return torch.randn(rows, generator=generator) + shift * targets, targets


def lists(interval: Interval) -> list[Any]:
    return [part.tolist() for part in interval]


# --- the analytic variance


def pair(positive: float, negative: float) -> float:
    return (positive > negative) + (positive == negative) / 2


def delong_variance(scores: list[float], targets: list[int]) -> float:
    """DeLong, DeLong and Clarke-Pearson (1988), equations 3 to 5 for one curve, pair by pair."""
    positives, negatives = (
        [s for s, t in zip(scores, targets, strict=True) if t == side] for side in (1, 0)
    )
    v10 = [sum(pair(p, n) for n in negatives) / len(negatives) for p in positives]
    v01 = [sum(pair(p, n) for p in positives) / len(positives) for n in negatives]
    return variance(v10) / len(positives) + variance(v01) / len(negatives)


def slow_error(rows: Rows, alpha: float, beta: float) -> tuple[float, float]:
    """The mean TPR over a band and its standard error, in rational numbers, row by row."""
    scores, targets = rows
    low, high = (Fraction(edge).limit_denominator(12) for edge in (alpha, beta))
    corners = [(Fraction(0), Fraction(0))]
    for cut in sorted(set(scores), reverse=True):
        flagged = [t for s, t in zip(scores, targets, strict=True) if s >= cut]
        corners.append(
            (
                Fraction(flagged.count(0), targets.count(0)),
                Fraction(flagged.count(1), targets.count(1)),
            )
        )
    blocks = dict(zip(sorted(set(scores), reverse=True), pairwise(corners), strict=True))
    flat = [(a, b) for a, b in blocks.values() if b[0] > a[0]]

    def height(x: Fraction, after: bool) -> Fraction:
        """The curve at `x`; where it is vertical, its end towards larger or smaller FPR."""
        (x0, y0), (x1, y1) = next((a, b) for a, b in flat if (b[0] > x if after else b[0] >= x))
        return y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    def mean_over(start: Fraction, end: Fraction, value: Any) -> Fraction:
        """The mean over [start, end] of a function that is linear between these cuts."""
        cuts = sorted({start, end, *(x for x in (low, high) if start < x < end)})
        area = sum((b - a) * value((a + b) / 2) for a, b in pairwise(cuts))
        return area / (end - start)

    def of_positive(start: Fraction, end: Fraction) -> Fraction:
        def inside(x: Fraction) -> Fraction:
            return high - min(max(x, low), high)

        return inside(start) if start == end else mean_over(start, end, inside)

    def of_negative(start: Fraction, end: Fraction) -> Fraction:
        def curve(x: Fraction) -> Fraction:
            return height(low, True) if x < low else height(min(x, high), False)

        return mean_over(start, end, curve)

    spans = [(blocks[s][0][0], blocks[s][1][0], t) for s, t in zip(scores, targets, strict=True)]
    added = [float(of_positive(a, b) / (high - low)) for a, b, t in spans if t == 1]
    heights = [float(of_negative(a, b) / (high - low)) for a, b, t in spans if t == 0]
    squared = variance(added) / len(added) + variance(heights) / len(heights)
    return sum(added) / len(added), math.sqrt(squared)


def error_of(interval: Interval, confidence: float = 0.95) -> float:
    """The standard error that an interval with width normalisation was made from."""
    mean, low, high = (part.item() for part in interval)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return (math.log(high / (1 - high)) - math.log(low / (1 - low))) / 2 / z * mean * (1 - mean)


def check_error(interval: Interval, expected: float) -> None:
    low, high = interval.low.item(), interval.high.item()
    if 1e-9 < low < high < 1 - 1e-9:  # nearer to 0 or 1 the logit has lost the digits
        assert error_of(interval) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@examples
@given(any_rows)
def test_on_the_whole_curve_the_variance_is_that_of_delong(rows: Rows) -> None:
    check_error(partial_auc_interval(*tensors(rows)), math.sqrt(delong_variance(*rows)))


# The curve is vertical at both edges of the band.
VERTICAL = ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0], [1, 0, 1, 0, 1, 0, 0, 1])


@examples
@example(VERTICAL, (0.25, 0.5))
@given(any_rows, bands)
def test_in_a_band_the_variance_is_that_of_the_row_by_row_reference(
    rows: Rows, band: tuple[float, float]
) -> None:
    mean, error = slow_error(rows, *band)
    interval = partial_auc_interval(*tensors(rows), *band)
    assert interval.estimate.item() == pytest.approx(mean, abs=1e-9)
    check_error(interval, error)


@examples
@given(any_rows, bands, st.sampled_from(["none", "width", "mcclish"]))
def test_the_estimate_is_the_metric_and_lies_between_the_ends(
    rows: Rows, band: tuple[float, float], normalize: Any
) -> None:
    found = partial_auc_interval(*tensors(rows), *band, normalize=normalize)
    expected = partial_auc(*tensors(rows), *band, normalize=normalize)
    torch.testing.assert_close(found.estimate, expected, rtol=0, atol=1e-11)
    assert all(part.dtype == torch.float64 and part.shape == () for part in found)
    assert found.low <= found.estimate <= found.high
    ends = partial_auc_interval(*tensors(rows), *band)
    width = band[1] - band[0]
    # The three normalisations are linear functions of one another.
    shown = {
        "none": [part * width for part in ends],
        "width": list(ends),
        "mcclish": [0.5 + 0.5 * (part - sum(band) / 2) / (1 - sum(band) / 2) for part in ends],
    }[normalize]
    torch.testing.assert_close(list(found), shown, rtol=0, atol=1e-11)


def test_a_ranking_without_mistakes_has_a_point() -> None:
    scores, targets = torch.arange(10.0), (torch.arange(10) > 4).long()
    assert lists(partial_auc_interval(scores, targets, 0.0, 0.5)) == [1, 1, 1]
    assert lists(partial_auc_interval(-scores, targets, 0.0, 0.5)) == [0, 0, 0]


# --- the bootstrap


@examples
@given(any_rows, st.lists(st.integers(0, 20).map(lambda k: k / 20), max_size=4), st.integers(0))
def test_the_fast_path_equals_the_metric_on_every_resample(
    rows: Rows, rates: list[float], seed: int
) -> None:
    options = {"n_resamples": 50, "confidence": 0.9, "seed": seed % 2**40}
    for interval, metric in (
        (tpr_at_fpr_interval, tpr_at_fpr),
        (fpr_at_tpr_interval, fpr_at_tpr),
    ):
        fast = interval(*tensors(rows), rates, **options)
        slow = bootstrap_interval(partial(_read, metric, rates), *tensors(rows), **options)
        assert lists(fast) == lists(slow)
        assert fast.estimate.shape == (len(rates),)


def _read(metric: Any, rates: list[float], scores: Tensor, targets: Tensor) -> Tensor:
    return metric(scores, targets, rates)


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, targets = sample()
    whole = tpr_at_fpr_interval(scores, targets, [0.1, 0.2])
    monkeypatch.setattr(resamples, "_CHUNK", 1000)
    assert lists(tpr_at_fpr_interval(scores, targets, [0.1, 0.2])) == lists(whole)


def test_resamples_keep_the_number_of_rows_of_each_class_and_reach_every_row() -> None:
    scores, targets = torch.arange(40.0), (torch.arange(40) % 4 == 0).long()
    seen = []

    def metric(s: Tensor, t: Tensor) -> Tensor:
        assert torch.equal(t, targets[s.long()])
        assert t.sum() == 10
        seen.append(s)
        return s.mean()

    bootstrap_interval(metric, scores, targets, n_resamples=400)
    assert len(seen) == 401
    counts = torch.cat(seen[1:]).long().bincount(minlength=40)
    # 16,000 draws, 400 of each row on average: 6 standard deviations are 120.
    assert counts.min() > 280
    assert counts.max() < 520


def test_the_ends_are_the_ranks_that_the_docstring_names() -> None:
    values = iter([0.0, *(float(k) for k in torch.randperm(199).tolist())])
    # 0.05 of 200 is 10: the 10th smallest and the 10th largest of 0 to 198.
    scores, targets = torch.arange(4.0), torch.tensor([0, 1, 0, 1])
    drawn = [next(values) for _ in range(200)]
    calls = iter(drawn)
    found = bootstrap_interval(
        lambda _s, _t: torch.tensor(next(calls)), scores, targets, confidence=0.9, n_resamples=199
    )
    assert lists(found) == [0, 9, 189]


def test_the_error_of_a_mean_is_the_textbook_one() -> None:
    """The standard error of a mean is known; 4 of the 6 % are 4 times the noise of resampling."""
    scores, targets = sample(rows=2000)
    found = bootstrap_interval(lambda s, t: s[t == 1].mean(), scores, targets, confidence=0.9)
    positives = scores[targets == 1].double()
    expected = 1.6449 * positives.std(correction=0) / len(positives) ** 0.5
    assert ((found.high - found.low) / 2 / expected).item() == pytest.approx(1, abs=0.06)


def test_seeds_and_generators() -> None:
    scores, targets = sample()
    first = lists(tpr_at_fpr_interval(scores, targets, 0.1))
    assert lists(tpr_at_fpr_interval(scores, targets, 0.1, seed=0)) == first
    assert lists(tpr_at_fpr_interval(scores, targets, 0.1, seed=1)) != first
    generator = torch.Generator().manual_seed(0)
    before = torch.get_rng_state()
    assert lists(tpr_at_fpr_interval(scores, targets, 0.1, seed=generator)) == first
    assert lists(tpr_at_fpr_interval(scores, targets, 0.1, seed=generator)) != first
    assert torch.equal(torch.get_rng_state(), before)


def test_two_models_on_the_same_rows() -> None:
    scores, targets = sample()
    pair = torch.stack([scores, scores + 0.3 * targets], dim=1)

    def gain(s: Tensor, t: Tensor) -> Tensor:
        return partial_auc(s[:, 1], t) - partial_auc(s[:, 0], t)

    found = bootstrap_interval(gain, pair, targets, n_resamples=200)
    assert found.low > 0  # every resample sees the same improvement
    alone = [bootstrap_interval(partial_auc, pair[:, k], targets, n_resamples=200) for k in (0, 1)]
    assert alone[0].high > alone[1].low


def test_metrics_of_other_kinds() -> None:
    scores, targets = sample()
    found = bootstrap_interval(
        lambda s, t: coverage_at_budget(s, t, [0.1, 0.2]), scores, targets, n_resamples=99
    )
    assert found.low.shape == (2,)
    assert bootstrap_interval(lambda _s, _t: 1, scores, targets, n_resamples=99).high.item() == 1


# --- coverage

SHIFT, FPR, SAMPLES = 2.0, 0.05, 300
CHANCE = 1e-6  # of a false failure, if the coverage is at least 0.92; 0.96 was measured


def test_the_intervals_hold_the_truth() -> None:
    """1,000 negatives and 50 positives, normal; benchmarks/intervals.py has more."""
    normal = NormalDist()

    def tpr(fpr: float) -> float:
        return normal.cdf(SHIFT - normal.inv_cdf(1 - fpr))

    mean_tpr = sum(tpr(FPR * (k + 0.5) / 2000) for k in range(2000)) / 2000
    targets = (torch.arange(1050) < 50).long()
    generator = torch.Generator().manual_seed(0)
    held = {"tpr": 0, "pauc": 0, "fpr": 0}
    fpr = 1 - normal.cdf(normal.inv_cdf(1 - 0.8) + SHIFT)  # at a TPR of 0.8
    for _ in range(SAMPLES):
        scores = torch.randn(1050, generator=generator) + SHIFT * targets
        found = tpr_at_fpr_interval(scores, targets, FPR, n_resamples=199, seed=generator)
        held["tpr"] += bool(found.low <= tpr(FPR) <= found.high)
        found = fpr_at_tpr_interval(scores, targets, 0.8, n_resamples=199, seed=generator)
        held["fpr"] += bool(found.low <= fpr <= found.high)
        found = partial_auc_interval(scores, targets, beta=FPR)
        held["pauc"] += bool(found.low <= mean_tpr <= found.high)
    for count in held.values():
        assert binom.ppf(CHANCE, SAMPLES, 0.92) <= count < SAMPLES


# --- a proportion


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (1, 1), (0, 50), (3, 50), (49, 50), (7, 7)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_equals_scipy(hits: int, trials: int, confidence: float) -> None:
    found = wilson_interval(hits, trials, confidence=confidence)
    expected = binomtest(hits, trials).proportion_ci(confidence, method="wilson")
    assert found.estimate == hits / trials
    assert all(isinstance(part, float) for part in found)
    assert found[1:] == pytest.approx([expected.low, expected.high], abs=1e-12)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


# --- rows and errors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_dtypes_shapes_and_ignored_rows(dtype: torch.dtype) -> None:
    scores, targets = sample(rows=60)
    scores = (4 * scores).round()
    padded = torch.cat([scores, torch.zeros(3)]).to(dtype)
    marked = torch.cat([targets, torch.full((3,), -100)])
    for call in (
        lambda s, t: tpr_at_fpr_interval(s, t, 0.2, n_resamples=50),
        lambda s, t: bootstrap_interval(partial_auc, s, t, n_resamples=50),
        partial_auc_interval,
    ):
        expected = lists(call(scores, targets))
        assert lists(call(padded, marked)) == expected
        assert lists(call(padded[:, None], marked[:, None])) == expected


def test_inputs_stay_as_they_are_and_results_carry_no_gradient() -> None:
    scores = torch.tensor([1.0, 3, 2, 4], requires_grad=True)
    targets = torch.tensor([0, 1, 0, 1])
    found = bootstrap_interval(lambda s, _t: s.mean(), scores, targets, n_resamples=50)
    assert not any(part.requires_grad for part in found)
    assert scores.tolist() == [1, 3, 2, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda() -> None:
    scores, targets = sample()
    here = partial_auc_interval(scores, targets, 0.0, 0.1)
    there = partial_auc_interval(scores.cuda(), targets.cuda(), 0.0, 0.1)
    torch.testing.assert_close(lists(there), lists(here), rtol=1e-9, atol=0)
    drawn = torch.Generator().manual_seed(0)  # draws made on the CPU, for rows on the device
    fast = tpr_at_fpr_interval(scores.cuda(), targets.cuda(), 0.1, seed=drawn)
    assert lists(fast) == lists(tpr_at_fpr_interval(scores, targets, 0.1))
    options = {"n_resamples": 50, "seed": 3}
    fast = tpr_at_fpr_interval(scores.cuda(), targets.cuda(), 0.1, **options)
    slow = bootstrap_interval(
        lambda s, t: tpr_at_fpr(s, t, 0.1), scores.cuda(), targets.cuda(), **options
    )
    assert lists(fast) == lists(slow)


SCORES, TARGETS = torch.tensor([3.0, 2, 1, 0]), torch.tensor([1, 0, 1, 0])
ENTRIES = {
    "bootstrap": lambda *rows, **options: bootstrap_interval(partial_auc, *rows, **options),
    "tpr": lambda *rows, **options: tpr_at_fpr_interval(*rows, 0.5, **options),
    "fpr": lambda *rows, **options: fpr_at_tpr_interval(*rows, 0.5, **options),
    "pauc": partial_auc_interval,
}
every_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)


@every_entry
@pytest.mark.parametrize(
    ("error", "message", "scores", "targets"),
    [
        (TypeError, r"scores must be a tensor, an array or a seq", ["a"], TARGETS),
        (TypeError, r"targets must be a tensor, an array or a seq", SCORES, None),
        (ValueError, r"same number of rows, got \[?3", SCORES[1:], TARGETS),
        (ValueError, r"targets must be 0, 1 or ignore_index", SCORES, TARGETS * 2),
        (ValueError, r"scores must not be nan", SCORES * math.nan, TARGETS),
        (ValueError, r"both classes .* got 4 pos", SCORES, TARGETS * 0 + 1),
    ],
)
def test_bad_rows(
    entry: Any, error: type[Exception], message: str, scores: Any, targets: Any
) -> None:
    with pytest.raises(error, match=message):
        entry(scores, targets)


@pytest.mark.parametrize(
    "entry",
    [*ENTRIES.values(), lambda _s, _t, confidence: wilson_interval(1, 2, confidence=confidence)],
)
def test_bad_confidence(entry: Any) -> None:
    for value in (0.0, 1.0, -0.1, math.nan, 95):
        with pytest.raises(ValueError, match=r"confidence must be above 0 and below 1, got"):
            entry(SCORES, TARGETS, confidence=value)
    with pytest.raises(TypeError, match=r"confidence must be a real number"):
        entry(SCORES, TARGETS, confidence="0.95")


@pytest.mark.parametrize("entry", [ENTRIES["bootstrap"], ENTRIES["tpr"]])
def test_bad_resamples_and_seeds(entry: Any) -> None:
    with pytest.raises(ValueError, match=r"at least 39 for confidence=0\.95, got 38"):
        entry(SCORES, TARGETS, n_resamples=38)
    entry(SCORES, TARGETS, n_resamples=39)
    with pytest.raises(ValueError, match=r"at least 1999 for confidence=0\.999, got 1998"):
        entry(SCORES, TARGETS, n_resamples=1998, confidence=0.999)
    with pytest.raises(ValueError, match=r"n_resamples must be an integer of at least 1, got 0"):
        entry(SCORES, TARGETS, n_resamples=0)
    with pytest.raises(TypeError, match=r"n_resamples must be an integer"):
        entry(SCORES, TARGETS, n_resamples=50.0)
    with pytest.raises(TypeError, match=r"seed must be an integer, got None"):
        entry(SCORES, TARGETS, seed=None)


def test_other_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"scores must be \[N, \.\.\.\] .* got \[\] and \[4\]"):
        bootstrap_interval(partial_auc, SCORES[0], TARGETS)
    with pytest.raises(ValueError, match=r"at least 2 positives and 2 negatives, got 1 and 2"):
        partial_auc_interval(SCORES[1:], TARGETS[1:])
    with pytest.raises(ValueError, match=r"at least 2 positives and 2 negatives, got 2 and 1"):
        partial_auc_interval(SCORES[:3], TARGETS[:3])
    with pytest.raises(ValueError, match=r"normalize must be 'none'"):
        partial_auc_interval(SCORES, TARGETS, normalize="Width")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"alpha and beta must satisfy"):
        partial_auc_interval(SCORES, TARGETS, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"fpr must be in \[0, 1\]"):
        tpr_at_fpr_interval(SCORES, TARGETS, 1.5)
    with pytest.raises(ValueError, match=r"hits must be at most trials=3, got 4"):
        wilson_interval(4, 3)
    with pytest.raises(ValueError, match=r"hits must be an integer of at least 0"):
        wilson_interval(-1, 3)
    with pytest.raises(ValueError, match=r"trials must be an integer of at least 1"):
        wilson_interval(0, 0)
