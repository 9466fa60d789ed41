"""The highest-scoring share of the rows by last seen score, kept without scanning all rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pauc.sampling.row_set import BLOCK, RowSet, blocks

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

    It holds five bytes for each of the ``N`` rows, and eight for each row of the pool.

    Args:
        eligible: ``[N]`` bool, rows that may be selected; scores of others are dropped.
        fraction: share of the seen eligible rows to select, in (0, 1]; at least one row.

    Attributes:
        scans: how many selections had to scan all rows.
    """

    def __init__(self, eligible: Tensor, fraction: float) -> None:
        self.fraction = fraction
        self.scans = 0
        self._eligible = RowSet(eligible)
        self._rows: Tensor | None = None  # the selected ones; None before the first selection
        # nan: never seen. inf, which no recorded score is: not eligible.
        with torch.inference_mode(False):  # they will be written outside of it, too
            self._scores = torch.full(eligible.shape, torch.nan, dtype=torch.float32)
            self._in_pool = torch.zeros_like(eligible)
        self._scores[~eligible] = torch.inf
        self._seen = 0
        self._floor = -torch.inf
        self._pool: list[Tensor] = []  # in parts, so that recording a batch costs O(batch)
        self._pooled = 0

    def __len__(self) -> int:
        """Return how many rows are drawn from."""
        return len(self._eligible) if self._rows is None else len(self._rows)

    def at(self, ranks: Tensor) -> Tensor:
        """Return ``[n]`` int64: the rows at ``ranks [n]`` int of :attr:`rows`."""
        return self._eligible.at(ranks) if self._rows is None else self._rows[ranks]

    @property
    def rows(self) -> Tensor:
        """The selected rows ``[K]`` int64, the best first; all eligible ones before a selection."""
        return self.at(torch.arange(len(self)))

    @property
    def candidates(self) -> Tensor:
        """The rows of the pool, int64 in no order."""
        self._pool = [torch.cat([torch.empty(0, dtype=torch.int64), *self._pool])]
        return self._pool[0]

    def record(self, rows: Tensor, scores: Tensor) -> None:
        """Take in the ``scores [n]``, any floating dtype, of ``rows [n]`` int64.

        Of a row that is given twice the higher score counts. Non-finite scores are dropped, as the
        loss's queue drops rows with a non-finite logit.
        """
        scores = scores.to(self._scores.dtype)
        usable = (self._scores[rows] != torch.inf) & scores.isfinite()
        rows, scores = rows[usable], scores[usable]
        self._seen += len(distinct(rows[self._scores[rows].isnan()]))
        # Not a plain assignment: of two scores for one row, torch leaves open which would stay.
        self._scores[rows] = -torch.inf
        self._scores.scatter_reduce_(0, rows, scores, "amax")
        enters = (self._scores[rows] >= self._floor) & ~self._in_pool[rows]
        entering = distinct(rows[enters])
        self._in_pool[entering] = True
        self._pool.append(entering)
        self._pooled += len(entering)
        # Where nothing is selected for long, or for the first time, every row would be in the pool.
        if self._pooled > BLOCK and self._pooled > 2 * POOL * self._size():
            self._trim()

    def record_all(self, scores: Tensor) -> None:
        """Take in the ``scores [N]`` of all rows: as :meth:`record`, but without sorting rows."""
        self._seen = 0
        for block in blocks(len(self._scores)):
            held, given = self._scores[block], scores[block].to(self._scores.dtype)
            held.copy_(torch.where((held != torch.inf) & given.isfinite(), given, held))
            self._seen += int(held.isfinite().count_nonzero())
        self._scan(POOL * self._size())

    def select(self) -> None:
        """Set ``rows`` to the top ``fraction`` of the rows seen so far, the best first.

        Without any seen row ``rows`` stays as it is.
        """
        if self._seen == 0:
            return
        size, pool = self._size(), self.candidates
        if int((self._scores[pool] >= self._floor).sum()) < size:
            self.scans += 1
            self._scan(POOL * size)
        elif len(pool) > 2 * POOL * size:
            self._trim()
        pool = self.candidates
        self._rows = pool[self._scores[pool].topk(size).indices]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state; ``4 N`` bytes for the scores and 8 for each pooled row."""
        return {
            "scores": self._scores.clone(),
            "seen": self._seen,
            "floor": self._floor,
            "pool": self.candidates.clone(),
            "rows": None if self._rows is None else self._rows.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`."""
        self._scores.copy_(state["scores"])
        self._seen, self._floor = state["seen"], state["floor"]
        self._rows = None if state["rows"] is None else state["rows"].clone()
        self._in_pool.zero_()
        self._set_pool(state["pool"].clone())

    def _size(self) -> int:
        """Return how many rows a selection has."""
        return max(1, round(self.fraction * self._seen))

    def _scan(self, size: int) -> None:
        """Make the best ``size`` of all seen rows the pool."""
        self._in_pool.zero_()
        best, floor = torch.empty(0, dtype=torch.int64), -torch.inf
        for block in blocks(len(self._scores)):
            scores = self._scores[block]
            rows = (scores.isfinite() & (scores >= floor)).nonzero().squeeze(1) + block.start
            best = torch.cat([best, rows])
            if len(best) > size:
                best, floor = self._best(best, size)
        best, self._floor = self._best(best, size)
        self._set_pool(best)

    def _trim(self) -> None:
        """Cut the pool back to its best rows."""
        pool = self.candidates
        best, floor = self._best(pool, POOL * self._size())
        # Rows outside of the pool may be as good as the old floor: if some of the best are below
        # it, the new floor must not be.
        self._floor = max(self._floor, floor)
        self._in_pool[pool] = False
        self._set_pool(best)

    def _set_pool(self, rows: Tensor) -> None:
        self._pool, self._pooled = [rows], len(rows)
        self._in_pool[rows] = True

    def _best(self, rows: Tensor, size: int) -> tuple[Tensor, float]:
        """Return the best ``size`` of ``rows``, the best first, and the score of the last."""
        best = self._scores[rows].topk(min(size, len(rows)))
        return rows[best.indices], float(best.values[-1]) if len(rows) else -torch.inf


def distinct(rows: Tensor) -> Tensor:
    """Return the values of ``rows [n]`` in ascending order, each once."""
    ordered = rows.sort().values
    # The first row equals itself: True, or nothing where there are no rows.
    return ordered[torch.cat([ordered[:1] == ordered[:1], ordered[1:] != ordered[:-1]])]
