"""The public names: where they come from, what loads with them, and what a pickle calls them."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ForwardRef, get_type_hints

import pytest
import torch

import pauc
from pauc import metrics
from pauc._public import public_in
from pauc.intervals import Interval, wilson_interval

WITH_EXTRAS = ["plot", "sklearn", "torchmetrics"]
CLASSES = [name for name in pauc.__all__ if name[0].isupper()]
SUBMODULES = [
    "boosting",
    "budgets",
    "distributed",
    "functional",
    "intervals",
    "metrics",
    "monitor",
    "reporting",
    "thresholds",
]


def run(script: str) -> str:
    """What a fresh interpreter prints."""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    return ran.stdout.strip()


# --- names


@pytest.mark.slow
def test_every_public_name_is_there_by_either_import() -> None:
    script = """
import pauc
for name in [*pauc.__all__, "plot", "sklearn", "torchmetrics"]:
    first = getattr(pauc, name)
    exec(f"from pauc import {name} as second")
    assert first is second is getattr(pauc, name), name
print(pauc.__version__)
"""
    assert run(script) == pauc.__version__


def test_dir_shows_the_public_names_alone() -> None:
    assert pauc.PAUCAtBudgetLoss  # private folders are attributes of the package from here on
    assert dir(pauc) == sorted([*pauc.__all__, *WITH_EXTRAS, "__version__"])


@pytest.mark.slow
def test_a_star_import_needs_no_extra_and_brings_every_name() -> None:
    script = """
import sys
sys.modules.update(matplotlib=None, sklearn=None, torchmetrics=None)
from pauc import *
import pauc
print(sorted(set(pauc.__all__) - set(globals())))
"""
    assert run(script) == "[]"


@pytest.mark.parametrize("name", ["band_edgs", "core_", "__wrapped__"])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'pauc' has no attribute '{name}'$"):
        getattr(pauc, name)
    with pytest.raises(ImportError, match=f"cannot import name '{name}' from 'pauc'"):
        exec(f"from pauc import {name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needed"), [("plot", "matplotlib"), ("torchmetrics", "torchmetrics")]
)
def test_without_its_extra_a_submodule_is_no_attribute_and_its_import_names_the_cure(
    name: str, needed: str
) -> None:
    script = f"""
import sys
sys.modules[{needed!r}] = None
import pauc
print(hasattr(pauc, {name!r}))
for statement in ("pauc.{name}", "from pauc import {name}", "import pauc.{name}"):
    try:
        exec(statement)
    except (AttributeError, ImportError) as error:
        print(type(error).__name__, error)
"""
    cure = (
        f"pauc.{name} needs {needed}, which is not installed. "
        f"Cure: pip install 'torch-pauc[{name}]'"
    )
    assert run(script).splitlines() == [
        "False",
        f"AttributeError {cure}",
        f"ImportError {cure}",
        f"ImportError {cure}",
    ]


def test_type_checkers_and_the_interpreter_know_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(pauc.__file__).read_text())
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(seen) == sorted([*pauc.__all__, *WITH_EXTRAS])
    assert {name for name, module in seen.items() if module == "pauc"} == {
        *SUBMODULES,
        *WITH_EXTRAS,
    }
    assert {name: module for name, module in seen.items() if module != "pauc"} == pauc._HOME


# --- what loads


@pytest.mark.slow
def test_metrics_load_no_loss() -> None:
    script = """
import sys
import pauc.metrics, pauc.intervals, pauc.thresholds, pauc.monitor
print(*sorted(name for name in sys.modules if name.startswith("pauc.")))
"""
    loaded = {name.split(".")[1] for name in run(script).split()}
    evaluation = {"intervals", "metrics", "monitor", "thresholds"}
    assert loaded == {"_public", "arrays", "checks", *evaluation}


@pytest.mark.slow
def test_metrics_load_in_no_time_once_torch_is_there() -> None:
    """Measured 0.014 s, where the losses take 1.6 s."""
    script = """
import time
import torch
start = time.perf_counter()
import pauc.metrics, pauc.intervals, pauc.thresholds
print(time.perf_counter() - start)
"""
    assert min(float(run(script)) for _ in range(3)) < 0.1


def test_a_compiled_function_may_be_the_first_to_use_a_name() -> None:
    script = """
import torch, pauc
def loss(logits, targets, queue):
    return pauc.pauc_loss_fn(logits, targets, queue, beta=0.5)
compiled = torch.compile(loss, fullgraph=True, backend="eager")
torch.manual_seed(0)
rows = torch.randn(64, 1), torch.arange(64) % 2, pauc.init_queue(64, 1)
assert "pauc_loss_fn" not in vars(pauc)
print(torch.equal(compiled(*rows)[0], loss(*rows)[0]))
"""
    assert run(script) == "True"


# --- addresses


def instances() -> dict[str, Any]:
    """One instance of every public class of which equality can be told from a pickle."""
    loss = pauc.PAUCAtBudgetLoss(1, beta=0.5, queue_size=8)
    logits, targets = torch.arange(4.0).unsqueeze(1), torch.tensor([0, 1, 0, 1])
    queue = pauc.init_queue(8, 1)
    return {
        "BandEdges": pauc.band_edges(logits[:, 0], targets == 0, 0.0, 0.5),
        "BandSampler": pauc.BandSampler(targets, 4),
        "OperatingPoint": pauc.select_threshold(logits, targets, 0.5),
        "PAUCAtBudgetLoss": loss,
        "PAUCConfig": pauc.PAUCConfig(beta=0.5),
        "PAUCTerms": pauc.pauc_loss_terms(logits, targets, queue, beta=0.5),
        "QueueState": queue,
        "RecallAtQuantileConfig": pauc.RecallAtQuantileConfig(quantile=0.5),
        "RecallAtQuantileLoss": pauc.RecallAtQuantileLoss(1, queue_size=8),
        "ScheduleConfig": pauc.ScheduleConfig(warmup_steps=3),
        "ScheduleValues": pauc.schedule_at(0, pauc.ScheduleConfig()),
        "SmoothAPConfig": pauc.SmoothAPConfig(temperature=0.5),
        "SmoothAPLoss": pauc.SmoothAPLoss(1, queue_size=8),
    }


@pytest.mark.parametrize("name", CLASSES)
def test_a_pickle_finds_a_public_class_under_pauc(name: str) -> None:
    cls = getattr(pauc, name)
    assert cls.__module__ == "pauc"
    # Protocol 0 writes the address in plain text: the module's line, then the class's.
    assert f"cpauc\n{name}\n".encode() in pickle.dumps(cls, protocol=0)
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("name", sorted(set(CLASSES) & set(instances())))
def test_an_instance_comes_back_as_it_was(name: str) -> None:
    instance = instances()[name]
    written = pickle.dumps(instance)
    assert f"cpauc\n{name}\n".encode() in pickle.dumps(instance, protocol=0)
    again = pickle.loads(written)
    assert type(again) is type(instance) is getattr(pauc, name)
    assert repr(again) == repr(instance) or isinstance(instance, pauc.BandSampler)
    if isinstance(instance, pauc.BandSampler):
        assert list(again) == list(instance)


def test_results_of_submodules_are_pickled_under_these() -> None:
    curve = metrics.roc_curve_in_band(torch.arange(4.0), torch.tensor([0, 1, 0, 1]))
    for result, address in (
        (curve, b"cpauc.metrics\nROCBand\n"),
        (wilson_interval(1, 2), b"cpauc.intervals\nInterval\n"),
    ):
        assert address in pickle.dumps(result, protocol=0)
        again = pickle.loads(pickle.dumps(result))
        assert all(torch.equal(*map(torch.as_tensor, p)) for p in zip(again, result, strict=True))


@pytest.mark.parametrize("cls", [metrics.ROCBand, Interval], ids=lambda cls: cls.__name__)
def test_fields_keep_their_types(cls: type) -> None:
    assert set(get_type_hints(cls).values()) == {Any}


@pytest.mark.parametrize(
    "name", [name for name in CLASSES if issubclass(getattr(pauc, name), tuple | dict)]
)
def test_types_of_fields_can_be_read(name: str) -> None:
    hints = get_type_hints(getattr(pauc, name))
    assert hints
    assert not any(isinstance(hint, str | ForwardRef) for hint in hints.values())


def test_an_address_changes_nothing_but_the_address() -> None:
    class Pair:
        """Two numbers."""

        left: Tensor  # noqa: F821 - a name of torch, and not of pauc
        right: str = "3"

    Pair.__module__ = "torch"
    moved = public_in("pauc")(Pair)
    assert moved is Pair
    assert (Pair.__module__, Pair.__doc__, Pair.right) == ("pauc", "Two numbers.", "3")
    assert get_type_hints(Pair) == {"left": torch.Tensor, "right": str}


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodules_are_modules(name: str) -> None:
    assert isinstance(getattr(pauc, name), ModuleType)
