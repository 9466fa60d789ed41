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


def expected(scores: Tensor, targets: Tensor) -> dict[str, Any]:
    return {
        "tpr": tpr_at_fpr(scores, targets, [0.05, 0.2]).tolist(),
        "coverage": coverage_at_budget(scores, targets, 0.1).item(),
        "pauc": partial_auc(scores, targets, 0.0, 0.1, normalize="mcclish").item(),
        "whole": partial_auc(scores, targets).item(),
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
        (torch.ones(2, 2), torch.ones(2), r"scores must be \[N\]"),
        (torch.ones(2), torch.tensor([0, 2]), r"targets must be 0, 1 or ignore_index"),
        (torch.full((2,), math.nan), torch.ones(2), r"scores must not be nan"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(scores, targets)
    assert metric.scores == []


def test_bad_options_are_refused_at_once() -> None:
    for make, message in (
        (lambda: TPRAtFPR(1.5), "fpr must be in"),
        (lambda: CoverageAtBudget(-1), "budget must be in"),
        (lambda: PartialAUC(0.5, 0.5), "alpha and beta must satisfy"),
        (lambda: PartialAUC(normalize="Width"), "normalize must be"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_without_torchmetrics_the_error_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "pauc.torchmetrics")
    with pytest.raises(ImportError, match=r"pip install 'torch-pauc\[torchmetrics\]'"):
        importlib.import_module("pauc.torchmetrics")
