"""The report: its checks, its numbers, and the three forms in which it is read."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pauc._public import public_in
from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_number
from pauc.metrics.inputs import check_both_classes, only_column
from pauc.reporting.findings import Findings
from pauc.reporting.measure import (
    compare,
    costs_of,
    fewest_negatives,
    groups_of,
    measure_model,
    needs_of,
)
from pauc.reporting.page import as_html, as_text

__all__ = ["Report", "report"]

_DISTINCT = 4 * torch.finfo(torch.float64).eps


@public_in("pauc.reporting")
@dataclass(frozen=True, repr=False)
class Report(Findings):
    """What :func:`pauc.report` found: printed it is text, in a notebook a page with pictures."""

    def __str__(self) -> str:
        return as_text(self)

    __repr__ = __str__

    def html(self) -> str:
        """Return one page with pictures, which needs no network.

        Raises:
            ImportError: matplotlib is missing.
        """
        return as_html(self)

    def save(self, path: str | Path) -> None:
        """Write the page to a file.

        Raises:
            ImportError: as :meth:`html`.
            OSError: the file cannot be written.
        """
        Path(path).write_text(self.html(), encoding="utf-8")

    def _repr_html_(self) -> str:
        return self.html()


def report(
    scores: ArrayLike | Mapping[str, ArrayLike],
    targets: ArrayLike,
    budget: float,
    *,
    confidence: float = 0.95,
    fprs: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
    rows_a_day: float = 100_000,
    positive_rate: float | None = None,
    title: str = "Scores at a false-alarm budget",
    notes: Sequence[str] = (),
    ignore_index: int = -100,
) -> Report:
    """Measure models at a budget of false alarms: what they catch, the threshold, what it costs.

    TPR at several FPRs with intervals, differences between models on the same rows, the threshold
    that keeps the budget with ``confidence`` (without it where there are too few negatives, and the
    report says so), alerts a day, how many negatives a tighter promise takes, and rates by group.

    The same rows give the same report, bit for bit: the bootstrap has a fixed seed.

    On a terminal a bar shows how far a long bootstrap is, where tqdm is installed.

    Args:
        scores: ``[N]`` or ``[N, 1]``, any real dtype: a tensor, an array, a column of a data frame
            or a list; or of several models a mapping from names to these, or a data frame with a
            column each. All models are compared with the first.
        targets: ``[N]`` or ``[N, 1]`` of 0 and 1, of any of these kinds.
        budget: FPR as a fraction, above 0 and below 1.
        confidence: of intervals and promise, at least 0.5 and at most 0.99998.
        fprs: at which the TPR is reported besides the budget; None: a tenth of the budget, half of
            it, twice and ten times it.
        groups: ``[N]``, the name of each row's group.
        rows_a_day: how many rows a day are to be scored.
        positive_rate: share of positives among them, in [0, 1]; None: that of the rows here.
        title: of the page.
        notes: sentences on where the rows come from.
        ignore_index: target of the rows to drop.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shapes or values, see :mod:`pauc.metrics`; a single class; or fewer than 2
            rows of one.
    """
    models, labels, ignored = _checked_rows(scores, targets, ignore_index)
    _check_options(budget, confidence, positive_rate, rows_a_day)
    names = None if groups is None else _group_names(groups, len(labels))
    positives = int((labels == 1).sum())
    negatives = int((labels == 0).sum())
    rates = _rates(budget, fprs, negatives)
    promised = negatives >= fewest_negatives(budget, confidence)
    tensor = torch.tensor(rates, dtype=torch.float64)
    results = [
        measure_model(name, own, labels, tensor, budget, confidence, promised)
        for name, own in models.items()
    ]
    rate = positives / (positives + negatives) if positive_rate is None else positive_rate
    at, bar = rates.index(budget), _progress()
    return Report(
        title=title,
        notes=tuple(notes),
        budget=budget,
        confidence=confidence,
        rows_a_day=rows_a_day,
        positive_rate=rate,
        negatives=negatives,
        positives=positives,
        ignored=ignored,
        fprs=rates,
        promised=promised,
        models=tuple(results),
        differences=tuple(compare(models, labels, budget, confidence, results, at, bar)),
        costs=tuple(costs_of(result.point, rows_a_day, rate) for result in results),
        needs=tuple(needs_of(budget, confidence)),
        groups=None if names is None else {
            result.name: groups_of(
                models[result.name], labels, names, result.point.threshold, confidence
            )
            for result in results
        },
        group_count=0 if names is None else len(set(names)),
        scores=models,
        targets=labels,
    )  # fmt: skip


def _checked_rows(
    scores: ArrayLike | Mapping[str, ArrayLike], targets: ArrayLike, ignore_index: int
) -> tuple[dict[str, Tensor], Tensor, int]:
    """Return scores ``[N]`` by name, targets ``[N]`` with -100 for ignored, and how many are."""
    models = {name: as_tensor(own, "scores") for name, own in _by_name(scores).items()}
    targets = as_tensor(targets, "targets")
    if not models:
        raise ValueError("scores must hold at least one model, got none")
    for name, own in models.items():
        try:
            check_both_classes(only_column(own, targets, ignore_index).positive)
        except (TypeError, ValueError) as error:
            raise type(error)(f"of {name!r}: {error}") from error
    labels = targets.reshape(-1).cpu()
    ignored = labels == ignore_index
    labels = torch.where(ignored, -100, labels.long())
    flat = {name: own.reshape(-1).cpu() for name, own in models.items()}
    return flat, labels, int(ignored.sum())


def _by_name(scores: Any) -> dict[str, Any]:
    """Return the scores of each model; those of one alone have the name "model"."""
    if isinstance(scores, Mapping):
        return {str(name): own for name, own in scores.items()}
    if hasattr(scores, "columns"):  # a data frame of pandas or polars
        return {str(name): scores[name] for name in scores.columns}
    return {"model": scores}


def _group_names(groups: Sequence[str], rows: int) -> list[str]:
    """Return the groups as text; raise unless there is one for each row."""
    if len(groups) != rows:
        raise ValueError(f"groups must have one name for each of {rows} rows, got {len(groups)}")
    return [str(name) for name in groups]


def _check_options(
    budget: float, confidence: float, positive_rate: float | None, rows_a_day: float
) -> None:
    """Raise unless each is a number in its range."""
    check_number("rows_a_day", rows_a_day)
    if not 0 < rows_a_day < math.inf:
        raise ValueError(f"rows_a_day must be above 0 and finite, got {rows_a_day!r}")
    shares = {"budget": (budget, "above 0 and below 1"), "confidence": (confidence, "")}
    for name, (value, expected) in shares.items():
        check_number(name, value)
        least = 0.5 if name == "confidence" else 0.0
        if not (0 < value < 1 and value >= least):
            expected = expected or "at least 0.5 and below 1"
            raise ValueError(f"{name} must be {expected}, got {value!r}")
    if positive_rate is not None:
        check_number("positive_rate", positive_rate)
        if not 0 <= positive_rate <= 1:
            raise ValueError(f"positive_rate must be in [0, 1], got {positive_rate!r}")


def _rates(budget: float, fprs: Sequence[float] | None, negatives: int) -> tuple[float, ...]:
    """Return the FPRs of the report, rising, the budget among them."""
    if fprs is None:
        near = (budget / 10, budget / 2, 2 * budget, 10 * budget)
        fprs = [rate for rate in near if 1 / negatives <= rate < 1]
    others = {float(rate) for rate in fprs if abs(rate - budget) > _DISTINCT}
    return tuple(sorted({budget, *others}))


def _progress() -> Callable[[Iterable[int]], Iterable[int]]:
    """Return a bar for a terminal, or nothing to be seen."""
    try:
        from tqdm import tqdm
    except ImportError:
        return iter
    quiet = not sys.stderr.isatty()

    def bar(rows: Iterable[int]) -> Any:
        return tqdm(rows, desc="bootstrap", unit="draw", leave=False, delay=1, disable=quiet)

    return bar
