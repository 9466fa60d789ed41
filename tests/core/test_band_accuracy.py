"""How well a queue places the band's edges: the advice before training, the check during it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc import (
    PAUCAtBudgetLoss,
    band_edges,
    enqueue,
    init_queue,
    pauc_loss_terms,
    recommend_queue_size,
)

pytestmark = pytest.mark.usefixtures("each_path")

# --- recommend_queue_size


def exact_error(rows: int, beta: float) -> float:
    """The relative standard deviation of the FPR at t_beta, the k-th largest of `rows` scores.

    Beta(k, rows + 1 - k), whose moments are in closed form (SciPy's cancel in long queues).
    """
    k = math.floor(beta * (rows - 1) + 1e-9) + 1
    return math.sqrt((rows + 1 - k) / (k * (rows + 2)))


@given(st.integers(1, 1000), st.integers(2, 100))
def test_the_beta_distribution_keeps_to_the_error_asked_for(thousandths: int, root: int) -> None:
    beta, asked = thousandths / 1000, 1 / root
    rows = recommend_queue_size(beta, relative_error=asked)
    assert exact_error(rows, beta) <= asked * (1 + 1e-6)
    if beta <= 0.05:  # and no larger than it need be, where the band is narrow
        assert exact_error(rows, beta) >= asked * (1 - 1.1 * beta) * (1 - 1 / root**2)


def test_sizes_that_are_known() -> None:
    assert recommend_queue_size(0.005) == 20_000  # 100 rows in the band
    assert recommend_queue_size(0.005, relative_error=0.2) == 5000
    assert recommend_queue_size(0.005, alpha=0.001, relative_error=0.1) == 25_000
    assert recommend_queue_size(0.005, positive_rate=0.2) == 25_000
    assert recommend_queue_size(1.0, relative_error=1.0) == 1


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.05), (0.02, 0.07)])
def test_simulated_edges_err_as_said(alpha: float, beta: float) -> None:
    rows = recommend_queue_size(beta, alpha=alpha, relative_error=0.2)
    assert rows == 500
    scores = torch.randn(8000, rows, generator=torch.Generator().manual_seed(0))
    edges = band_edges(scores, torch.ones_like(scores, dtype=torch.bool), alpha, beta)
    above = [torch.special.ndtr(-t.double()) for t in (edges.t_beta, edges.t_alpha)]
    width = above[0] - above[1] if alpha else above[0]
    error = ((width - (beta - alpha)) ** 2).mean().sqrt() / (beta - alpha)
    # A standard deviation from 8,000 values is off by 0.8 %: 5 of those, and the band's own 5 %.
    assert 0.2 * 0.91 < error < 0.2 * 1.04
    within = ((width / (beta - alpha) - 1).abs() <= 0.4).double().mean()
    assert 0.94 < within < 0.97


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, r"alpha and beta must satisfy", {"beta": 0.0}),
        (ValueError, r"alpha and beta must satisfy", {"alpha": 0.5}),
        (ValueError, r"relative_error must be above 0 and at most 1", {"relative_error": 0}),
        (ValueError, r"relative_error .* got 1.1", {"relative_error": 1.1}),
        (ValueError, r"relative_error must be finite", {"relative_error": math.nan}),
        (TypeError, r"relative_error must be a real", {"relative_error": "0.1"}),
        (ValueError, r"positive_rate must be in \[0, 1\), got 1", {"positive_rate": 1}),
        (ValueError, r"positive_rate .* got -0.1", {"positive_rate": -0.1}),
        (TypeError, r"positive_rate must be a real", {"positive_rate": None}),
    ],
)
def test_bad_arguments(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        recommend_queue_size(**{"beta": 0.005, **options})


# --- realised_fpr

COLUMNS = 3001  # targets of 0 are negatives of all classes but the first


def realised(held: int, fresh: int, shift: float = 0.0, **options: Any) -> torch.Tensor:
    """The diagnostic of 3,000 independent queues and batches of standard normal scores."""
    generator = torch.Generator().manual_seed(0)
    past = torch.randn(held, COLUMNS, generator=generator)
    logits = torch.randn(fresh, COLUMNS, generator=generator) + shift
    queue = init_queue(held, COLUMNS)
    queue = enqueue(queue, past, torch.zeros(held, dtype=torch.int64))
    targets = torch.zeros(fresh, dtype=torch.int64)
    terms = pauc_loss_terms(logits, targets, queue, diagnostics=True, **options)
    return terms.stats["realised_fpr"][1:]


def test_on_average_it_is_the_share_that_an_order_statistic_lets_through() -> None:
    """20 rows held: the edge at 10 % is the second largest, above which lie 2 / 21 of new rows.

    The variance of a column is 2/21 19/21 (1/10 + 9/10 1/22), so that the mean of 3,000 has a
    standard deviation of 0.002. Were the batch's rows among the references, it would be 0.067.
    """
    assert realised(20, 10, beta=0.1).double().mean().item() == pytest.approx(2 / 21, abs=0.0105)


def test_scores_that_drift_show() -> None:
    assert realised(20, 10, shift=1.0, beta=0.1).mean() > 0.3
    assert realised(20, 10, shift=-1.0, beta=0.1).mean() < 0.03


def test_strictly_above_and_by_the_interpolation_asked_for() -> None:
    queue = enqueue(init_queue(4, 1), torch.tensor([[1.0], [2], [3], [4]]), torch.zeros(4).long())
    logits, targets = torch.tensor([[2.0], [2.5], [3.0], [5.0], [9.0]]), torch.arange(5) // 4
    expected = {"higher": 1 / 4, "linear": 2 / 4, "lower": 3 / 4}  # above 3, 2.5 and 2
    for interpolation, share in expected.items():
        terms = pauc_loss_terms(
            logits,
            targets,
            queue,
            beta=0.5,
            quantile_interpolation=interpolation,
            diagnostics=True,
        )
        assert terms.stats["realised_fpr"].item() == share


def test_nan_without_a_queue_or_without_references_in_the_batch() -> None:
    module = PAUCAtBudgetLoss(1, queue_size=100, beta=0.5)
    logits, targets = torch.randn(20, 1), torch.arange(20) % 2

    def step(*args: Any) -> float:
        return module(logits, targets, *args, return_diagnostics=True)[1]["realised_fpr"].item()

    assert math.isnan(step())
    assert 0 <= step() <= 1
    assert math.isnan(step(torch.zeros(20, dtype=torch.bool)))
    module.reset_queue()
    assert math.isnan(step())


def test_it_costs_nothing_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("pauc.core.diagnostics.realised_fpr", refuse)
    PAUCAtBudgetLoss(1, beta=0.5)(torch.randn(20, 1), torch.arange(20) % 2)
