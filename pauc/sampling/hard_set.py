"""The highest-scoring share of the rows by last seen score, kept without scanning all rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# After a scan of all rows, the pool of candidates holds POOL times as many rows as are selected.
# When the pool has twice that size, it is cut back to it. A larger POOL means fewer scans while
# scores drift down, and more rows to put in order at each selection.
POOL = 4


class HardSet:
    """The last seen scores of ``N`` rows, and the top ``fraction`` of the rows that were seen.

    A pool of candidates makes a selection cheap: every row outside the pool has a score of at most
    ``floor``. While enough rows of the pool are still at or above ``floor``, the best of the pool
    are the best of all rows, and a selection costs O(pool), which is O(selected). When too many
    have fallen below ``floor`` (because every score went down, say), one scan of all rows makes a
    new pool.

    Args:
        eligible: ``[N]`` bool, rows that may be selected; scores of others are dropped.
        fraction: share of the seen eligible rows to select, in (0, 1]; at least one row.

    Attributes:
        rows: ``[K]`` int64, the selected rows, the best first; before the first selection all
            eligible rows.
        scans: how many selections had to scan all rows.
    """

    def __init__(self, eligible: Tensor, fraction: float) -> None:
        self.fraction = fraction
        self.rows = eligible.nonzero().squeeze(1)
        self.scans = 0
        self._eligible = eligible
        self._scores = torch.full(eligible.shape, torch.nan)  # nan: never seen
        self._seen = 0
        self._floor = -torch.inf
        self._in_pool = torch.zeros_like(eligible)
        self._pool: list[Tensor] = []  # in parts, so that recording a batch costs O(batch)

    @property
    def candidates(self) -> Tensor:
        """The rows of the pool, int64 in no order."""
        self._pool = [torch.cat([self.rows[:0], *self._pool])]
        return self._pool[0]

    def record(self, rows: Tensor, scores: Tensor) -> None:
        """Take in the ``scores [n]``, any floating dtype, of ``rows [n]`` int64.

        Of a row that is given twice the higher score counts. Non-finite scores are dropped, as the
        loss's queue drops rows with a non-finite logit.
        """
        scores = scores.to(self._scores.dtype)
        usable = self._eligible[rows] & scores.isfinite()
        rows, scores = rows[usable], scores[usable]
        self._seen += len(_distinct(rows[self._scores[rows].isnan()]))
        # Not a plain assignment: of two scores for one row, torch leaves open which would stay.
        self._scores[rows] = -torch.inf
        self._scores.scatter_reduce_(0, rows, scores, "amax")
        enters = (self._scores[rows] >= self._floor) & ~self._in_pool[rows]
        entering = _distinct(rows[enters])
        self._in_pool[entering] = True
        self._pool.append(entering)

    def record_all(self, scores: Tensor) -> None:
        """Take in the ``scores [N]`` of all rows: as :meth:`record`, but without sorting rows."""
        scores = scores.to(self._scores.dtype)
        self._scores = torch.where(self._eligible & scores.isfinite(), scores, self._scores)
        seen = self._seen_rows()
        self._seen = len(seen)
        self._rebuild(seen, POOL * self._size())

    def select(self) -> None:
        """Set ``rows`` to the top ``fraction`` of the rows seen so far, the best first.

        Without any seen row ``rows`` stays as it is.
        """
        if self._seen == 0:
            return
        size, pool = self._size(), self.candidates
        if int((self._scores[pool] >= self._floor).sum()) < size:
            self.scans += 1
            pool = self._rebuild(self._seen_rows(), POOL * size)
        elif len(pool) > 2 * POOL * size:
            pool = self._rebuild(pool, POOL * size)
        self.rows = pool[self._scores[pool].topk(size).indices]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state; ``4 N`` bytes for the scores and 8 for each pooled row."""
        return {
            "scores": self._scores.clone(),
            "seen": self._seen,
            "floor": self._floor,
            "pool": self.candidates.clone(),
            "rows": self.rows.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`."""
        self._scores = state["scores"].clone()
        self._seen, self._floor = state["seen"], state["floor"]
        self.rows = state["rows"].clone()
        self._pool = [state["pool"].clone()]
        self._in_pool.zero_()[self._pool[0]] = True

    def _size(self) -> int:
        """Return how many rows a selection has."""
        return max(1, round(self.fraction * self._seen))

    def _seen_rows(self) -> Tensor:
        """Return the rows ``[n]`` int64 that have a score, from a scan of all."""
        return self._scores.isfinite().nonzero().squeeze(1)

    def _rebuild(self, rows: Tensor, size: int) -> Tensor:
        """Make the best ``size`` of ``rows`` the pool, and return it."""
        best = self._scores[rows].topk(min(size, len(rows)))
        self._in_pool[self.candidates] = False
        self._pool = [rows[best.indices]]
        self._floor = float(best.values[-1]) if len(rows) else -torch.inf
        self._in_pool[self._pool[0]] = True
        return self._pool[0]


def _distinct(rows: Tensor) -> Tensor:
    """Return the values of ``rows [n]`` in ascending order, each once."""
    ordered = rows.sort().values
    # The first row equals itself: True, or nothing where there are no rows.
    return ordered[torch.cat([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])]
