"""A class against the rest: the column of scores that a band belongs to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.boosting.rows import Rows
from pauc.boosting.workers import Alone


class Column(NamedTuple):
    """The rows as binary ones."""

    scores: Tensor  # [N] float64, contiguous
    positives: Tensor  # [P] int64: their rows
    weight: Tensor | None  # [N] float64
    name: str  # of the class in an error, empty if there is but one

    def side_weights(self, workers: Alone) -> tuple[float, float]:
        """Return the weight of positives and of negatives of all workers.

        Raises:
            ValueError: one of the two is 0.
        """
        if self.weight is None:
            own = [float(len(self.positives)), float(len(self.scores) - len(self.positives))]
        else:
            own = [
                float(self.weight[self.positives].sum()),
                float(self.weight[self.negative()].sum()),
            ]
        found = workers.total(torch.tensor(own, dtype=torch.float64, device="cpu")).tolist()
        for kind, weight in zip(("positives", "negatives"), found, strict=True):
            if not weight:
                raise ValueError(
                    f"targets must hold {kind}{self.name} of weight above 0, got none in "
                    f"{len(self.scores)} rows"
                )
        return found[0], found[1]

    def negative(self) -> Tensor:
        """Return ``[N]`` bool: the negatives that count, those of weight above 0."""
        negative = torch.ones_like(self.scores, dtype=torch.bool)
        negative[self.positives] = False
        return negative if self.weight is None else negative.logical_and_(self.weight > 0)

    def weight_at(self, at: Tensor) -> Tensor:
        """Return the weights of some rows."""
        return self.scores.new_ones(len(at)) if self.weight is None else self.weight[at]


def make_column(rows: Rows, index: int) -> Column:
    """Return the rows of a class against the rest."""
    name = "" if rows.scores.shape[1] == 1 else f" of class {index}"
    return Column(rows.scores[:, index].contiguous(), rows.positives[index], rows.weight, name)
