"""Weights: whole ones are repeated rows, and scikit-learn counts them the same way."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from pauc import select_threshold
from pauc.intervals import bootstrap_interval, partial_auc_interval, tpr_at_fpr_interval
from pauc.metrics import (
    coverage_at_budget,
    fpr_at_tpr,
    partial_auc,
    roc_curve_in_band,
    tpr_at_fpr,
)
from tests.test_arrays import FUNCTIONS

examples = settings(max_examples=settings().max_examples // 3)
RATES = [0.0, 0.1, 0.25, 0.29, 0.5, 1.0]

values = st.sampled_from([-1.0, 0.0, 0.5, 2.0]) | st.floats(allow_nan=False, width=16)
row = st.tuples(values, st.integers(0, 1), st.integers(0, 4))
rows_with_weights = st.builds(
    lambda a, b, rest: [(a, 0, 2), (b, 1, 1), *rest], values, values, st.lists(row, max_size=25)
)


def tensors(rows: list[tuple[float, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    scores, targets, weight = zip(*rows, strict=True)
    return torch.tensor(scores, dtype=torch.float64), torch.tensor(targets), torch.tensor(weight)


def repeated(rows: list[tuple[float, int, int]]) -> tuple[Tensor, Tensor]:
    return tensors([r for r in rows for _ in range(r[2])])[:2]


def everything(scores: Tensor, targets: Tensor, **options: Any) -> list[Any]:
    point = select_threshold(scores, targets, 0.3, alert_share=0.4, **options)
    return [
        *(part.tolist() for part in roc_curve_in_band(scores, targets, 0.1, 0.7, **options)),
        partial_auc(scores, targets, 0.1, 0.7, **options).item(),
        tpr_at_fpr(scores, targets, RATES, **options).tolist(),
        fpr_at_tpr(scores, targets, RATES, **options).tolist(),
        coverage_at_budget(scores, targets, RATES, **options).tolist(),
        partial_auc_interval_mean(scores, targets, **options),
        list(point[:5]),
    ]


def partial_auc_interval_mean(scores: Tensor, targets: Tensor, **options: Any) -> list[float]:
    try:
        return [partial_auc_interval(scores, targets, 0.1, 0.7, **options).estimate.item()]
    except ValueError:  # fewer than two rows of a class, which repetition may make up for
        return []


@examples
@given(rows_with_weights)
def test_a_whole_weight_is_a_row_repeated(rows: list[tuple[float, int, int]]) -> None:
    scores, targets, weight = tensors(rows)
    expected = everything(*repeated(rows))
    found = everything(scores, targets, sample_weight=weight)
    if not found[7]:
        expected[7] = []
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, nan_ok=True, rel=1e-12, abs=1e-15)


@examples
@given(rows_with_weights, st.integers(1, 2**40))
def test_only_the_ratio_of_weights_counts(rows: list[tuple[float, int, int]], factor: int) -> None:
    """A third of a weight, say, cannot be written in binary: the budget must not lose a row."""
    scores, targets, weight = tensors(rows)
    expected = everything(scores, targets, sample_weight=weight)
    found = everything(scores, targets, sample_weight=weight.double() * (factor / 3))
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, nan_ok=True, rel=1e-9, abs=1e-12)


def test_the_rounding_of_a_long_sum_of_weights_loses_no_row() -> None:
    """The sum of 100,000 times 0.1 is off by a thousand rounding steps."""
    scores, targets = torch.arange(200_000.0), torch.arange(200_000) % 2
    weight = torch.full((200_000,), 0.1, dtype=torch.float64)
    budgets = [0.0001, 0.29, 0.57, 0.9]
    for metric in (tpr_at_fpr, fpr_at_tpr, coverage_at_budget):
        found = metric(scores, targets, budgets, sample_weight=weight)
        torch.testing.assert_close(found, metric(scores, targets, budgets), rtol=0, atol=1e-9)


@examples
@given(rows_with_weights)
def test_a_row_of_no_weight_is_as_good_as_absent(rows: list[tuple[float, int, int]]) -> None:
    scores, targets, weight = tensors(rows)
    kept = weight > 0
    expected = everything(scores[kept], targets[kept], sample_weight=weight[kept])
    padded = torch.where(kept, scores, torch.nan)
    found = everything(padded, targets, sample_weight=weight)
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, nan_ok=True, rel=0, abs=0)


def sample(seed: int = 0, rows: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(rows, generator=generator) < 0.3).long()
    scores = (4 * (torch.randn(rows, generator=generator) + targets)).round()
    return scores, targets, torch.rand(rows, generator=generator, dtype=torch.float64)


def test_weighted_curve_and_area_are_those_of_scikit_learn() -> None:
    scores, targets, weight = sample()
    fpr, tpr, thresholds = roc_curve(targets, scores, sample_weight=weight, drop_intermediate=False)
    curve = roc_curve_in_band(scores, targets, sample_weight=weight)
    torch.testing.assert_close(curve.fpr, torch.from_numpy(fpr), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(curve.tpr, torch.from_numpy(tpr), rtol=1e-12, atol=1e-15)
    assert curve.thresholds.tolist() == thresholds.tolist()
    for beta in (0.1, 1.0):
        expected = roc_auc_score(targets, scores, sample_weight=weight, max_fpr=beta)
        found = partial_auc(scores, targets, 0, beta, normalize="mcclish", sample_weight=weight)
        assert found.item() == pytest.approx(expected, rel=1e-12)


@examples
@given(rows_with_weights, st.sampled_from(RATES))
def test_least_fpr_is_that_of_brute_force(rows: list[tuple[float, int, int]], share: float) -> None:
    rows = [r for r in rows if r[2]]

    def weigh(label: int, cut: float) -> int:
        return sum(w for s, t, w in rows if t == label and s >= cut)

    cuts = [float("inf"), *sorted({r[0] for r in rows}, reverse=True)]
    # The threshold +inf flags no row, even of those whose score is +inf.
    points = [(0, 0) if k == 0 else (weigh(0, c), weigh(1, c)) for k, c in enumerate(cuts)]
    least = Fraction(share).limit_denominator(1000) * points[-1][1]
    expected = min(fp for fp, tp in points if tp >= least) / points[-1][0]
    scores, targets, weight = tensors(rows)
    assert fpr_at_tpr(scores, targets, share, sample_weight=weight).item() == expected
    assert fpr_at_tpr(*repeated(rows), share).item() == expected


# --- intervals


def test_the_fast_bootstrap_is_the_metric_on_every_resample() -> None:
    scores, targets, weight = sample(rows=100)
    options: dict[str, Any] = {"n_resamples": 60, "confidence": 0.9, "sample_weight": weight}
    fast = tpr_at_fpr_interval(scores, targets, [0.1, 0.3], **options)
    slow = bootstrap_interval(
        lambda s, t, sample_weight: tpr_at_fpr(s, t, [0.1, 0.3], sample_weight=sample_weight),
        *(scores, targets),
        **options,
    )
    for own, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=0)


def test_equal_weights_give_the_plain_interval() -> None:
    scores, targets, _ = sample()
    plain = partial_auc_interval(scores, targets, 0.0, 0.2)
    equal = partial_auc_interval(scores, targets, 0.0, 0.2, sample_weight=torch.full((400,), 0.3))
    for own, other in zip(equal, plain, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=0)


def test_the_weighted_closed_form_agrees_with_the_bootstrap() -> None:
    scores, targets, weight = sample(rows=4000)
    closed = partial_auc_interval(scores, targets, 0.0, 0.3, sample_weight=weight)
    drawn = bootstrap_interval(
        lambda s, t, sample_weight: partial_auc(s, t, 0.0, 0.3, sample_weight=sample_weight),
        *(scores, targets),
        sample_weight=weight,
        n_resamples=600,
    )
    widths = [(found.high - found.low).item() for found in (closed, drawn)]
    # The width of 600 resamples is off by some 4 %; leaving the weights out would be 13 % narrower.
    assert widths[0] == pytest.approx(widths[1], rel=0.09)


# --- errors


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.ones(3), ValueError, r"sample_weight must be \[N\] .* N = 4, got shape \[3\]"),
        (torch.ones(4, 2), ValueError, r"sample_weight must be \[N\]"),
        (torch.tensor([1, 1, -1.0, 1]), ValueError, r"non-negative, got -1\.0 in row 2"),
        (torch.tensor([1, torch.nan, 1, 1]), ValueError, r"finite .*, got nan in row 1"),
        (torch.tensor([1, torch.inf, 1, 1]), ValueError, r"finite .*, got inf in row 1"),
        (torch.full((4,), 1e308, dtype=torch.float64), ValueError, r"finite sum, got .* inf"),
        (["a"] * 4, TypeError, r"sample_weight must be a tensor, an array"),
        (torch.zeros(4), ValueError, r"targets must hold"),
    ],
)
def test_bad_weights(function: Any, weight: Any, error: Any, message: str) -> None:
    scores, targets = torch.arange(4.0), torch.tensor([0, 1, 0, 1])
    with pytest.raises(error, match=message):
        function(scores, targets, sample_weight=weight)


def test_the_weight_of_an_ignored_row_may_be_anything() -> None:
    scores, targets = torch.arange(5.0), torch.tensor([0, 1, 0, 1, -100])
    weight = torch.tensor([1.0, 2, 3, 4, torch.nan])
    found = partial_auc(scores, targets, sample_weight=weight)
    assert found == partial_auc(scores[:4], targets[:4], sample_weight=weight[:4])
