"""What a report holds, apart from how it is measured and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pauc.reporting.measure import Costs, Difference, Group, ModelResult, Need

__all__ = ["Findings"]


@dataclass(frozen=True, repr=False)
class Findings:
    """All numbers of a report, and the rows that they were measured on."""

    title: str
    notes: tuple[str, ...]
    budget: float
    confidence: float
    rows_a_day: float
    positive_rate: float
    negatives: int
    positives: int
    ignored: int
    fprs: tuple[float, ...]
    promised: bool  # whether there are negatives enough for a threshold with a promise
    models: tuple[ModelResult, ...]
    differences: tuple[Difference, ...]
    costs: tuple[Costs, ...]  # of each model
    needs: tuple[Need, ...]
    groups: Mapping[str, list[Group]] | None  # of each model
    group_count: int
    scores: Mapping[str, Tensor]
    targets: Tensor
