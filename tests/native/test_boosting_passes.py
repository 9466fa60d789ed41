"""The native passes over all rows of a boosting round, against torch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc.native import extension
from pauc.native.boosting import log_loss_, rows_from

pytestmark = pytest.mark.skipif(extension.ext is None, reason="installed without a compiler")


@given(
    scores=st.lists(st.floats(-690, 690), min_size=1, max_size=40),
    weight=st.one_of(st.none(), st.sampled_from([0.0, 0.5, 3.0])),
    factor=st.sampled_from([0.0, 0.1, 1.0]),
    max_step=st.sampled_from([0.5, 10.0, 1e9]),
)
def test_the_log_loss_is_torchs(
    scores: list[float], weight: float | None, factor: float, max_step: float
) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    weights = None if weight is None else torch.full_like(s, weight)
    gradient, hessian = torch.empty_like(s), torch.empty_like(s)
    assert log_loss_(
        gradient, hessian, s, weights, factor=factor, max_step=max_step, least_curvature=1e-6
    )
    scale = 1.0 if weight is None else weight
    slope = factor * s.sigmoid()
    bent = torch.maximum(slope * (-s).sigmoid(), slope / max_step).clamp_min(1e-6)
    torch.testing.assert_close(gradient, scale * slope, rtol=2e-15, atol=0)
    torch.testing.assert_close(hessian, scale * bent, rtol=2e-15, atol=0)


def test_scores_without_end_saturate() -> None:
    s = torch.tensor([-1e300, -720.0, 720.0, 1e300], dtype=torch.float64)
    gradient, hessian = torch.empty_like(s), torch.empty_like(s)
    log_loss_(gradient, hessian, s, None, factor=1.0, max_step=10.0, least_curvature=1e-6)
    torch.testing.assert_close(gradient, s.sigmoid(), rtol=0, atol=1e-300)
    assert hessian.tolist() == pytest.approx([1e-6, 1e-6, 0.1, 0.1])


@given(
    rows=st.lists(
        st.tuples(st.one_of(st.floats(-3, 3), st.sampled_from([0.0, 1.0])), st.booleans()),
        max_size=40,
    ),
    lowest=st.sampled_from([-math.inf, 0.0, 1.0, 2.5, math.inf]),
)
def test_rows_from_are_those_that_count_and_reach_it(
    rows: list[tuple[float, bool]], lowest: float
) -> None:
    scores = torch.tensor([score for score, _ in rows], dtype=torch.float64)
    counted = torch.tensor([counts for _, counts in rows], dtype=torch.bool)
    found = rows_from(scores, counted, lowest)
    assert found is not None
    expected = [k for k, (score, counts) in enumerate(rows) if counts and score >= lowest]
    assert found.tolist() == expected
