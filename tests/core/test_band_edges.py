"""Band edges and scales against torch.quantile, class by class."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pauc import BandEdges, band_edges, robust_scale

KINDS = ("linear", "lower", "higher", "nearest", "midpoint")


@st.composite
def masked_scores(draw):
    classes = draw(st.integers(1, 3))
    columns = draw(st.integers(1, 60))
    distinct = draw(st.sampled_from([3, 1000]))
    seed = draw(st.integers(0, 2**20))
    g = torch.Generator().manual_seed(seed)
    scores = torch.randint(-distinct, distinct, (classes, columns), generator=g).double() / 8
    mask = torch.rand(classes, columns, generator=g) < draw(st.sampled_from([0.3, 0.9, 1.0]))
    return scores, mask


def expected_quantile(scores, mask, level, kind):
    """By torch.quantile where its float position is safe, on the position itself elsewhere."""
    values = sorted(scores[mask].tolist(), reverse=True)
    if not values:
        return math.nan
    position = level * (len(values) - 1)
    high, low = values[math.floor(position)], values[math.ceil(position)]
    ascending = len(values) - 1 - position
    return {
        "higher": high,
        "lower": low,
        "midpoint": (high + low) / 2,
        "linear": high + (position - math.floor(position)) * (low - high),
        "nearest": sorted(values)[round(ascending)],
    }[kind]


@given(
    problem=masked_scores(),
    alpha=st.sampled_from([0.0, 0.01, 0.2, 0.5]),
    width=st.sampled_from([0.005, 0.1, 0.5]),
    n_knots=st.integers(2, 7),
    kind=st.sampled_from(KINDS),
)
def test_edges_are_order_statistics(problem, alpha, width, n_knots, kind):
    scores, mask = problem
    beta = alpha + width
    edges = band_edges(scores, mask, alpha, beta, n_knots=n_knots, interpolation=kind)
    levels = [alpha + (beta - alpha) * k / (n_knots - 1) for k in range(n_knots)]
    levels[-1] = beta
    for c in range(scores.shape[0]):
        expected = [expected_quantile(scores[c], mask[c], level, kind) for level in levels]
        assert edges.knots[c].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert torch.equal(edges.t_alpha.nan_to_num(), edges.knots[:, 0].nan_to_num())
    assert torch.equal(edges.t_beta.nan_to_num(), edges.knots[:, -1].nan_to_num())


@given(problem=masked_scores(), kind=st.sampled_from(KINDS))
def test_iqr(problem, kind):
    scores, mask = problem
    scale = robust_scale(scores, mask, "iqr", interpolation=kind)
    for c in range(scores.shape[0]):
        upper = expected_quantile(scores[c], mask[c], 0.25, kind)
        lower = expected_quantile(scores[c], mask[c], 0.75, kind)
        assert scale[c].item() == pytest.approx(upper - lower, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [0.001, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_equals_torch_quantile(level, kind):
    g = torch.Generator().manual_seed(3)
    # 1,003 steps: no level is at a whole position, where 1 - level in floating point would decide.
    scores = torch.randn(1004, generator=g, dtype=torch.float64)
    mask = torch.ones(1004, dtype=torch.bool)
    expected = torch.quantile(scores, 1 - level, interpolation=kind)
    t_beta = band_edges(scores, mask, 0.0, level, interpolation=kind).t_beta
    assert torch.allclose(t_beta, expected, atol=1e-12)


def test_one_class_and_a_row_of_many_agree():
    g = torch.Generator().manual_seed(0)
    scores, mask = torch.randn(50, generator=g), torch.rand(50, generator=g) < 0.7
    single = band_edges(scores, mask, 0.05, 0.6, n_knots=3)
    many = band_edges(scores.unsqueeze(0), mask.unsqueeze(0), 0.05, 0.6, n_knots=3)
    assert single.t_alpha.shape == ()
    assert torch.equal(single.knots, many.knots[0])
    assert torch.equal(
        robust_scale(scores, mask), robust_scale(scores.unsqueeze(0), mask.unsqueeze(0))[0]
    )


def test_alpha_zero_is_the_maximum():
    scores = torch.tensor([3.0, 9.0, 1.0])
    mask = torch.tensor([True, False, True])
    assert band_edges(scores, mask, 0.0, 0.5).t_alpha.item() == 3.0


def test_edges_are_detached():
    scores = torch.randn(20, requires_grad=True)
    mask = torch.ones(20, dtype=torch.bool)
    edges = band_edges(scores, mask, 0.0, 0.3)
    assert not edges.knots.requires_grad
    assert not robust_scale(scores, mask, "band", edges=edges).requires_grad
    assert not robust_scale(scores, mask, "iqr").requires_grad


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
def test_spread_within_rounding_is_zero(offset):
    scores = torch.full((100,), offset + 1.0)
    scores[::2] = torch.nextafter(scores[::2], torch.tensor(math.inf))
    mask = torch.ones(100, dtype=torch.bool)
    assert robust_scale(scores, mask, "iqr").item() == 0.0


def test_scale_of_tiny_logits_is_kept():
    scores = torch.linspace(0, 1e-20, 101)
    assert robust_scale(scores, torch.ones(101, dtype=torch.bool)).item() == pytest.approx(5e-21)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    scores = (torch.randn(500, generator=torch.Generator().manual_seed(0)) + 60).to(dtype)
    mask = torch.ones(500, dtype=torch.bool)
    for function in (robust_scale, lambda s, m: band_edges(s, m, 0.0, 0.3).t_beta):
        assert function(scores, mask).dtype == torch.float32
        assert torch.equal(function(scores, mask), function(scores.float(), mask))
    assert robust_scale(scores, mask) > 0.5


@pytest.mark.slow
def test_17_million_rows():
    # Beyond 2**24, where torch.quantile refuses and a float32 position is off.
    count = 17_000_001
    scores = torch.arange(count, dtype=torch.int32).float()
    mask = torch.ones(count, dtype=torch.bool)
    edges = band_edges(scores, mask, 0.0, 1e-6)
    assert edges.t_alpha.item() == float(count - 1)
    assert edges.t_beta.item() == torch.tensor(count - 1 - 17.0).item()
    assert robust_scale(scores, mask).item() == pytest.approx(8_500_000, abs=2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"alpha": -0.1}, ValueError, "alpha"),
        ({"beta": 1.5}, ValueError, "beta"),
        ({"alpha": 0.3, "beta": 0.3}, ValueError, "alpha < beta"),
        ({"alpha": "0"}, TypeError, "alpha"),
        ({"beta": math.nan}, ValueError, "beta"),
        ({"n_knots": 1}, ValueError, "n_knots"),
        ({"n_knots": 2.0}, TypeError, "n_knots"),
        ({"interpolation": "cubic"}, ValueError, "interpolation"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "mask"),
        ({"mask": torch.ones(4)}, ValueError, "mask"),
    ],
)
def test_band_edges_rejects(change, error, message):
    arguments = {"alpha": 0.0, "beta": 0.5, "mask": torch.ones(4, dtype=torch.bool), **change}
    with pytest.raises(error, match=message):
        band_edges(torch.randn(4), **arguments)


def test_robust_scale_rejects():
    scores, mask = torch.randn(4), torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="kind"):
        robust_scale(scores, mask, "mad")
    with pytest.raises(ValueError, match="edges"):
        robust_scale(scores, mask, "band")
    edges = BandEdges(torch.tensor(2.0), torch.tensor(0.5), torch.tensor([2.0, 0.5]))
    assert robust_scale(scores, mask, "band", edges=edges).item() == 1.5
    assert robust_scale(scores, mask, "unit").item() == 1.0
