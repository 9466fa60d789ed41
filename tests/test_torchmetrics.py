"""The torchmetrics classes: the functions' values, however the rows come in."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pauc.metrics import coverage_at_budget, partial_auc, tpr_at_fpr
from tests.distributed.ranks import run_ranks

torchmetrics = pytest.importorskip("torchmetrics")

from pauc.torchmetrics import CoverageAtBudget, PartialAUC, TPRAtFPR  # noqa: E402


def metrics() -> dict[str, Any]:
    return {
        "tpr": TPRAtFPR([0.05, 0.2]),
        "coverage": CoverageAtBudget(0.1),
        "pauc": PartialAUC(0.0, 0.1, normalize="mcclish"),
        "whole": PartialAUC(),
    }


def expected(scores: Tensor, targets: Tensor, weight: Tensor | None = None) -> dict[str, Any]:
    of = {"sample_weight": weight}
    return {
        "tpr": tpr_at_fpr(scores, targets, [0.05, 0.2], **of).tolist(),
        "coverage": coverage_at_budget(scores, targets, 0.1, **of).item(),
        "pauc": partial_auc(scores, targets, 0.0, 0.1, normalize="mcclish", **of).item(),
        "whole": partial_auc(scores, targets, **of).item(),
    }


def batches(count: int = 4, rows: int = 50) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for _ in range(count):
        targets = torch.randint(0, 2, (rows,), generator=generator)
        scores = (4 * (torch.randn(rows, generator=generator) + targets)).round()
        targets[:5] = -100
        drawn.append((scores, targets))
    return drawn


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    scores, targets = zip(*parts, strict=True)
    return torch.cat(scores), torch.cat(targets)


def values(found: dict[str, Tensor]) -> dict[str, Any]:
    assert all(value.dtype == torch.float64 for value in found.values())
    return {name: value.tolist() for name, value in found.items()}


@pytest.mark.parametrize("name", metrics())
def test_the_value_is_that_of_the_function_on_all_rows(name: str) -> None:
    metric = metrics()[name]
    for scores, targets in batches():
        metric.update(scores[:, None], targets[:, None])
    assert metric.compute().tolist() == expected(*joined(batches()))[name]
    metric.reset()
    one_batch = batches()[0]
    assert metric(*one_batch).tolist() == expected(*one_batch)[name]
    for again in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
        assert again.compute().tolist() == metric.compute().tolist()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
@pytest.mark.parametrize("name", metrics())
def test_before_any_update_the_value_is_nan(name: str) -> None:
    metric = metrics()[name]
    for _ in range(2):
        value = metric.compute()
        assert value.dtype == torch.float64
        assert value.isnan().all()
        metric.update(*batches()[0])
        assert metric.compute().shape == value.shape
        assert not metric.compute().isnan().any()
        metric.reset()


@pytest.mark.parametrize("name", metrics())
def test_merged_states_are_as_one(name: str) -> None:
    first, second = metrics()[name], metrics()[name]
    parts = batches()
    for metric, own in ((first, parts[:1]), (second, parts[1:])):
        for rows in own:
            metric.update(*rows)
    first.merge_state(second)
    assert first.compute().tolist() == expected(*joined(parts))[name]


def test_a_collection_shares_the_rows() -> None:
    collection = torchmetrics.MetricCollection(metrics())
    for rows in batches():
        collection.update(*rows)
    assert len(collection.compute_groups) == 1
    assert values(collection.compute()) == expected(*joined(batches()))


def test_a_collection_may_mix_what_is_ignored() -> None:
    collection = torchmetrics.MetricCollection(
        {"all": PartialAUC(), "some": PartialAUC(ignore_index=1)}
    )
    scores, targets = torch.tensor([1.0, 2, 3, 4]), torch.tensor([0, 1, 0, 1])
    collection.update(scores, targets)
    collection.update(scores, targets)
    found = collection.compute()
    assert found["all"] == partial_auc(scores, targets)
    assert found["some"].isnan()


# --- weights


def weights_of(count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@pytest.mark.parametrize("name", metrics())
def test_weights_count_as_in_the_function(name: str) -> None:
    metric, (scores, targets) = metrics()[name], joined(batches())
    weight = weights_of(len(scores))
    for part in torch.arange(len(scores)).split(70):
        metric.update(scores[part], targets[part], weight[part].numpy())
    found = metric.compute().tolist()
    assert found == expected(scores, targets, weight)[name]
    assert found != expected(scores, targets)[name]
    assert pickle.loads(pickle.dumps(metric)).compute().tolist() == found
    metric.reset()
    one_batch = (scores[:70], targets[:70], weight[:70])
    assert metric(*one_batch).tolist() == expected(*one_batch)[name]
    metric.reset()
    assert metric(scores, targets).tolist() == expected(scores, targets)[name]


def test_a_collection_shares_the_weights_and_merges_them() -> None:
    scores, targets = joined(batches())
    weight = weights_of(len(scores))
    collection, other = (torchmetrics.MetricCollection(metrics()) for _ in range(2))
    collection.update(scores[:90], targets[:90], sample_weight=weight[:90])
    collection.update(scores[90:], targets[90:], sample_weight=weight[90:])
    assert values(collection.compute()) == expected(scores, targets, weight)
    other["tpr"].update(scores[:90], targets[:90], weight[:90])
    rest = TPRAtFPR([0.05, 0.2])
    rest.update(scores[90:], targets[90:], weight[90:])
    other["tpr"].merge_state(rest)
    found = other["tpr"].compute().tolist()  # of other sums of the same weights
    assert found == pytest.approx(expected(scores, targets, weight)["tpr"], rel=1e-12)


def test_weights_come_with_every_batch_or_with_none() -> None:
    scores, targets = batches()[0]
    for first, then, word in ((scores.abs(), None, "with"), (None, scores.abs(), "without")):
        metric = PartialAUC()
        metric.update(scores, targets, first)
        with pytest.raises(ValueError, match=f"or with none, got one {word} before"):
            metric.update(scores, targets, then)
        assert len(metric.scores) == 1
    with pytest.raises(ValueError, match=r"sample_weight must be None with bits=9: bins count"):
        PartialAUC(bits=9).update(scores, targets, scores.abs())
    with pytest.raises(ValueError, match=r"sample_weight must be \[N\]"):
        PartialAUC().update(scores, targets, scores[:3])


def of_weighted_rank(rank: int) -> dict[str, Any]:
    collection = torchmetrics.MetricCollection(metrics())
    for scores, targets in batches()[rank:][:: 3 - rank]:
        collection.update(scores, targets, sample_weight=scores.abs())
    return values(collection.compute())


@pytest.mark.slow
def test_two_ranks_gather_weights(tmp_path: Any) -> None:
    parts = batches()
    scores, targets = joined(parts[::3] + parts[1::2])
    for result in run_ranks(2, of_weighted_rank, tmp_path):
        for name, value in expected(scores, targets, scores.abs()).items():
            assert result[name] == pytest.approx(value, rel=1e-12), name


def of_rank(rank: int) -> dict[str, Any]:
    collection = torchmetrics.MetricCollection(metrics())
    for rows in batches()[rank:][:: 3 - rank]:  # ranks bring different numbers of batches
        collection.update(*rows)
    found = values(collection.compute())
    collection.reset()
    return {"found": found, "left": len(collection["tpr"].scores)}


@pytest.mark.slow
def test_two_ranks_compute_of_the_rows_of_both(tmp_path: Any) -> None:
    parts = batches()
    every = joined(parts[::3] + parts[1::2])
    for result in run_ranks(2, of_rank, tmp_path):
        assert result == {"found": expected(*every), "left": 0}


def test_one_class_alone_is_nan_until_the_other_comes() -> None:
    scores, targets = torch.arange(6.0), torch.tensor([0, 0, 0, 1, 1, 1])
    metric = TPRAtFPR([[0.1, 0.5]])
    assert metric(scores[:3], targets[:3]).isnan().tolist() == [[True, True]]
    assert metric.compute().isnan().all()
    assert metric(scores[3:], targets[3:]).isnan().all()
    assert metric.compute().tolist() == [[1, 1]]


def test_bad_rows_are_refused_before_they_enter() -> None:
    metric = PartialAUC()
    for scores, targets, message in (
        (torch.ones(2, 2, 2), torch.ones(2), r"scores must be \[N\] or \[N, C\]"),
        (torch.ones(2), torch.tensor([0, 2]), r"targets must be 0, 1 or ignore_index"),
        (torch.full((2,), math.nan), torch.ones(2), r"scores must not be nan"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(scores, targets)
    assert metric.scores == []


# --- several columns and other kinds


@pytest.mark.parametrize("name", metrics())
def test_columns_and_arrays(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(120, 3, generator=generator)
    index = torch.randint(0, 3, (120,), generator=generator)
    metric = metrics()[name]
    metric.update(scores[:50], index[:50])
    metric.update(scores[50:].numpy(), index[50:].tolist())
    one_by_one = [expected(scores[:, c], (index == c).long())[name] for c in range(3)]
    assert metric.compute().tolist() == one_by_one
    with pytest.raises(ValueError, match=r"scores must have 3 columns as before, got 1"):
        metric.update(scores[:, 0], (index == 0).long())
    metric.reset()
    metric.update(scores, index.clamp(max=1))
    with pytest.warns(UserWarning, match=r"column 2: targets must hold both classes"):
        assert metric.compute()[2].isnan().all()


# --- counts in bins


def binned(bits: int, **options: Any) -> dict[str, Any]:
    options["bits"] = bits
    return {
        "tpr": TPRAtFPR([0.05, 0.2], **options),
        "coverage": CoverageAtBudget(0.1, **options),
        "pauc": PartialAUC(0.0, 0.1, normalize="mcclish", **options),
        "whole": PartialAUC(**options),
    }


scores_of = st.floats(-4, 4, width=32) | st.floats(allow_nan=False, width=32)
rows_of = st.builds(
    lambda a, b, rest: [(a, 0), (b, 1), *rest],
    scores_of,
    scores_of,
    st.lists(st.tuples(scores_of, st.integers(0, 1)), max_size=40),
)


@given(rows_of, st.sampled_from([9, 10, 12, 16]), st.sampled_from(sorted(metrics())))
def test_the_exact_value_lies_within_the_stated_error(
    rows: list[tuple[float, int]], bits: int, name: str
) -> None:
    scores, targets = (torch.tensor(part) for part in zip(*rows, strict=True))
    metric = binned(bits)[name]
    metric.update(scores[:1], targets[:1])
    metric.update(scores[1:], targets[1:])
    off = torch.tensor(expected(scores.double(), targets)[name], dtype=torch.float64)
    off -= metric.compute()
    assert (off.abs() <= metric.error_bound() + 1e-12).all()
    if name in ("tpr", "coverage"):
        assert (off >= 0).all()


@pytest.mark.parametrize("name", metrics())
def test_scores_that_bins_hold_exactly_are_counted_exactly(name: str) -> None:
    metric = binned(16)[name]
    for scores, targets in batches():
        metric.update(scores.bfloat16(), targets)
    assert metric.compute().tolist() == expected(*joined(batches()))[name]
    assert metric.counts.numel() == 2**17
    again = pickle.loads(pickle.dumps(metric))
    again.merge_state(metric)
    assert again.compute().tolist() == metric.compute().tolist()
    exact = metrics()[name]
    exact.update(*joined(batches()))
    assert not exact.error_bound().any()


def test_the_stated_error_is_reached_where_a_bin_hides_most() -> None:
    scores, targets = torch.tensor([1.0, 1.001, 0.5]), torch.tensor([0, 1, 0])
    area, rate = PartialAUC(0.0, 0.5, bits=12), TPRAtFPR(0.0, bits=12)
    for metric in (area, rate):
        metric.update(scores, targets)
    assert (area.compute().item(), area.error_bound().item()) == (0.5, 0.5)  # the exact one is 1
    assert (rate.compute().item(), rate.error_bound().item()) == (0, 1)


def test_more_bits_state_less_error() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(20_000, generator=generator) < 0.1).long()
    scores = torch.randn(20_000, generator=generator) + 2 * targets
    bounds = []
    for bits in (12, 14, 16, 18):
        metric = PartialAUC(0.0, 0.01, bits=bits)
        metric.update(scores, targets)
        bounds.append(metric.error_bound().item())
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[2] < 0.005
    assert bounds[0] > 10 * bounds[2]


def test_binned_columns() -> None:
    scores, index = torch.randn(200, 3), torch.arange(200) % 3
    metric = TPRAtFPR(0.1, bits=24, num_classes=3)
    metric.update(scores, index)
    off = tpr_at_fpr(scores, index, 0.1) - metric.compute()
    assert ((off >= 0) & (off <= metric.error_bound())).all()
    with pytest.raises(ValueError, match=r"scores must have 3 columns as before, got 1"):
        metric.update(scores[:, 0], index == 0)
    metric.reset()
    metric.update(scores, index.clamp(max=1))
    assert metric.compute().isnan().tolist() == [False, False, True]


def test_bad_options_are_refused_at_once() -> None:
    for make, message in (
        (lambda: TPRAtFPR(1.5), "fpr must be in"),
        (lambda: CoverageAtBudget(-1), "budget must be in"),
        (lambda: PartialAUC(0.5, 0.5), "alpha and beta must satisfy"),
        (lambda: PartialAUC(normalize="Width"), "normalize must be"),  # type: ignore[arg-type]
        (lambda: PartialAUC(bits=25), r"bits must be in 9\.\.24, got 25"),
        (lambda: PartialAUC(bits=8), "bits must be an integer of at least 9"),
        (lambda: PartialAUC(num_classes=0), "num_classes must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_without_torchmetrics_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "pauc.torchmetrics")
    with pytest.raises(ImportError, match=r"pip install 'torch-pauc\[torchmetrics\]'"):
        importlib.import_module("pauc.torchmetrics")
