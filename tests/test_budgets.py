"""Conversions of budgets: by counting a made-up population, and there and back again."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pauc import budgets, select_threshold
from pauc.budgets import fpr_at_precision, weights_at_base_rate
from pauc.metrics import coverage_at_budget, partial_auc, tpr_at_fpr
from tests.metrics.test_weights import rows_with_weights, tensors

counts = st.integers(0, 1000)


@given(counts, counts, counts, counts)
def test_each_conversion_is_a_count_of_the_population(fp: int, tn: int, tp: int, fn: int) -> None:
    negatives, positives = fp + tn, tp + fn
    rows = negatives + positives
    assume(negatives and positives)
    base, fpr, tpr = positives / rows, fp / negatives, tp / positives
    near = {"rel": 1e-9, "abs": 1e-12}
    share = budgets.alert_share_from_fpr(fpr, base_rate=base, tpr=tpr)
    assert share == pytest.approx((fp + tp) / rows, **near)
    assert budgets.alert_share_from_alerts(fp + tp, rows) == (fp + tp) / rows
    assert budgets.alerts_from_alert_share(share, rows) == pytest.approx(fp + tp, **near)
    assert budgets.false_alarms_from_fpr(fpr, rows, base_rate=base) == pytest.approx(fp, **near)
    try:
        found = budgets.fpr_from_false_alarms(fp, rows, base_rate=base)
        assert found == pytest.approx(fpr, **near)
        assert budgets.fpr_from_alert_share(
            (fp + tp) / rows, base_rate=base, tpr=tpr
        ) == pytest.approx(fpr, **near)
    except ValueError:  # rounding passes 0 or 1
        assert fp == 0 or tn == 0
    if tp:
        precision = budgets.precision_from_fpr(fpr, base_rate=base, tpr=tpr)
        assert precision == pytest.approx(tp / (tp + fp), **near)
        if tn:
            found = budgets.fpr_from_precision(tp / (tp + fp), base_rate=base, tpr=tpr)
            assert found == pytest.approx(fpr, **near)


def test_the_examples_of_the_docstrings() -> None:
    assert budgets.alert_share_from_alerts(200, 50_000) == 0.004
    found = budgets.fpr_from_alert_share(0.01, base_rate=0.002, tpr=0.8)
    assert found == pytest.approx(0.0084 / 0.998)
    assert budgets.fpr_from_false_alarms(0.5, 180_000) == pytest.approx(2.8e-6, rel=0.01)
    found = budgets.fpr_from_precision(0.25, base_rate=0.001, tpr=0.6)
    assert found == pytest.approx(0.0018018, rel=1e-4)


@given(rows_with_weights, st.integers(1, 20), st.integers(1, 19))
def test_the_fpr_at_a_precision_is_that_of_brute_force(
    rows: list[tuple[float, int, int]], precision: int, base: int
) -> None:
    rows = [r for r in rows if r[2]]

    def share(label: int, cut: float) -> Fraction:
        own = [(s, w) for s, t, w in rows if t == label]
        return Fraction(sum(w for s, w in own if s >= cut), sum(w for _, w in own))

    asked, rate = Fraction(precision, 20), Fraction(base, 20)
    fitting = []
    for cut in {score for score, _, _ in rows}:
        fpr, tpr = share(0, cut), share(1, cut)
        if tpr and rate * tpr >= asked * (rate * tpr + (1 - rate) * fpr):
            fitting.append(float(fpr))
    scores, targets, weight = tensors(rows)
    options: dict[str, Any] = {"base_rate": base / 20, "sample_weight": weight}
    if fitting:
        assert fpr_at_precision(scores, targets, precision / 20, **options).item() == max(fitting)
        return
    with pytest.raises(ValueError, match="targets must allow a precision of"):
        fpr_at_precision(scores, targets, precision / 20, **options)


def sample(share: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(20_000, generator=generator) < share).long()
    return torch.randn(20_000, generator=generator) + 2 * targets, targets


def test_weights_at_a_base_rate_give_its_precision_and_shares_and_leave_the_curve() -> None:
    scores, targets = sample(0.5)
    weight = weights_at_base_rate(targets, 0.02)
    assert weight.sum() == pytest.approx(20_000)
    assert weight[targets == 1].sum() == pytest.approx(400)
    for measure in (partial_auc, lambda s, t, **o: tpr_at_fpr(s, t, 0.01, **o)):
        found = measure(scores, targets, sample_weight=weight)
        torch.testing.assert_close(found, measure(scores, targets), rtol=1e-9, atol=0)
    point = select_threshold(scores, targets, precision=0.3, sample_weight=weight)
    fpr = fpr_at_precision(scores, targets, 0.3, base_rate=0.02).item()
    assert point.fpr == pytest.approx(fpr, rel=1e-9)
    expected = budgets.precision_from_fpr(point.fpr, base_rate=0.02, tpr=point.tpr)
    assert point.precision == pytest.approx(expected)
    share = budgets.alert_share_from_fpr(point.fpr, base_rate=0.02, tpr=point.tpr)
    found = coverage_at_budget(scores, targets, share * (1 + 1e-9), sample_weight=weight)
    assert found.item() == pytest.approx(point.tpr)
    # The same rows, drawn at that base rate, have that precision up to their own noise.
    rare = select_threshold(*sample(0.02), precision=0.3)
    assert rare.fpr == pytest.approx(fpr, rel=0.3)


def test_kinds_columns_and_ignored_rows() -> None:
    scores, targets = sample(0.3)
    array = weights_at_base_rate(targets.tolist(), 0.1)
    assert isinstance(array, np.ndarray)
    ignored = torch.cat([targets, torch.tensor([-100])])
    assert weights_at_base_rate(ignored, 0.1).tolist() == [*array.tolist(), 0.0]
    both = torch.stack([scores, -scores], dim=1)
    labels = torch.stack([targets, 1 - targets], dim=1)
    found = fpr_at_precision(both, labels, 0.8, base_rate=0.2)
    alone = [fpr_at_precision(both[:, c], labels[:, c], 0.8, base_rate=0.2) for c in (0, 1)]
    assert found.tolist() == [one.item() for one in alone]
    assert isinstance(fpr_at_precision(scores.numpy(), targets, 0.8, base_rate=0.2), float)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: budgets.alert_share_from_alerts(5, 4),
            ValueError,
            r"alerts must be in \[0, rows\]",
        ),
        (lambda: budgets.alert_share_from_alerts(5, 0), ValueError, r"rows must be above 0, got 0"),
        (lambda: budgets.alert_share_from_alerts("5", 9), TypeError, r"alerts must be a real"),
        (lambda: budgets.alerts_from_alert_share(2, 9), ValueError, r"alert_share must be in"),
        (
            lambda: budgets.fpr_from_false_alarms(9, 8),
            ValueError,
            r"false_alarms must be in \[0, 8",
        ),
        (
            lambda: budgets.fpr_from_alert_share(0.01, base_rate=0.1, tpr=0.5),
            ValueError,
            r"alert_share must be in \[0\.05, 0\.95\] for base_rate=0\.1 and tpr=0\.5, got 0\.01",
        ),
        (
            lambda: budgets.fpr_from_precision(0.1, base_rate=0.5, tpr=1.0),
            ValueError,
            r"precision must be at least 0\.5, .* got 0\.1",
        ),
        (
            lambda: budgets.fpr_from_precision(0.0, base_rate=0.5, tpr=1.0),
            ValueError,
            r"precision must be above 0",
        ),
        (
            lambda: budgets.precision_from_fpr(0.0, base_rate=0.5, tpr=0.0),
            ValueError,
            r"without alerts is no precision",
        ),
        (
            lambda: budgets.precision_from_fpr(0.1, base_rate=1.0, tpr=0.5),
            ValueError,
            r"base_rate must be in \[0, 1\), got 1\.0",
        ),
        (lambda: weights_at_base_rate([0, 1], 0.0), ValueError, r"base_rate must be above 0"),
        (lambda: weights_at_base_rate([1, 1], 0.5), ValueError, r"both classes"),
        (lambda: weights_at_base_rate([[1, 0]], 0.5), ValueError, r"targets must be \[N\]"),
        (
            lambda: fpr_at_precision([0.0, 1.0], [0, 1], 2.0, base_rate=0.5),
            ValueError,
            r"precision must be in \[0, 1\]",
        ),
    ],
)
def test_bad_arguments(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
