"""The hard sets of a sampler: one for all classes, or one for each label of a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pauc.sampling.hard_set import HardSet, distinct


class HardSets:
    """Which negatives are hard, by last seen score.

    Labels ``[N]`` have one set: of the negatives if binary, else of all rows, since each is a
    negative of every class but its own. Labels ``[N, C]`` have a set for each label, of the rows
    that are known negatives of it.

    Args:
        labels: ``[N]`` or ``[N, C]``, below 0 where a row or an entry is absent.
        num_classes: 1 is binary.
        fraction: share of the seen rows of a set that are hard, in (0, 1].

    Attributes:
        drawn: the sets to draw from. A label without negatives has no hard ones, and the other
            labels take its turns.
    """

    def __init__(self, labels: Tensor, num_classes: int, fraction: float) -> None:
        self._by_class = labels.ndim == 1 and num_classes > 1
        self._sets = [HardSet(rows, fraction) for rows in _negatives(labels, num_classes)]
        self.drawn = [hard for hard in self._sets if len(hard) > 0]

    @property
    def rows(self) -> Tensor:
        """The hard rows ``[K]`` int64 of one set after another, the highest score first."""
        return torch.cat([hard.rows for hard in self._sets])

    @property
    def candidates(self) -> Tensor:
        """The rows ``[K]`` int64 that are worth a new score before a selection, each once."""
        if len(self._sets) == 1:
            return self._sets[0].candidates.clone()
        return distinct(torch.cat([hard.candidates for hard in self._sets]))

    def record(self, rows: Tensor, labels: Tensor, scores: Tensor) -> None:
        """Take in the ``scores [n, C]`` of ``rows [n]``, whose labels these are."""
        for hard, column in zip(self._sets, self._hardness(labels, scores), strict=True):
            hard.record(rows, column)

    def record_all(self, labels: Tensor, scores: Tensor) -> None:
        """Take in the ``scores [N, C]`` of all rows, whose labels these are."""
        for hard, column in zip(self._sets, self._hardness(labels, scores), strict=True):
            hard.record_all(column)

    def select(self) -> None:
        """Choose the hard rows of each set anew."""
        for hard in self._sets:
            hard.select()

    def state_dict(self) -> list[dict[str, Any]]:
        """Return a copy of the state, set by set."""
        return [hard.state_dict() for hard in self._sets]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Take over a state from :meth:`state_dict` of sets over the same labels."""
        for hard, own in zip(self._sets, state, strict=True):
            hard.load_state_dict(own)

    def _hardness(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Return ``[sets, n]``: of each row its highest score as a negative of some class."""
        if not self._by_class:
            return scores.T
        own = labels.long().clamp(min=0).unsqueeze(1)
        return scores.scatter(1, own, -torch.inf).amax(1).unsqueeze(0)


def _negatives(labels: Tensor, num_classes: int) -> Iterator[Tensor]:
    """Yield for each set ``[N]`` bool: the rows that may be in it."""
    if labels.ndim == 2:
        yield from (labels.T == 0)
    else:
        yield labels == 0 if num_classes == 1 else labels >= 0
