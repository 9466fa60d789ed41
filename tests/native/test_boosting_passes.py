"""The native passes over all rows of a boosting round, against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc.native import extension
from pauc.native.boosting import log_loss_, marked_rows

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


@given(st.lists(st.booleans(), max_size=40))
def test_marked_rows_are_those(marked: list[bool]) -> None:
    found = marked_rows(torch.tensor(marked, dtype=torch.bool))
    assert found.dtype == torch.int64
    assert found.tolist() == [k for k, mark in enumerate(marked) if mark]
