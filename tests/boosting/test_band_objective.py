"""Gradient and Hessian of the objective against loops over pairs, and against differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks._allocated import allocated_peak
from pauc import band_edges
from pauc.boosting import band, band_objective, derivatives, log_odds
from pauc.boosting.workers import Alone
from pauc.native import extension
from pauc.native.boosting import band_round_
from pauc.pairs import blocks
from tests.oracles import reference_boosting as reference

LINKS = ["logistic", "sigmoid"]
INTERPOLATIONS = ["higher", "lower", "linear", "nearest", "midpoint"]


@st.composite
def problems(draw: st.DrawFn, outliers: tuple[float, ...] = (30.0, -200.0)) -> dict[str, Any]:
    """Rows with ties, weights of 0 among them, and options; the first two rows count."""
    count = draw(st.integers(2, 40))
    scores = draw(
        st.lists(
            st.one_of(st.floats(-8, 8), st.sampled_from([-1.0, 0.0, 0.5, *outliers])),
            min_size=count,
            max_size=count,
        )
    )
    rest = st.lists(st.integers(0, 1), min_size=count - 2, max_size=count - 2)
    targets = [0, 1, *draw(rest)]
    weighted = draw(st.booleans())
    weights = [1.0] * count
    if weighted:
        some = st.sampled_from([0.0, 0.25, 1.0, 2.0, 7.5])
        weights = [1.0, 2.0, *draw(st.lists(some, min_size=count - 2, max_size=count - 2))]
    alpha = draw(st.one_of(st.just(0.0), st.floats(0, 0.5)))
    options = {
        "alpha": alpha,
        "beta": draw(st.floats(alpha + 0.01, 1)),
        "bce_weight": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "pauc_weight": draw(st.sampled_from([0.5, 1.0, 5.0])),
        "link": draw(st.sampled_from(LINKS)),
        "interpolation": draw(st.sampled_from(INTERPOLATIONS)),
    }
    return {
        "rows": (scores, targets, weights),
        "sample_weight": np.array(weights) if weighted else None,
        "options": options,
    }


def inside(problem: dict[str, Any]) -> list[int]:
    """The band's rows, by loops; a band without rows is another test's."""
    rows = reference.band(*problem["rows"], problem["options"])
    assume(rows)
    # An interpolated edge may fall on a row but for rounding: both verdicts are right.
    scores, targets, weights = problem["rows"]
    if problem["options"]["interpolation"] in ("linear", "midpoint"):
        shifted = [s * (1 + 1e-12) + 1e-12 for s in scores]
        assume(rows == reference.band(shifted, targets, weights, problem["options"]))
        negatives = [s for s, t in zip(scores, targets, strict=True) if t == 0]
        edges = [
            reference.quantile(negatives, [1.0] * len(negatives), level, "linear")
            for level in (problem["options"]["alpha"], problem["options"]["beta"])
        ]
        assume(all(abs(s - e) > 1e-9 or s in edges for s in negatives for e in edges))
    return rows


def found(problem: dict[str, Any], **more: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, targets, _ = problem["rows"]
    gradient, hessian = band_objective(
        np.array(scores),
        np.array(targets),
        sample_weight=problem["sample_weight"],
        **problem["options"],
        **more,
    )
    assert gradient.dtype == hessian.dtype == np.float64
    return gradient, hessian


@pytest.mark.parametrize("way", ["native round", "native sweep", "matrix", "blocks"])
@given(problem=problems())
def test_equals_the_loops(problem: dict[str, Any], way: str) -> None:
    expected = reference.derivatives(*problem["rows"], inside(problem), problem["options"])
    if way.startswith("native") and extension.ext is None:
        pytest.skip("installed without a compiler")
    with pytest.MonkeyPatch.context() as patch:
        if way == "native sweep":
            patch.setattr(derivatives, "band_round_", lambda *_, **__: False)
        elif way != "native round":
            patch.setattr(extension, "ext", None)
        if way == "blocks":
            patch.setattr(blocks, "few_pairs", lambda *_: False)
            patch.setattr(blocks, "_BLOCK", 4)
        gradient, hessian = found(problem)
    weights = problem["rows"][2]
    # The series of the sigmoid's curvature is 6e-8 off in a pair.
    tolerance = 1e-7 * problem["options"]["pauc_weight"] * sum(weights)
    assert gradient == pytest.approx(expected[0], abs=tolerance)
    assert hessian == pytest.approx(
        reference.bounded(*expected, weights, max_step=10.0), abs=tolerance
    )


@given(problem=problems(outliers=()))
def test_loops_equal_differences(problem: dict[str, Any]) -> None:
    """The oracle's derivatives are those of its loss: central differences at a few rows."""
    scores, targets, weights = problem["rows"]
    rows, options = inside(problem), problem["options"]
    gradient, hessian = reference.derivatives(scores, targets, weights, rows, options)
    h = 1e-3
    for r in range(0, len(scores), 7):
        values = []
        for step in (-h, 0, h):
            moved = [*scores[:r], scores[r] + step, *scores[r + 1 :]]
            values.append(reference.loss(moved, targets, weights, rows, options))
        low, middle, high = values
        scale = 1 + sum(weights) * (options["bce_weight"] + options["pauc_weight"])
        assert (high - low) / (2 * h) == pytest.approx(gradient[r], abs=1e-5 * scale)
        assert (high - 2 * middle + low) / h**2 == pytest.approx(hessian[r], abs=1e-5 * scale)


@given(problem=problems(), factor=st.sampled_from([0.01, 3.0, 1000.0]))
def test_weights_have_any_scale(problem: dict[str, Any], factor: float) -> None:
    inside(problem)
    problem["sample_weight"] = np.array(problem["rows"][2])
    gradient, hessian = found(problem)
    problem["sample_weight"] = problem["sample_weight"] * factor
    for one, other in zip(found(problem), (gradient, hessian), strict=True):
        assert one == pytest.approx(factor * other, rel=1e-9, abs=1e-12)


@given(
    scores=st.lists(st.floats(-5, 5), min_size=2, max_size=60),
    alpha=st.floats(0, 0.9),
    width=st.floats(0.01, 1),
    interpolation=st.sampled_from(INTERPOLATIONS),
    weighted=st.booleans(),
)
def test_the_band_is_the_cores(
    scores: list[float], alpha: float, width: float, interpolation: Any, weighted: bool
) -> None:
    own, beta = torch.tensor(scores, dtype=torch.float64), min(1.0, alpha + width)
    edges = band_edges(
        own, torch.ones_like(own, dtype=torch.bool), alpha, beta, interpolation=interpolation
    )
    expected = ((own >= edges.t_beta) & (own <= edges.t_alpha)).nonzero().squeeze(1)
    weight = torch.full_like(own, 0.7) if weighted else None
    negative = torch.ones_like(own, dtype=torch.bool)
    rows, order = band.band_of(own, negative, weight, alpha, beta, interpolation, Alone())
    assert rows.tolist() == expected.tolist()
    assert own[rows][order].tolist() == sorted(own[rows].tolist())


SHAPES = ["normal", "one score", "few scores", "ascending", "lumps"]


def misleading(shape: str, rows: int, stride: int, g: torch.Generator) -> torch.Tensor:
    """Scores by whose order a sample of every so many rows may be mistaken."""
    scores = torch.randn(rows, generator=g, dtype=torch.float64)
    if shape == "one score":
        scores = torch.zeros_like(scores)
    elif shape == "few scores":
        scores = scores.round()
    elif shape == "ascending":
        scores = scores.sort().values
    elif shape == "lumps":
        scores[::stride] = 50.0  # the sample sees the lump alone
    return scores


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [1e-5, 0.003, 0.2, 1.0])
def test_the_sample_changes_nothing(
    shape: str, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of 50 rows that is often mistaken, rows that stand in an order that misleads it."""
    monkeypatch.setattr(band, "_SAMPLE", 50)
    scores = misleading(shape, 20_000, 400, torch.Generator().manual_seed(0))
    places = torch.arange(20_000)
    real = (places % 7 > 0) | (places % 400 == 0)
    scores[~real] = 100.0  # no negatives
    t_beta = band_edges(scores, real, 0.0, beta).t_beta
    for weight in (None, torch.ones_like(scores)):
        rows = band.band_of(scores, real, weight, 0.0, beta, "higher", Alone()).at
        assert torch.equal(rows, ((scores >= t_beta) & real).nonzero().squeeze(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta", [1e-5, 0.003, 0.5, 1.0])
def test_a_native_round_is_that_of_the_operators(
    shape: str, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of so many rows native code takes a sample of every third, which may be mistaken."""
    g = torch.Generator().manual_seed(0)
    scores = misleading(shape, 50_000, 3, g)
    targets = (torch.rand(50_000, generator=g) < 0.02).double()
    # The top weighs little, so that more rows than of an even weight reach down to the band's end.
    uneven = torch.where(scores > 1, 0.01, 1.0).double()
    uneven[::5] = 0.0
    options: dict[str, Any] = {"beta": beta}
    if shape == "normal" and beta > 1e-4:  # its edges lie between scores
        options |= {"alpha": beta / 3, "interpolation": "midpoint", "bce_weight": 2.5}
    for weight in (None, torch.ones_like(scores), uneven):
        options["sample_weight"] = weight
        with monkeypatch.context() as patch:
            rounds = Recorded(patch)
            one = band_objective(scores, targets, **options)
            assert rounds.done == [extension.ext is not None]
        with monkeypatch.context() as patch:
            patch.setattr(derivatives, "band_round_", lambda *_, **__: False)
            other = band_objective(scores, targets, **options)
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


class Recorded:
    """Which native rounds were done."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.done: list[bool] = []
        patch.setattr(derivatives, "band_round_", self)

    def __call__(self, *arguments: Any, **options: Any) -> bool:
        self.done.append(band_round_(*arguments, **options))
        return self.done[-1]


def test_the_middle_of_a_part_between_two_rows_belongs_to_the_lower() -> None:
    """Weights 2, 1, 1 of three rows: the middle of the second part, 4/3 each, is at 2."""
    scores, weight = torch.tensor([3.0, 2.0, 1.0]).double(), torch.tensor([2.0, 1.0, 1.0]).double()
    rows = band.band_of(scores, scores > 0, weight, 0.0, 0.5, "higher", Alone()).at
    assert rows.tolist() == [0, 1]


def test_heavy_and_light_negatives_of_the_top() -> None:
    """The band holds a share of the weight: here the top tenth of the rows, and a thousandth."""
    scores = torch.arange(1000.0, 0, -1, dtype=torch.float64)
    light = torch.where(scores > 900, 0.01, 1.0).double()
    heavy = torch.where(scores > 900, 100.0, 1.0).double()
    for weight in (light, heavy):
        rows = band.band_of(scores, scores > 0, weight, 0.0, 0.1, "higher", Alone()).at
        assert abs(float(weight[rows].sum() / weight.sum()) - 0.1) <= 1.5 / 1000 * 10


def test_weights_that_do_not_lie_side_by_side() -> None:
    """A column of a table, one weight for all rows, and a view that torch negates on reading."""
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=60), (np.arange(60) % 4 == 0).astype(float)
    table = rng.random((60, 2))
    one = torch.full((), 0.7, dtype=torch.float64).expand(60)
    negated = torch._neg_view(torch.from_numpy(-table[:, 1].copy()))
    for weight in (torch.from_numpy(table)[:, 0], one, negated):
        given, copied = (
            band_objective(scores, targets, beta=0.3, sample_weight=w)
            for w in (weight, weight.tolist())
        )
        assert np.array_equal(given, copied)


def test_no_leaf_moves_further_than_the_largest_step() -> None:
    """Any set of rows is a leaf: its step is the sum of gradients over that of Hessians."""
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=500) * 12, (rng.random(500) < 0.05).astype(int)
    for max_step in (0.5, 4.0):
        gradient, hessian = band_objective(scores, targets, beta=0.05, max_step=max_step)
        for _ in range(300):
            leaf = rng.random(500) < rng.random()
            assert abs(gradient[leaf].sum()) <= max_step * hessian[leaf].sum() * (1 + 1e-12)
    gradient, hessian = band_objective(scores, targets, beta=0.05, max_step=1e9)
    assert np.max(np.abs(gradient) / hessian) > 100


def test_without_pairs_it_is_the_log_loss() -> None:
    rng = np.random.default_rng(0)
    scores, targets, weight = rng.normal(size=90), rng.integers(0, 2, 90), rng.random(90)
    gradient, hessian = band_objective(
        scores, targets, beta=0.1, pauc_weight=0, sample_weight=weight, max_step=1e6
    )
    x = torch.tensor(scores, requires_grad=True)
    total = torch.nn.functional.binary_cross_entropy_with_logits(
        x, torch.tensor(targets).double(), weight=torch.tensor(weight), reduction="sum"
    )
    (expected,) = torch.autograd.grad(total, x)
    assert gradient == pytest.approx(expected.numpy())
    soft = 1 / (1 + np.exp(-scores))
    assert hessian == pytest.approx(weight * soft * (1 - soft))


def test_classes_are_each_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    scores, targets = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    weight = rng.random(200)
    gradient, hessian = band_objective(scores, targets, beta=0.1, sample_weight=weight)
    assert gradient.shape == hessian.shape == (200, 3)
    for c in range(3):
        alone = band_objective(scores[:, c], targets == c, beta=0.1, sample_weight=weight)
        assert np.array_equal(gradient[:, c], alone[0])
        assert np.array_equal(hessian[:, c], alone[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_dtypes_shapes_and_what_came_in_is_unchanged(dtype: type) -> None:
    scores = np.arange(40).astype(dtype)
    targets = (scores % 5 == 0).astype(np.float32)
    kept = scores.copy(), targets.copy()
    expected = band_objective(scores.astype(np.float64), targets, beta=0.3)
    scores.setflags(write=False)
    found = band_objective(scores, targets, beta=0.3)
    column = band_objective(scores[:, None], targets[:, None], beta=0.3)
    backwards = band_objective(scores[::-1], targets[::-1], beta=0.3)
    tensors = band_objective(torch.tensor(kept[0]), torch.tensor(targets), beta=0.3)
    for k in range(2):
        assert np.array_equal(found[k], expected[k])
        assert column[k].shape == (40, 1)
        assert np.array_equal(column[k][:, 0], expected[k])
        assert backwards[k][::-1] == pytest.approx(expected[k], rel=1e-12)
        assert isinstance(tensors[k], torch.Tensor)
        assert np.array_equal(tensors[k].numpy(), expected[k])
    assert np.array_equal(scores, kept[0])
    assert np.array_equal(targets, kept[1])


@pytest.mark.slow
def test_memory_is_a_few_arrays_of_the_rows() -> None:
    def arrays(count: int) -> float:
        rng = np.random.default_rng(0)
        targets = (rng.random(count) < 0.02).astype(np.float32)
        scores = rng.normal(size=count) + 2 * targets
        return allocated_peak(lambda: band_objective(scores, targets, beta=0.02)) / (8 * count)

    few, many = arrays(100_000), arrays(400_000)
    assert many < 12
    assert many < 1.1 * few


def test_log_odds() -> None:
    targets = np.array([0, 0, 0, 1])
    assert log_odds(targets) == pytest.approx(math.log(1 / 3))
    weight = np.array([1.0, 1.0, 0.0, 4.0])
    assert log_odds(targets, sample_weight=weight) == pytest.approx(math.log(2))
    of_classes = log_odds(np.array([0, 1, 1, 2]), num_class=3)
    assert of_classes == pytest.approx([math.log(1 / 3), 0, math.log(1 / 3)])
    gradient, _ = band_objective(np.full(4, log_odds(targets)), targets, beta=0.5, pauc_weight=0)
    assert gradient.sum() == pytest.approx(0)


GOOD = {"scores": np.arange(6.0), "targets": np.array([0, 1, 0, 1, 0, 0]), "beta": 0.5}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"targets": np.array([0, 1, 2, 1, 0, 0])}, ValueError, r"targets .* num_class.* got 2"),
        ({"targets": np.array([0, 1, 0.5, 1, 0, 0])}, ValueError, "targets .* got 0.5"),
        ({"targets": np.array([0, 1, -1, 1, 0, 0])}, ValueError, "targets .* got -1"),
        ({"targets": np.array([0, 1, np.nan, 1, 0, 0])}, ValueError, "targets .* got nan"),
        ({"targets": np.zeros(6)}, ValueError, "targets must hold positives"),
        ({"targets": np.ones(6)}, ValueError, "targets must hold negatives"),
        ({"targets": np.zeros(5)}, ValueError, r"targets must be \[N\] .* N=6 .* got \[5\]"),
        ({"targets": ["a"] * 6}, TypeError, "targets must be a tensor, an array or a seq"),
        ({"scores": np.full(6, np.nan)}, ValueError, "scores must be finite, got 6 of 6"),
        ({"scores": np.array([0, 1, np.inf, -np.inf, 1, 2])}, ValueError, "got 2 of 6"),
        ({"scores": np.zeros((2, 3, 1))}, ValueError, r"scores must be \[N\] or \[N, K\]"),
        ({"scores": np.zeros(0), "targets": np.zeros(0)}, ValueError, r"got \[0\]"),
        ({"scores": torch.zeros(6) * 1j}, TypeError, "scores must have a real dtype"),
        ({"sample_weight": np.ones(5)}, ValueError, r"sample_weight must be \[N\] with N=6"),
        ({"sample_weight": -np.ones(6)}, ValueError, "sample_weight must be finite and non-neg"),
        ({"sample_weight": np.array([1, 0, 1, 0, 1, 1])}, ValueError, "must hold positives"),
        ({"beta": 0.0}, ValueError, "0 <= alpha < beta <= 1"),
        ({"beta": 1.5}, ValueError, "0 <= alpha < beta <= 1"),
        ({"beta": "0.1"}, TypeError, "beta must be a real number"),
        ({"alpha": 0.6}, ValueError, "0 <= alpha < beta <= 1"),
        ({"bce_weight": -1}, ValueError, "bce_weight must not be negative"),
        ({"pauc_weight": math.nan}, ValueError, "pauc_weight must be finite"),
        ({"bce_weight": 0, "pauc_weight": 0}, ValueError, "0 for both"),
        ({"link": "probit"}, ValueError, "link must be one of"),
        ({"interpolation": "cubic"}, ValueError, "interpolation must be one of"),
        ({"max_step": 0}, ValueError, "max_step must be above 0"),
        (
            {"alpha": 0.4, "beta": 0.5, "interpolation": "linear"},
            ValueError,
            "no negative lies in the band",
        ),
    ],
)
def test_bad_input_is_named(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {**GOOD, **wrong}
    with pytest.raises(error, match=message):
        band_objective(arguments.pop("scores"), arguments.pop("targets"), **arguments)


def test_a_class_without_rows_is_named() -> None:
    with pytest.raises(ValueError, match="positives of class 1"):
        band_objective(np.zeros((3, 3)), np.array([0, 2, 2]), beta=0.5)
    with pytest.raises(ValueError, match="positives of class 1"):
        log_odds(np.array([0, 2, 2]), num_class=3)
