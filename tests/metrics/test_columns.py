"""Several columns, however their labels are written: each is measured by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pauc.intervals import bootstrap_interval
from pauc.metrics import partial_auc, roc_curve_in_band, tpr_at_fpr
from tests.test_arrays import FUNCTIONS

# The curves of columns differ in length, and the bootstrap draws all columns of a row together.
STACKED = {
    name: function
    for name, function in FUNCTIONS.items()
    if name not in ("roc_curve_in_band", "bootstrap_interval")
}
every_function = pytest.mark.parametrize("function", STACKED.values(), ids=STACKED.keys())

GENERATOR = torch.Generator().manual_seed(0)
INDEX = torch.randint(0, 3, (240,), generator=GENERATOR)
INDEX[::9] = -100
SCORES = torch.randn(240, 3, generator=GENERATOR) + F.one_hot(INDEX.clamp(min=0), 3)
WEIGHT = torch.rand(240, generator=GENERATOR)
ONE_HOT = torch.where(INDEX[:, None] == -100, -100, F.one_hot(INDEX.clamp(min=0), 3))
MULTI = torch.randint(0, 2, (240, 3), generator=GENERATOR)
MULTI[torch.rand(240, 3, generator=GENERATOR) < 0.2] = -100


def fields(answer: Any) -> list[Tensor]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    return [torch.as_tensor(part, dtype=torch.float64) for part in parts]


def by_hand(function: Callable[..., Any], targets: Tensor, **options: Any) -> list[Tensor]:
    """Each field, stacked over binary problems that are made without the library."""
    answers = []
    for c in range(3):
        kept = targets[:, c] != -100
        own = {name: value[kept] for name, value in options.items()}
        answers.append(fields(function(SCORES[kept, c], targets[kept, c], **own)))
    return [torch.stack(parts) for parts in zip(*answers, strict=True)]


@every_function
@pytest.mark.parametrize("targets", [ONE_HOT, MULTI], ids=["one-hot", "multi-label"])
@pytest.mark.parametrize("options", [{}, {"sample_weight": WEIGHT}], ids=["plain", "weighted"])
def test_each_column_is_a_binary_problem_of_its_own(
    function: Any, targets: Tensor, options: dict[str, Any]
) -> None:
    found = fields(function(SCORES, targets, **options))
    for own, expected in zip(found, by_hand(function, targets, **options), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=0, equal_nan=True)


@every_function
def test_class_indices_are_one_against_the_rest(function: Any) -> None:
    expected = fields(function(SCORES, ONE_HOT))
    for index in (INDEX, INDEX[:, None], INDEX.double(), INDEX.numpy(), INDEX.tolist()):
        for own, other in zip(fields(function(SCORES, index)), expected, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=0, equal_nan=True)
    arrays = function(SCORES.numpy(), INDEX.numpy())
    for own, other in zip(fields(arrays), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0, equal_nan=True)


@every_function
def test_an_undefined_column_is_nan_with_a_warning(function: Any) -> None:
    targets = MULTI.clone()
    targets[:, 1] = torch.where(targets[:, 1] == 0, 1, targets[:, 1])  # no negatives
    with pytest.warns(
        UserWarning, match=r"nan, in 1 of 3 columns\. column 1: targets must"
    ) as seen:
        found = fields(function(SCORES, targets))
    assert seen[0].filename.endswith(("test_columns.py", "test_arrays.py"))
    for own, other in zip(found, fields(function(SCORES, MULTI)), strict=True):
        assert own[1].isnan().all()
        torch.testing.assert_close(own[::2], other[::2], rtol=0, atol=0, equal_nan=True)
    with pytest.raises(ValueError, match=r"targets must hold"):
        function(SCORES[:, 1], targets[:, 1])


@every_function
def test_a_bad_column_is_named(function: Any) -> None:
    scores = SCORES.clone()
    scores[(MULTI[:, 2] != -100).nonzero()[0, 0], 2] = torch.nan
    with pytest.raises(ValueError, match=r"in column 2: scores must not be nan, got 1 nan"):
        function(scores, MULTI)
    with pytest.raises(ValueError, match=r"targets must be a class index in 0\.\.2 or ignore"):
        function(SCORES, INDEX + 1)
    with pytest.raises(ValueError, match=r"targets must be 0, 1 or ignore_index, got \[2\]"):
        function(SCORES, torch.where(torch.arange(720).view(240, 3) == 7, 2, MULTI))


def test_a_nan_score_of_an_ignored_entry_is_harmless() -> None:
    scores = torch.where(MULTI == -100, torch.nan, SCORES)
    assert partial_auc(scores, MULTI).tolist() == partial_auc(SCORES, MULTI).tolist()


def test_curves_of_columns_are_a_list() -> None:
    curves = roc_curve_in_band(SCORES, MULTI, 0.1, 0.4)
    for c, curve in enumerate(curves):
        alone = roc_curve_in_band(SCORES[:, c], MULTI[:, c], 0.1, 0.4)
        for own, other in zip(curve, alone, strict=True):
            assert own.tolist() == other.tolist()
    with pytest.warns(UserWarning, match=r"column 0: targets must hold both"):
        first = roc_curve_in_band(SCORES, MULTI.clamp(max=0), 0.1, 0.4)[0]
    assert first.fpr.tolist() == [0.1, 0.4]
    assert first.tpr.isnan().tolist() == [True, True]


# --- the bootstrap of all columns together


def test_rows_with_several_labels_are_drawn_whole() -> None:
    seen = []

    def metric(scores: Tensor, targets: Tensor) -> Tensor:
        seen.append((scores, targets))
        return partial_auc(scores, targets)

    found = bootstrap_interval(metric, SCORES, MULTI, n_resamples=60)
    rows = {(*s.tolist(), *t.tolist()) for s, t in zip(SCORES, MULTI, strict=True)}
    for scores, targets in seen:
        assert {(*s.tolist(), *t.tolist()) for s, t in zip(scores, targets, strict=True)} <= rows
    assert found.estimate.tolist() == partial_auc(SCORES, MULTI).tolist()
    assert (found.low < found.estimate).all()
    assert (found.estimate < found.high).all()


def test_class_indices_are_drawn_class_by_class() -> None:
    counts = set()

    def metric(scores: Tensor, targets: Tensor) -> Tensor:
        counts.add(tuple(torch.bincount(targets, minlength=3).tolist()))
        return tpr_at_fpr(scores, targets, 0.1)

    bootstrap_interval(metric, SCORES, INDEX, n_resamples=60)
    assert counts == {tuple(torch.bincount(INDEX[INDEX >= 0]).tolist())}


def test_a_resample_without_a_class_is_left_out_in_silence() -> None:
    targets = torch.zeros(30, 2, dtype=torch.long)
    targets[:1, 0], targets[:15, 1] = 1, 1  # about a third of the resamples lack the one positive
    scores = torch.randn(30, 2, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_interval(partial_auc, scores, targets, n_resamples=200)
        assert not any(part.isnan().any() for part in found)
        alone = bootstrap_interval(
            lambda s, t: partial_auc(s[:, 0], t[:, 0]), scores, targets, n_resamples=200
        )
    assert [part.item() for part in alone] == [part[0].item() for part in found]
    with pytest.warns(UserWarning, match="column 0"):
        found = bootstrap_interval(partial_auc, scores, targets * torch.tensor([0, 1]))
    assert found.low.isnan().tolist() == [True, False]
