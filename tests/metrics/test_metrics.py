"""`pauc.metrics` against scikit-learn, rational arithmetic in plain Python, and its own laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from pauc.metrics import (
    coverage_at_budget,
    fpr_at_tpr,
    partial_auc,
    roc_curve_in_band,
    tpr_at_fpr,
)

# A third of the profile's examples: there are many laws here, and each finds a fault early.
examples = settings(max_examples=settings().max_examples // 3)

EPS = torch.finfo(torch.float64).eps
NORMALIZE = ("none", "width", "mcclish")
Rows = tuple[list[float], list[int]]
Metric = Callable[..., Any]

# Every public entry, so that shared validation is tested through each door.
ENTRIES: dict[str, Metric] = {
    "roc_curve_in_band": roc_curve_in_band,
    "partial_auc": partial_auc,
    "tpr_at_fpr": partial(tpr_at_fpr, fpr=0.5),
    "fpr_at_tpr": partial(fpr_at_tpr, tpr=0.5),
    "coverage_at_budget": partial(coverage_at_budget, budget=0.5),
}
RATES: dict[str, Metric] = {"fpr": tpr_at_fpr, "budget": coverage_at_budget}
every_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
every_rate = pytest.mark.parametrize(("name", "metric"), RATES.items(), ids=RATES.keys())


# --- the slow reference: loops over thresholds, rational numbers, no sort and no cumulative sum


def slow_vertices(scores: list[float], targets: list[int]) -> list[tuple[float, int, int]]:
    """(threshold, false positives, true positives) of every threshold, the strictest first."""
    vertices = [(math.inf, 0, 0)]
    for threshold in sorted(set(scores), reverse=True):
        flagged = [t for score, t in zip(scores, targets, strict=True) if score >= threshold]
        vertices.append((threshold, flagged.count(0), flagged.count(1)))
    return vertices


def slow_segments(scores: list[float], targets: list[int]) -> list[tuple[Fraction, ...]]:
    """(FPR, TPR, FPR, TPR) of the start and the end of every segment of the curve."""
    points = [
        (Fraction(fp, targets.count(0)), Fraction(tp, targets.count(1)))
        for _, fp, tp in slow_vertices(scores, targets)
    ]
    return [(*start, *end) for start, end in pairwise(points)]


def slow_area(scores: list[float], targets: list[int], alpha: float, beta: float) -> Fraction:
    """Integrate the curve segment by segment, without any rounding."""
    area = Fraction(0)
    for x0, y0, x1, y1 in slow_segments(scores, targets):
        low, high = max(x0, Fraction(alpha)), min(x1, Fraction(beta))
        if low < high:
            middle = (low + high) / 2
            area += (high - low) * (y0 + (y1 - y0) * (middle - x0) / (x1 - x0))
    return area


def slow_normalized(area: Fraction, alpha: float, beta: float, normalize: str) -> float:
    low, high = (Fraction(beta) ** 2 - Fraction(alpha) ** 2) / 2, Fraction(beta) - Fraction(alpha)
    if normalize == "mcclish":
        return float((1 + (area - low) / (high - low)) / 2)
    return float(area / high if normalize == "width" else area)


def slow_best_tpr(rows: Rows, allowed: int, *, count_positives: bool) -> float:
    best = max(
        tp for _, fp, tp in slow_vertices(*rows) if fp + (tp if count_positives else 0) <= allowed
    )
    return best / rows[1].count(1)


def tolerance(vertices: int, alpha: float, beta: float, normalize: str) -> float:
    """FPR and TPR are each rounded by half an eps a vertex; normalising magnifies their sum."""
    high, low = beta - alpha, (beta**2 - alpha**2) / 2
    divisor = {"none": 1.0, "width": high, "mcclish": high - low}[normalize]
    return 4 * (vertices + 2) * EPS / divisor


# --- strategies

few_values = st.sampled_from([-math.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, math.inf])
any_values = st.floats(allow_nan=False, width=16)  # exact in float16, float32 and float64
finite_values = st.floats(allow_nan=False, allow_infinity=False, width=16)


def rows_from(values: st.SearchStrategy[float]) -> st.SearchStrategy[Rows]:
    """Rows of both classes, in any order, scores from ``values``."""
    some = st.lists(st.tuples(values, st.integers(0, 1)), max_size=30)
    both = st.tuples(values, values).map(lambda pair: [(pair[0], 0), (pair[1], 1)])
    rows = st.builds(lambda a, b, c: a + b + c, some, both, some)
    return rows.map(lambda rows: tuple(list(column) for column in zip(*rows, strict=True)))


any_rows = rows_from(few_values) | rows_from(any_values)
finite_rows = rows_from(st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])) | rows_from(finite_values)


def edges(count: int = 2) -> st.SearchStrategy[list[float]]:
    """Ascending FPRs at least 1e-3 apart, often exactly at 0, at 1 or at a vertex of a curve."""
    vertex = st.builds(lambda k, n: min(k, n) / n, st.integers(0, 12), st.integers(1, 12))
    edge = vertex | st.floats(0, 1) | st.sampled_from([0.0, 1.0])
    ascending = st.lists(edge, min_size=count, max_size=count, unique=True).map(sorted)
    return ascending.filter(lambda levels: all(b - a >= 1e-3 for a, b in pairwise(levels)))


def tensors(rows: Rows, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows[0], dtype=dtype), torch.tensor(rows[1])


# --- roc_curve_in_band


@examples
@given(finite_rows)
def test_whole_curve_has_the_vertices_of_scikit_learn(rows: Rows) -> None:
    # Both divide the same integers, so not one bit may differ.
    expected = roc_curve(rows[1], rows[0], drop_intermediate=False)
    for column, other in zip(roc_curve_in_band(*tensors(rows)), expected, strict=True):
        assert column.dtype == torch.float64
        assert column.tolist() == other.tolist()


@examples
@given(any_rows, edges())
def test_band_keeps_every_vertex_inside_and_ends_at_its_edges(
    rows: Rows, band: list[float]
) -> None:
    alpha, beta = band
    negatives, positives = rows[1].count(0), rows[1].count(1)
    inside = [
        (fp / negatives, tp / positives, threshold)
        for threshold, fp, tp in slow_vertices(*rows)
        if alpha <= fp / negatives <= beta
    ]
    curve = roc_curve_in_band(*tensors(rows), alpha, beta)
    got = list(zip(*(column.tolist() for column in curve), strict=True))
    before = 0 if inside and inside[0][0] == alpha else 1
    after = 0 if inside and inside[-1][0] == beta else 1
    assert got[before : len(got) - after] == inside
    assert (got[0][0], got[-1][0]) == (alpha, beta)


@examples
@given(any_rows, edges())
def test_interpolated_ends_lie_on_the_curve_with_the_threshold_before(
    rows: Rows, band: list[float]
) -> None:
    vertices, negatives = slow_vertices(*rows), rows[1].count(0)
    curve = roc_curve_in_band(*tensors(rows), *band)
    for end, edge in zip((0, -1), band, strict=True):
        if any(fp / negatives == edge for _, fp, _ in vertices):
            continue
        x0, y0, x1, y1 = next(s for s in slow_segments(*rows) if s[0] < edge < s[2])
        expected = float(y0 + (y1 - y0) * (Fraction(edge) - x0) / (x1 - x0))
        # The share of the way along a segment loses what the FPRs lose, over the segment's width.
        assert curve.tpr[end].item() == pytest.approx(expected, abs=4 * EPS / float(x1 - x0))
        before = [threshold for threshold, fp, _ in vertices if fp / negatives < edge]
        assert curve.thresholds[end].item() == before[-1]


@examples
@given(any_rows, edges())
def test_columns_of_the_curve_run_in_order(rows: Rows, band: list[float]) -> None:
    for column, sign in zip(roc_curve_in_band(*tensors(rows), *band), (1, 1, -1), strict=True):
        assert (sign * column[1:] >= sign * column[:-1]).all()


def test_vertical_stretch_at_an_edge_is_kept_whole() -> None:
    scores, targets = torch.tensor([6.0, 5, 4, 3, 2, 1]), torch.tensor([0, 1, 1, 0, 1, 0])
    curve = roc_curve_in_band(scores, targets, 1 / 3, 2 / 3)
    assert curve.fpr.tolist() == [1 / 3] * 3 + [2 / 3] * 2
    assert curve.tpr.tolist() == [0, 1 / 3, 2 / 3, 2 / 3, 1]
    assert curve.thresholds.tolist() == [6, 5, 4, 3, 2]


def test_band_within_one_tie_has_two_interpolated_points() -> None:
    curve = roc_curve_in_band(torch.zeros(4), torch.tensor([0, 1, 0, 1]), 0.25, 0.75)
    assert [column.tolist() for column in curve] == [[0.25, 0.75], [0.25, 0.75], [math.inf] * 2]


def test_an_infinite_score_has_a_vertex_of_its_own() -> None:
    scores, targets = torch.tensor([math.inf, 0.0, -math.inf]), torch.tensor([1, 1, 0])
    curve = roc_curve_in_band(scores, targets)
    assert curve.thresholds.tolist() == [math.inf, math.inf, 0, -math.inf]
    assert curve.tpr.tolist() == [0, 0.5, 1, 1]


# --- partial_auc


def test_mcclish_is_a_number_in_the_narrowest_band_there_is() -> None:
    scores, targets = torch.arange(4.0), torch.tensor([0, 0, 1, 1])
    band = math.nextafter(1, 0), 1.0
    assert partial_auc(scores, targets, *band, normalize="mcclish") == 1
    assert partial_auc(scores, targets, 0.0, 5e-324, normalize="mcclish") == 1


@examples
@given(finite_rows, st.floats(1e-3, 1))
def test_mcclish_from_zero_equals_scikit_learn(rows: Rows, beta: float) -> None:
    got = partial_auc(*tensors(rows), 0.0, beta, normalize="mcclish")
    expected = roc_auc_score(rows[1], rows[0], max_fpr=beta)
    bound = 2 * tolerance(len(rows[0]), 0.0, beta, "mcclish")  # both sides round
    assert got.item() == pytest.approx(expected, abs=bound)


@examples
@given(finite_rows, st.sampled_from(NORMALIZE))
def test_whole_area_equals_scikit_learn_and_counts_pairs(rows: Rows, normalize: str) -> None:
    got = partial_auc(*tensors(rows), normalize=normalize).item()
    negatives, positives = (
        [score for score, target in zip(*rows, strict=True) if target == side] for side in (0, 1)
    )
    pairs = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    bound = 2 * tolerance(len(rows[0]), 0.0, 1.0, normalize)
    assert got == pytest.approx(roc_auc_score(rows[1], rows[0]), abs=bound)
    assert got == pytest.approx(pairs / len(positives) / len(negatives), abs=bound)


@examples
@given(any_rows, edges(), st.sampled_from(NORMALIZE))
def test_any_band_equals_the_rational_reference(
    rows: Rows, band: list[float], normalize: str
) -> None:
    got = partial_auc(*tensors(rows), *band, normalize=normalize)
    expected = slow_normalized(slow_area(*rows, *band), *band, normalize)
    assert got.dtype == torch.float64
    assert got.shape == ()
    assert got.item() == pytest.approx(expected, abs=tolerance(len(rows[0]), *band, normalize))


@examples
@given(any_rows, edges(3))
def test_neighbouring_bands_add_up(rows: Rows, levels: list[float]) -> None:
    low, middle, high = levels
    area = partial(partial_auc, *tensors(rows), normalize="none")
    total = area(low, middle) + area(middle, high)
    bound = 3 * tolerance(len(rows[0]), low, high, "none")  # three areas round
    assert total.item() == pytest.approx(area(low, high).item(), abs=bound)


@examples
@given(edges())
def test_perfect_chance_and_reversed_rankings_in_any_band(band: list[float]) -> None:
    scores, targets = torch.arange(9.0), torch.tensor([0] * 6 + [1] * 3)
    width, middle = band[1] - band[0], (band[0] + band[1]) / 2

    def check(ranking: Tensor, expected: list[float]) -> None:
        for normalize, value in zip(NORMALIZE, expected, strict=True):
            got = partial_auc(ranking, targets, *band, normalize=normalize).item()
            assert got == pytest.approx(value, abs=tolerance(9, *band, normalize))

    check(scores, [width, 1, 1])
    check(0 * scores, [width * middle, middle, 0.5])
    check(-scores, [0, 0, 0.5 - middle / (1 - middle) / 2])


def test_default_is_the_width_over_the_whole_curve() -> None:
    scores, targets = torch.tensor([4.0, 3, 2, 1]), torch.tensor([1, 0, 1, 0])
    assert partial_auc(scores, targets).item() == 0.75
    assert partial_auc(scores, targets, 0, 0.5).item() == 0.5
    assert partial_auc(scores, targets, beta=0.5, normalize="none").item() == 0.25


@pytest.mark.parametrize("decimals", [1, 7])
def test_large_sample_in_a_narrow_band_equals_scikit_learn(decimals: int) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(100_000, generator=generator) < 0.01).long()
    scores = (torch.randn(100_000, generator=generator) + targets).round(decimals=decimals)
    raw = {}
    for beta in (0.001, 0.005):
        got = partial_auc(scores, targets, beta=beta, normalize="mcclish").item()
        expected = roc_auc_score(targets.numpy(), scores.numpy(), max_fpr=beta)
        # At most 1,500 vertices in the band, whose FPRs are rounded by less than 1e-18.
        assert got == pytest.approx(expected, abs=1e-12)
        raw[beta] = (2 * expected - 1) * (beta - beta**2 / 2) + beta**2 / 2
    between = partial_auc(scores, targets, 0.001, 0.005, normalize="none").item()
    assert between == pytest.approx(raw[0.005] - raw[0.001], abs=1e-14)


# --- tpr_at_fpr and coverage_at_budget


@every_rate
@examples
@given(any_rows, st.integers(0, 62), st.sampled_from([0.0, 1e-9, 0.5, 1 - 1e-9]))
def test_best_tpr_equals_brute_force_over_thresholds(
    name: str, metric: Metric, rows: Rows, allowed: int, share: float
) -> None:
    total = rows[1].count(0) if name == "fpr" else len(rows[1])
    allowed %= total + 1
    # Exactly at a whole number of rows, where rounding could lose one, and on to the next.
    budget = min((allowed + share) / total, 1.0)
    expected = slow_best_tpr(rows, allowed, count_positives=name == "budget")
    assert metric(*tensors(rows), budget).item() == expected


# 100 negatives that alternate with 100 positives; 200 rows with the positives on top.
RANKINGS = {"fpr": torch.arange(200) % 2, "budget": (torch.arange(200) >= 100).long()}


@every_rate
@pytest.mark.parametrize("step", [1, 7, 29, 57])
def test_a_whole_product_does_not_lose_a_row_to_rounding(
    name: str, metric: Metric, step: int
) -> None:
    scores, targets = torch.arange(200.0), RANKINGS[name]
    shares = [k / 100 for k in range(step, 50, step)]
    complements = [1 - (1 - share) for share in shares]  # some are an ulp or two lower
    expected = [(k + 1 if name == "fpr" else 2 * k) / 100 for k in range(step, 50, step)]
    for dtype in (torch.float64, torch.float32):
        assert metric(scores, targets, torch.tensor(shares, dtype=dtype)).tolist() == expected
    assert metric(scores, targets, shares).tolist() == expected
    assert metric(scores, targets, complements).tolist() == expected
    assert all(
        metric(scores, targets, share * (1 - 1e-12)).item() < full
        for share, full in zip(shares, expected, strict=True)
    )


def test_budgets_whose_counts_are_known() -> None:
    scores = torch.arange(2000.0)
    assert coverage_at_budget(scores, (scores >= 1980).long(), 0.005).item() == 10 / 20
    assert tpr_at_fpr(scores[:200], RANKINGS["fpr"], 0.29).item() == 30 / 100


def test_a_tie_over_the_budget_is_left_out_whole() -> None:
    scores, targets = torch.tensor([3.0, 2, 2, 2, 1]), torch.tensor([1, 1, 1, 0, 0])
    assert tpr_at_fpr(scores, targets, [0.0, 0.49, 0.5, 1.0]).tolist() == [1 / 3, 1 / 3, 1, 1]
    budget = [0.0, 0.19, 0.2, 0.79, 0.8, 1.0]
    expected = [0, 0, 1 / 3, 1 / 3, 1, 1]
    assert coverage_at_budget(scores, targets, budget).tolist() == expected


@every_rate
def test_rates_keep_their_shape(name: str, metric: Metric) -> None:
    rows = torch.tensor([3.0, 1, 2, 0]), torch.tensor([0, 1, 1, 0])
    grid = torch.tensor([[0.0, 0.5], [0.25, 1.0], [0.75, 0.125]])
    flat = [metric(*rows, **{name: rate}).item() for rate in grid.flatten().tolist()]
    assert len(set(flat)) > 1
    columns_first = grid.t().contiguous().t()
    for rates in (grid, grid.double(), grid.half(), columns_first, grid.tolist()):
        assert metric(*rows, rates).tolist() == [flat[:2], flat[2:4], flat[4:]]
    for scalar in (1, 1.0, torch.tensor(1), torch.tensor(1.0, requires_grad=True)):
        assert metric(*rows, scalar).shape == ()
        assert metric(*rows, scalar).item() == 1
    assert metric(*rows, []).shape == (0,)
    assert metric(*rows, (0.5,)).dtype == torch.float64


# --- laws that hold for every function


def everything(scores: Tensor, targets: Tensor, **options: int) -> list[Any]:
    """All results that depend on the order of the scores alone."""
    rates = [0.0, 0.1, 0.3, 0.5, 1.0]
    curve = roc_curve_in_band(scores, targets, 0.1, 0.7, **options)
    return [
        curve.fpr.tolist(),
        curve.tpr.tolist(),
        *(partial_auc(scores, targets, 0.1, 0.7, normalize=n, **options).item() for n in NORMALIZE),
        tpr_at_fpr(scores, targets, rates, **options).tolist(),
        fpr_at_tpr(scores, targets, rates, **options).tolist(),
        coverage_at_budget(scores, targets, rates, **options).tolist(),
    ]


def columns(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@examples
@given(any_rows, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(rows: Rows, random: Any) -> None:
    scores, targets = tensors(rows)
    order = torch.tensor(random.sample(range(len(targets)), len(targets)))
    assert everything(scores[order], targets[order]) == everything(scores, targets)


@examples
@given(any_rows, st.sampled_from([torch.int64, torch.int32, torch.int16, torch.uint8]))
def test_only_the_order_of_scores_matters(rows: Rows, dtype: torch.dtype) -> None:
    scores, targets = tensors(rows)
    ranks = {score: rank for rank, score in enumerate(sorted(set(rows[0])))}
    integers = torch.tensor([3 * ranks[score] for score in rows[0]], dtype=dtype)
    expected = everything(scores, targets)
    assert everything(integers, targets) == expected
    # exp is injective on integers up to 3 * 62, and gives scores beyond 1
    assert everything(integers.double().exp(), targets) == expected


@examples
@given(any_rows, st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_low_precision_is_exact_on_what_it_holds(rows: Rows, dtype: torch.dtype) -> None:
    scores, targets = tensors(rows, dtype)
    expected = everything(*tensors((scores.tolist(), rows[1])))
    assert everything(scores, targets) == expected
    assert everything(scores[:, None], targets[:, None]) == expected


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.uint8, torch.int64, torch.float16, torch.float64]
)
def test_targets_of_any_real_dtype(dtype: torch.dtype) -> None:
    scores, targets = torch.tensor([1.0, 5, 2, 2, 4, 3]), torch.tensor([0, 1, 1, 0, 0, 1])
    assert everything(scores, targets.to(dtype)) == everything(scores, targets)


@pytest.mark.parametrize("name", ["bool", "int8", "float8_e4m3fn"])
def test_scores_of_rarer_dtypes(name: str) -> None:
    scores, targets = torch.tensor([1.0, 0, 1, 1, 0, 0]), torch.tensor([0, 1, 1, 1, 0, 0])
    assert everything(scores.to(getattr(torch, name)), targets) == everything(scores, targets)


def test_large_integers_are_not_rounded_into_ties() -> None:
    scores, targets = torch.tensor([2**53, 2**53 + 1]), torch.tensor([0, 1])
    assert partial_auc(scores, targets).item() == 1


@examples
@given(any_rows, st.lists(st.integers(0, 40), max_size=5), st.sampled_from([-100, -1, 2, 255]))
def test_an_ignored_row_is_as_good_as_absent(
    rows: Rows, places: list[int], ignore_index: int
) -> None:
    scores, targets = list(rows[0]), list(rows[1])
    for place in places:
        scores.insert(place, math.nan)
        targets.insert(place, ignore_index)
    expected = everything(*tensors(rows))
    with_ignored = tensors((scores, targets))
    assert everything(*with_ignored, ignore_index=ignore_index) == expected
    as_floats = with_ignored[0], with_ignored[1].float()
    assert everything(*as_floats, ignore_index=ignore_index) == expected


@every_entry
def test_minus_100_is_ignored_by_default(entry: Metric) -> None:
    scores, targets = torch.tensor([math.nan, 2.0, 1.0, 3.0]), torch.tensor([-100, 1, 0, 0])
    got, expected = columns(entry(scores, targets)), columns(entry(scores[1:], targets[1:]))
    assert [column.tolist() for column in got] == [column.tolist() for column in expected]


@every_entry
def test_inputs_stay_as_they_are_and_results_carry_no_gradient(entry: Metric) -> None:
    scores, targets = torch.tensor([1.0, 3, 2], requires_grad=True), torch.tensor([0, 1, 0])
    assert not any(column.requires_grad for column in columns(entry(scores, targets)))
    assert scores.tolist() == [1, 3, 2]
    assert targets.tolist() == [0, 1, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    scores = torch.randn(5000, generator=torch.Generator().manual_seed(0)).half()
    targets = (torch.arange(5000) % 7 == 0).long()
    for got, expected in zip(
        everything(scores.cuda(), targets.cuda()), everything(scores, targets), strict=True
    ):
        # Sums of 2,000 trapezoids, which the device adds up in another order.
        assert got == pytest.approx(expected, abs=1e-12)


# --- errors

SCORES, TARGETS = torch.tensor([3.0, 2, 1]), torch.tensor([1, 0, 0])
WITH_NAN = torch.tensor([3.0, math.nan, 1])


@every_entry
@pytest.mark.parametrize(
    ("error", "message", "scores", "targets"),
    [
        (TypeError, r"scores must be a tensor, an array .* got list", ["a"], TARGETS),
        (TypeError, r"targets must be a tensor, an array .* got NoneType", SCORES, None),
        (TypeError, r"scores must have a real dtype, got torch\.complex64", SCORES + 0j, TARGETS),
        (TypeError, r"targets must have a real dtype, got torch\.complex64", SCORES, TARGETS + 0j),
        (ValueError, r"scores must be \[N\] .*shape \[3, 0\]", torch.ones(3, 0), TARGETS),
        (ValueError, r"number of rows, got 1 and 3", SCORES[None], TARGETS),
        (
            ValueError,
            r"targets must be a class index in 0\.\.2 .* \[3\]",
            SCORES.diag(),
            TARGETS * 3,
        ),
        (ValueError, r"targets must be \[N\], .* = \[N, 3\], got", SCORES.diag(), torch.ones(3, 2)),
        (ValueError, r"scores must be \[N\] .*shape \[3, 1, 1\]", SCORES.view(3, 1, 1), TARGETS),
        (ValueError, r"scores must be \[N\] .*shape \[\]", SCORES[0], TARGETS),
        (ValueError, r"targets must be \[N\] .*shape \[1, 3\]", SCORES, TARGETS[None]),
        (ValueError, r"scores and targets .* number of rows, got 2 and 3", SCORES[1:], TARGETS),
        (ValueError, r"scores and targets .* number of rows, got 1 and 3", SCORES[:1], TARGETS),
        (ValueError, r"targets .* device, cpu, got meta", SCORES, TARGETS.to("meta")),
        (ValueError, r"scores must not be nan, got 1 nan in 3 rows", WITH_NAN, TARGETS),
        (ValueError, r"scores must not be nan, got 1 nan", WITH_NAN.bfloat16(), TARGETS),
        (ValueError, r"targets must be 0, 1 or ignore_index, got \[2\]", SCORES, TARGETS * 2),
        (ValueError, r"targets must be 0, 1 .* got \[-1, -1\]", SCORES, TARGETS - 1),
        (ValueError, r"targets must be 0, 1 .* got \[0\.5\]", SCORES, TARGETS / 2),
        (ValueError, r"targets must be 0, 1 .* got \[nan, nan, nan\]", SCORES, TARGETS * math.nan),
        # 156 is -100 modulo 256
        (ValueError, r"targets must be 0, 1 .* got \[156\]", SCORES, TARGETS.byte() * 156),
        (ValueError, r"targets .* both classes .* got 0 pos.* 3 neg", SCORES, TARGETS * 0),
        (ValueError, r"targets .* both classes .* got 3 pos.* 0 neg", SCORES, TARGETS * 0 + 1),
        (ValueError, r"targets .* both classes .* got 0 pos.* 2 neg", SCORES, TARGETS * -100),
        (ValueError, r"targets .* both classes .* got 0 pos.* 0 neg", SCORES[:0], TARGETS[:0]),
    ],
)
def test_bad_rows(
    entry: Metric, error: type[Exception], message: str, scores: Any, targets: Any
) -> None:
    with pytest.raises(error, match=message):
        entry(scores, targets)


@every_entry
@pytest.mark.parametrize("value", [None, True, -100.0, "a"])
def test_bad_ignore_index(entry: Metric, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"ignore_index must be an integer, got {value!r}"):
        entry(SCORES, TARGETS, ignore_index=value)


@pytest.mark.parametrize("entry", [roc_curve_in_band, partial_auc])
@pytest.mark.parametrize(
    ("alpha", "beta"),
    [
        (-0.1, 0.5),
        (0.0, 1.1),
        (0.5, 0.5),
        (0.6, 0.5),
        (0.0, 0.0),
        (1.0, 1.0),
        (math.nan, 0.5),
        (0.0, math.nan),
        (-math.inf, 1.0),
        (0.0, math.inf),
    ],
)
def test_bad_band(entry: Metric, alpha: float, beta: float) -> None:
    message = rf"alpha and beta .* 0 <= alpha < beta <= 1, got alpha={alpha}, beta={beta}"
    with pytest.raises(ValueError, match=message):
        entry(SCORES, TARGETS, alpha, beta)


@pytest.mark.parametrize("entry", [roc_curve_in_band, partial_auc])
@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [None, "0.1", True, torch.tensor(0.5), 0.5j])
def test_band_of_the_wrong_type(entry: Metric, name: str, value: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"{name} must be a real number, got {type(value).__name__}"
    ):
        entry(SCORES, TARGETS, **{name: value})


@pytest.mark.parametrize("value", ["Width", "", None, 1])
def test_bad_normalize(value: Any) -> None:
    message = rf"normalize must be 'none', 'width' or 'mcclish', got {value!r}"
    with pytest.raises(ValueError, match=message):
        partial_auc(SCORES, TARGETS, normalize=value)


@every_rate
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-0.1, r"\[?-0\.1"),
        (1.1, r"\[?1\.1"),
        (2, r"\[?2\.0"),
        (math.nan, r"\[?nan"),
        (math.inf, r"\[?inf"),
        ([0.5, 1.5], r"\[1\.5\]"),
        (torch.tensor([[0, -1]]), r"\[-1\.0\]"),
    ],
)
def test_rate_out_of_range(name: str, metric: Metric, value: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got {shown}"):
        metric(SCORES, TARGETS, value)


@every_rate
@pytest.mark.parametrize(
    "value", [None, "0.1", True, 0.5j, [0.1, "b"], [[0.1], [0.2, 0.3]], TARGETS > 0, SCORES + 0j]
)
def test_rate_of_the_wrong_type(name: str, metric: Metric, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name} must .* got "):
        metric(SCORES, TARGETS, value)
