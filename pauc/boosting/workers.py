"""The rows of other processes: what an objective must know of them, by XGBoost's own collective.

The band's edge is that of all rows, and a negative is compared with the positives of all workers.
Two exchanges do: sums, and lists that are joined. A process alone exchanges nothing.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor


class Alone:
    """One process with all rows."""

    rank = 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over workers of a tensor that has one shape on all of them."""
        return values

    def join(self, *columns: Tensor) -> tuple[list[Tensor], int]:
        """Return columns ``[n]`` of all workers end to end, and where the own rows start."""
        return list(columns), 0

    def agree(self, error: Exception | None) -> None:
        """Raise where any worker has an error, so that none of the others waits for it."""
        if error is not None:
            raise error


class XGBoostWorkers(Alone):
    """The workers of XGBoost's distributed training, which are connected by its collective."""

    def __init__(self) -> None:
        from xgboost import collective

        self._collective = collective
        self.rank, self.size = collective.get_rank(), collective.get_world_size()

    def total(self, values: Tensor) -> Tensor:
        """See :meth:`Alone.total`; float64 or int64 on the CPU."""
        summed = self._collective.allreduce(values.contiguous().numpy(), self._collective.Op.SUM)
        return torch.from_numpy(summed).reshape(values.shape)  # it comes back flat

    def join(self, *columns: Tensor) -> tuple[list[Tensor], int]:
        """See :meth:`Alone.join`.

        XGBoost has a sum and no gather: each worker fills its own part of a list of zeros.
        """
        counts = torch.zeros(self.size, dtype=torch.int64, device="cpu")
        counts[self.rank] = len(columns[0])
        ends = self.total(counts).cumsum(0)
        start = int(ends[self.rank]) - len(columns[0])
        joined = columns[0].new_zeros(len(columns), int(ends[-1]))
        joined[:, start : start + len(columns[0])] = torch.stack(columns)
        return list(self.total(joined).unbind()), start

    def agree(self, error: Exception | None) -> None:
        """See :meth:`Alone.agree`."""
        failed = int(self.total(torch.tensor([0 if error is None else 1], device="cpu")))
        super().agree(error)
        if failed:
            raise RuntimeError(f"{failed} of {self.size} workers refused their rows: see their log")


def workers_now() -> Alone:
    """Return the workers of the training that runs, or this process alone."""
    # A training by XGBoost has imported it; nobody else needs it.
    xgboost = sys.modules.get("xgboost")
    if xgboost is not None and xgboost.collective.get_world_size() > 1:
        return XGBoostWorkers()
    return Alone()
