"""What people hold: every kind gives the numbers of the tensor, and an answer of its own kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pauc import BandSampler, select_threshold
from pauc.arrays import as_tensor, in_kind, same_device
from pauc.intervals import (
    bootstrap_interval,
    fpr_at_tpr_interval,
    partial_auc_interval,
    tpr_at_fpr_interval,
)
from pauc.metrics import (
    coverage_at_budget,
    fpr_at_tpr,
    partial_auc,
    roc_curve_in_band,
    tpr_at_fpr,
)

GENERATOR = torch.Generator().manual_seed(0)
TARGETS = (torch.rand(300, generator=GENERATOR) < 0.3).long()
SCORES = torch.randn(300, generator=GENERATOR, dtype=torch.float64) + TARGETS
WEIGHT = torch.rand(300, generator=GENERATOR, dtype=torch.float64) + 0.5


def shuffled_series(values: Tensor) -> Any:
    """A pandas column after a split: its index is neither sorted nor complete."""
    pandas = pytest.importorskip("pandas")
    index = np.random.default_rng(0).permutation(10_000)[: len(values)]
    return pandas.Series(values.numpy(), index=index)


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "list": lambda t: t.tolist(),
    "tuple": lambda t: tuple(t.tolist()),
    "numpy": lambda t: t.numpy().copy(),
    "read-only": lambda t: np.frombuffer(t.numpy().tobytes(), dtype=t.numpy().dtype),
    "reversed": lambda t: t.numpy()[::-1].copy()[::-1],
    "big-endian": lambda t: t.numpy().astype(t.numpy().dtype.newbyteorder(">")),
    "strided": lambda t: np.stack([t.numpy(), t.numpy()], axis=1)[:, 1],
    "objects": lambda t: np.array(t.tolist(), dtype=object),
    "pandas": shuffled_series,
    "pandas nullable": lambda t: shuffled_series(t).convert_dtypes(),
    "polars": lambda t: pytest.importorskip("polars").Series(t.tolist()),
    "pyarrow": lambda t: pytest.importorskip("pyarrow").chunked_array(
        [t[:100].tolist(), t[100:].tolist()]
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())

# Every function that takes rows, with what it gives as a flat list of floats.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "roc_curve_in_band": lambda *rows, **options: roc_curve_in_band(*rows, 0.1, 0.5, **options),
    "partial_auc": lambda *rows, **options: partial_auc(*rows, 0.0, 0.2, **options),
    "tpr_at_fpr": lambda *rows, **options: tpr_at_fpr(*rows, [0.05, 0.2], **options),
    "fpr_at_tpr": lambda *rows, **options: fpr_at_tpr(*rows, 0.7, **options),
    "coverage_at_budget": lambda *rows, **options: coverage_at_budget(*rows, 0.1, **options),
    "partial_auc_interval": lambda *rows, **options: partial_auc_interval(*rows, **options),
    "tpr_at_fpr_interval": lambda *rows, **options: tpr_at_fpr_interval(
        *rows, 0.2, n_resamples=50, **options
    ),
    "fpr_at_tpr_interval": lambda *rows, **options: fpr_at_tpr_interval(
        *rows, [0.2, 0.5], n_resamples=50, **options
    ),
    "bootstrap_interval": lambda *rows, **options: bootstrap_interval(
        partial_auc, *rows, n_resamples=50, **options
    ),
    "select_threshold": lambda *rows, **options: select_threshold(*rows, 0.1, **options),
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def flat(answer: Any) -> list[float]:
    parts = answer if isinstance(answer, tuple) else [answer]
    return [
        x for part in parts for x in torch.as_tensor(part, dtype=torch.float64).reshape(-1).tolist()
    ]


def parts_of(answer: Any) -> list[Any]:
    return list(answer) if isinstance(answer, tuple) else [answer]


@every_kind
@every_function
def test_every_kind_gives_the_numbers_of_the_tensor(function: Any, kind: Any) -> None:
    expected = function(SCORES, TARGETS, sample_weight=WEIGHT)
    found = function(kind(SCORES), kind(TARGETS), sample_weight=kind(WEIGHT))
    assert flat(found) == pytest.approx(flat(expected), nan_ok=True)
    assert all(isinstance(part, (float, np.ndarray)) for part in parts_of(found))
    plain = function(kind(SCORES), kind(TARGETS))
    assert flat(plain) == flat(function(SCORES, TARGETS))


@every_function
def test_the_answer_takes_after_the_scores(function: Any) -> None:
    mixed = function(SCORES, TARGETS.numpy(), sample_weight=WEIGHT.tolist())
    if function is not FUNCTIONS["select_threshold"]:
        assert all(isinstance(part, Tensor) for part in parts_of(mixed))
    other = function(SCORES.numpy(), TARGETS, sample_weight=WEIGHT)
    assert not any(isinstance(part, Tensor) for part in parts_of(other))
    assert flat(mixed) == pytest.approx(flat(other), rel=0, abs=0, nan_ok=True)


def test_a_metric_of_the_bootstrap_is_given_what_the_caller_holds() -> None:
    kinds = []

    def metric(scores: Any, targets: Any, sample_weight: Any = None) -> float:
        kinds.append((type(scores), type(targets), type(sample_weight)))
        return float(scores[targets == 1].mean())

    options: dict[str, Any] = {"n_resamples": 40}
    bootstrap_interval(metric, SCORES.tolist(), TARGETS.tolist(), **options)
    bootstrap_interval(metric, SCORES, TARGETS, sample_weight=WEIGHT.numpy(), **options)
    assert set(kinds[:41]) == {(np.ndarray, np.ndarray, type(None))}
    assert set(kinds[41:]) == {(Tensor, Tensor, Tensor)}


@every_kind
def test_the_sampler_takes_every_kind(kind: Any) -> None:
    expected = list(BandSampler(TARGETS, 32, num_batches=3))
    sampler = BandSampler(kind(TARGETS), 32, num_batches=3)
    assert list(sampler) == expected
    sampler.update(kind(torch.arange(300)), kind(SCORES))
    sampler.refresh(kind(SCORES))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8, np.float16])
def test_numbers_of_any_dtype_keep_their_order(dtype: Any) -> None:
    values = np.array([3, 200 if dtype != np.int8 else 100, 7, 0], dtype=dtype)
    found = as_tensor(values, "scores")
    assert found.tolist() == values.tolist()
    assert found.argsort().tolist() == values.argsort().tolist()


def test_python_floats_that_differ_stay_apart() -> None:
    scores = [0.1, 0.1 + 1e-12]
    assert partial_auc(scores, [0, 1]) == 1
    assert partial_auc(scores[::-1], [0, 1]) == 0


def test_a_tensor_stays_itself_and_loses_its_graph() -> None:
    scores = torch.randn(3, requires_grad=True)
    found = as_tensor(scores, "scores")
    assert found.data_ptr() == scores.data_ptr()
    assert not found.requires_grad
    assert in_kind(found, scores) is found


def test_arrays_are_not_written_to_and_large_ones_not_copied() -> None:
    values = np.arange(5.0)
    assert as_tensor(values, "scores").data_ptr() == values.ctypes.data


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "got NoneType"),
        ("0.5", "got str: text is no number"),
        (["a", "b"], "got list"),
        ([0.1, None], "got list"),
        ([[1], [2, 3]], "got list"),
        ([torch.ones(2), torch.ones(3)], "got list"),
        ([2**70], "got list"),
        ({"a": 1}, "got dict"),
        (object(), "got object"),
        (np.array(["a"]), "got ndarray: its dtype is <U1"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "datetime64"),
        (np.array([1.0, None], dtype=object), "got ndarray"),
        (np.ma.masked_array([1, 2], [False, True]), "mark them by ignore_index"),
    ],
)
def test_what_is_no_number_is_refused_by_name(values: Any, message: str) -> None:
    with pytest.raises(TypeError, match=rf"scores must be a tensor, an array .*{message}"):
        as_tensor(values, "scores")


def test_other_bad_values() -> None:
    with pytest.raises(TypeError, match=r"scores must have a real dtype, got torch\.complex128"):
        as_tensor(np.array([1j]), "scores")
    with pytest.raises(ValueError, match=r"scores must fit into int64"):
        as_tensor(np.array([2**63], dtype=np.uint64), "scores")
    missing = pytest.importorskip("pandas").Series([0, 1, None], dtype="Int64")
    with pytest.raises(ValueError, match=r"targets must be 0, 1 or ignore_index, got \[nan\]"):
        tpr_at_fpr([1.0, 2.0, 3.0], missing, 0.5)


def test_what_is_no_tensor_goes_where_the_tensor_is() -> None:
    given = {"scores": [1.0], "targets": torch.ones(1, device="meta"), "sample_weight": None}
    scores, targets, weight = same_device(given, optional="sample_weight")
    assert scores is not None
    assert targets is not None
    assert (scores.device.type, targets.device.type, weight) == ("meta", "meta", None)
    given["sample_weight"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"sample_weight must be on the targets' device, meta"):
        same_device(given, optional="sample_weight")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_function
def test_tensors_stay_on_their_device(function: Any) -> None:
    there = function(SCORES.cuda(), TARGETS.numpy(), sample_weight=WEIGHT.tolist())
    if function is FUNCTIONS["bootstrap_interval"] or function is FUNCTIONS["tpr_at_fpr_interval"]:
        there, here = there[:1], function(SCORES, TARGETS, sample_weight=WEIGHT)[:1]
    else:
        here = function(SCORES, TARGETS, sample_weight=WEIGHT)
    if function is FUNCTIONS["fpr_at_tpr_interval"]:
        there, here = there[:1], here[:1]
    assert flat(there) == pytest.approx(flat(here), abs=1e-9)
    if function is not FUNCTIONS["select_threshold"]:
        assert all(part.device.type == "cuda" for part in parts_of(there))
    cpu = torch.ones(300, dtype=torch.long)
    with pytest.raises(ValueError, match=r"targets must be on the scores' device, cuda:0, got cpu"):
        function(SCORES.cuda(), cpu)
    assert not math.isnan(flat(there)[0])
