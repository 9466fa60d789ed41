"""A class against the rest: the column of scores that a band belongs to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pauc.boosting.rows import Rows
from pauc.boosting.workers import Alone


class Column(NamedTuple):
    """The rows as binary ones; ``[N]`` each."""

    scores: Tensor  # float64, contiguous
    positive: Tensor  # bool
    weight: Tensor | None  # float64
    name: str  # of the class in an error, empty if there is but one

    def side_weights(self, workers: Alone) -> tuple[float, float]:
        """Return the weight of positives and of negatives of all workers.

        Raises:
            ValueError: one of the two is 0.
        """
        if self.weight is None:
            positives = float(self.positive.count_nonzero())
            own = [positives, len(self.positive) - positives]
        else:
            own = [float(self.weight[side].sum()) for side in (self.positive, ~self.positive)]
        found = workers.total(torch.tensor(own, dtype=torch.float64)).tolist()
        for kind, weight in zip(("positives", "negatives"), found, strict=True):
            if not weight:
                raise ValueError(
                    f"targets must hold {kind}{self.name} of weight above 0, got none in "
                    f"{len(self.positive)} rows"
                )
        return found[0], found[1]

    def negative(self) -> Tensor:
        """Return ``[N]`` bool: the negatives that count, those of weight above 0."""
        negative = ~self.positive
        return negative if self.weight is None else negative.logical_and_(self.weight > 0)

    def weight_at(self, at: Tensor) -> Tensor:
        """Return the weights of some rows."""
        return self.scores.new_ones(len(at)) if self.weight is None else self.weight[at]


def make_column(rows: Rows, index: int) -> Column:
    """Return the rows of a class against the rest."""
    one = rows.scores.shape[1] == 1
    positive = rows.labels == (1 if one else index)
    name = "" if one else f" of class {index}"
    return Column(rows.scores[:, index].contiguous(), positive, rows.weight, name)
