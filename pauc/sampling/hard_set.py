"""The highest-scoring share of the rows by last seen score, kept without scanning all rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The pool holds POOL times the rows that are selected after a scan, and is cut back at twice that.
# Larger: fewer scans when scores drift down, more rows to order at each selection.
POOL = 4


class HardSet:
    """Last seen scores of ``N`` rows, and the top ``fraction`` of those that were ever seen.

    A pool of candidates makes a selection cheap: a row is outside only if its score is at most
    ``floor``. While enough rows of the pool are still at or above ``floor``, the best of the pool
    are the best of all, so a selection costs O(pool), which is O(selected). When too many have
    fallen below (every score went down, say), all rows are looked at once and a new pool is made.

    Args:
        eligible: ``[N]`` bool, rows that may be selected; scores of others are dropped.
        fraction: share of the seen eligible rows to select, at least one row.

    Attributes:
        rows: ``[K]`` int64, the selection; before the first one all eligible rows.
        scans: how many selections had to look at all rows.
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
        self._pool: list[Tensor] = []  # chunks, so that recording costs O(batch)

    @property
    def candidates(self) -> Tensor:
        """The rows of the pool, int64."""
        self._pool = [torch.cat([self.rows[:0], *self._pool])]
        return self._pool[0]

    def record(self, rows: Tensor, scores: Tensor) -> None:
        """Note the ``scores [n]`` of ``rows [n]``; of a row that comes twice the higher counts.

        Non-finite scores are dropped, as the loss's queue drops them.
        """
        scores = scores.to(self._scores.dtype)
        usable = self._eligible[rows] & scores.isfinite()
        rows, scores = rows[usable], scores[usable]
        self._seen += len(_distinct(rows[self._scores[rows].isnan()]))
        # A plain assignment would leave open which of two equal indices wins.
        self._scores[rows] = -torch.inf
        self._scores.scatter_reduce_(0, rows, scores, "amax")
        enters = (self._scores[rows] >= self._floor) & ~self._in_pool[rows]
        entering = _distinct(rows[enters])
        self._in_pool[entering] = True
        self._pool.append(entering)

    def record_all(self, scores: Tensor) -> None:
        """Note the ``scores [N]`` of all rows; as :meth:`record`, which would sort them."""
        scores = scores.to(self._scores.dtype)
        self._scores = torch.where(self._eligible & scores.isfinite(), scores, self._scores)
        seen = self._seen_rows()
        self._seen = len(seen)
        self._rebuild(seen, POOL * self._size())

    def select(self) -> None:
        """Set ``rows`` to the top ``fraction`` of the rows seen so far, the best first."""
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
        return max(1, round(self.fraction * self._seen))

    def _seen_rows(self) -> Tensor:
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
    """Return the values of ``rows [n]``, each once."""
    ordered = rows.sort().values
    return ordered[torch.cat([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])]
