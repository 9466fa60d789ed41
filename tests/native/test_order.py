"""The order of scores against Python's own sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc.native import extension
from pauc.native.order import ascending_order

SPECIAL = [0.0, -0.0, 5e-324, -5e-324, float("inf"), -float("inf"), 1.7e308, -1.7e308]


@pytest.mark.parametrize("native", [True, False])
@given(
    scores=st.lists(st.one_of(st.floats(allow_nan=False), st.sampled_from(SPECIAL)), max_size=60)
)
def test_it_is_the_order_of_the_scores(scores: list[float], native: bool) -> None:
    given_scores = torch.tensor(scores, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(extension, "ext", None)
        order = ascending_order(given_scores)
    assert sorted(order.tolist()) == list(range(len(scores)))
    assert given_scores[order].tolist() == sorted(scores)


def test_of_a_column() -> None:
    column = torch.tensor([[2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)[:, 0]
    assert ascending_order(column).tolist() == [1, 0]
