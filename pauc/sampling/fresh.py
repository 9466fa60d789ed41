"""The fresh rows of a stream: read from its source item by item, handed out in any number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from pauc.sampling.labels import as_labels, group_ranks
from pauc.sampling.reservoirs import Columns, columns_of, join, like, pick


class FreshRows:
    """Reads a source pass by pass, and holds the rows that were read but not taken.

    Args:
        source: yields rows, or batches if ``batched``.
        target: where the targets of a batch are, an index or a key.
        shard: whether each rank takes only every ``world_size``-th item.
        ignore_index: target of rows to leave out.
    """

    def __init__(
        self,
        source: Iterable[Any],
        *,
        batched: bool,
        target: int | str,
        shard: bool | None,
        ignore_index: int,
    ) -> None:
        self._source, self._batched = source, batched
        self._target, self._shard, self._ignore_index = target, shard, ignore_index
        self._pass: Iterator[Any] | None = None
        self._items = 0  # that were read in this pass
        self._ended = False  # nothing more comes before `begin`
        self._example: Any = None  # a batch without rows, for the way it is put together
        self._held: list[tuple[Tensor, Columns]] = []
        self._n_held = 0

    def begin(self) -> None:
        """Drop what is held, so that the next rows are the first of a new pass."""
        self._pass, self._held, self._n_held, self._ended = None, [], 0, False

    def take(self, count: int, again: bool) -> tuple[Tensor, Columns] | None:
        """Return labels ``[n]`` and columns of ``count`` rows, fewer where a pass ends.

        Args:
            count: at least 1.
            again: whether a new pass begins where one ends. Otherwise None is returned from there
                on, until :meth:`begin`.
        """
        self._fill(count, again)
        if self._n_held == 0:
            return None
        labels = torch.cat([part for part, _ in self._held])
        columns = join([part for _, part in self._held])
        rest = len(labels) - count
        self._held = [] if rest <= 0 else [(labels[count:], _rows(columns, slice(count, None)))]
        self._n_held = max(rest, 0)
        return labels[:count], _rows(columns, slice(count))

    def as_batch(self, columns: Columns) -> Any:
        """Return the columns as the source puts its batches together."""
        return like(self._example, columns)

    def state_dict(self) -> dict[str, Any]:
        """Return the state; with that of the source, if it has one."""
        stateful = hasattr(self._source, "state_dict")
        return {
            "source": self._source.state_dict() if stateful else None,  # type: ignore[attr-defined]
            "in_pass": self._pass is not None,
            "items": self._items,
            "example": self._example,
            "held": list(self._held),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; a source without one of its own is read up to where it was."""
        if state["source"] is not None:
            self._source.load_state_dict(state["source"])  # type: ignore[attr-defined]
        self._example, self._held = state["example"], list(state["held"])
        self._n_held = sum(len(labels) for labels, _ in self._held)
        self._pass, self._items, self._ended = None, 0, False
        if not state["in_pass"]:
            return
        if state["source"] is None:
            self._pass = self._new_pass(0)
            next(islice(self._pass, state["items"], state["items"]), None)
        else:
            self._pass = self._new_pass(state["items"])
        self._items = state["items"]

    def _fill(self, count: int, again: bool) -> None:
        """Read until ``count`` rows are held or the pass ends."""
        passes = 0
        while self._n_held < count and not self._ended:
            if self._pass is None:
                if passes > 1:
                    raise ValueError("source must yield rows whose target is not ignored, got none")
                self._pass, self._items = self._new_pass(0), 0
            batch = self._next(count - self._n_held)
            if batch is not None:
                passes = 0 if self._hold(batch) else passes
                continue
            self._pass, self._ended = None, not again
            passes += 1

    def _next(self, n_rows: int) -> Any:
        """Return the next batch of the source, or its next rows as one; None at the end."""
        assert self._pass is not None
        rows = list(islice(self._pass, 1 if self._batched else n_rows))
        self._items += len(rows)
        if not rows:
            return None
        return rows[0] if self._batched else default_collate(rows)

    def _hold(self, batch: Any) -> int:
        """Hold the rows of a batch whose target is not ignored; return how many these are."""
        columns = columns_of(batch)
        targets = batch if isinstance(batch, Tensor) else batch[self._target]
        labels = as_labels(targets, 1, False, self._ignore_index)
        if not bool((labels >= 0).all()):
            present = (labels >= 0).nonzero().squeeze(1)
            labels, columns = labels[present], pick(columns, present)
        self._example = like(batch, _rows(columns, slice(0)))
        self._held.append((labels, columns))
        self._n_held += len(labels)
        return len(labels)

    def _new_pass(self, items: int) -> Iterator[Any]:
        """Return an iterator over this rank's items; the source has given ``items`` already."""
        rank, world_size = group_ranks()
        if world_size > 1 and self._shard is None:
            raise RuntimeError(
                f"there are {world_size} ranks, and shard does not say who shares the source out. "
                "Cure: BandStream(..., shard=True) takes every item for one rank only; shard=False "
                "where the source gives each rank its own rows already"
            )
        if world_size == 1 or not self._shard:
            return iter(self._source)
        return islice(self._source, rank if items == 0 else world_size - 1, None, world_size)


def _rows(columns: Columns, rows: slice) -> Columns:
    return [column[rows] for column in columns]
