"""What a stream keeps of the rows that have gone by: some positives, and the hardest negatives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

# A batch as a list of its columns: a tensor whose first dimension is the rows, or a list.
Columns = list[Any]


def columns_of(batch: Any) -> Columns:
    """Return the columns of a batch: a tensor, or a tuple, list or dict of tensors and lists."""
    if isinstance(batch, Tensor):
        return [batch]
    if not isinstance(batch, (tuple, list, dict)):
        raise TypeError(
            f"a batch of the source must be a tensor, tuple, list or dict, got {type(batch)!r}"
        )
    return list(batch.values() if isinstance(batch, dict) else batch)


def like(batch: Any, columns: Columns) -> Any:
    """Return the columns put together as ``batch`` is."""
    if isinstance(batch, Tensor):
        return columns[0]
    if isinstance(batch, dict):
        return dict(zip(batch, columns, strict=True))
    return type(batch)(*columns) if hasattr(batch, "_fields") else type(batch)(columns)


def pick(columns: Columns, rows: Tensor) -> Columns:
    """Return the ``rows [n]`` of the columns."""
    places = rows.tolist() if any(not isinstance(column, Tensor) for column in columns) else []
    return [
        column[rows] if isinstance(column, Tensor) else [column[place] for place in places]
        for column in columns
    ]


def join(parts: Sequence[Columns]) -> Columns:
    """Return the parts one after another."""
    return [
        torch.cat(column) if isinstance(column[0], Tensor) else list(chain(*column))
        for column in map(list, zip(*parts, strict=True))
    ]


class Store:
    """Room for ``capacity`` rows, made when the first come."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: Columns | None = None

    def put(self, slots: Tensor, columns: Columns) -> None:
        """Write the rows of the columns to the ``slots [n]``, of which none is there twice."""
        if self.columns is None:
            self.columns = [self._room(column) for column in columns]
        for room, column in zip(self.columns, columns, strict=True):
            if isinstance(room, Tensor):
                room[slots] = column.to(room.dtype)
                continue
            for slot, value in zip(slots.tolist(), column, strict=True):
                room[slot] = value

    def take(self, slots: Tensor) -> Columns:
        """Return the rows of the ``slots [n]``, which hold some."""
        assert self.columns is not None
        return pick(self.columns, slots)

    def _room(self, column: Any) -> Any:
        if isinstance(column, Tensor):
            return torch.zeros((self.capacity, *column.shape[1:]), dtype=column.dtype)
        return [None] * self.capacity


class PositiveReservoir:
    """A uniform sample of all positives that have come: algorithm R (Vitter, 1985)."""

    def __init__(self, capacity: int) -> None:
        self.store, self.seen = Store(capacity), 0

    def __len__(self) -> int:
        return min(self.seen, self.store.capacity)

    def add(self, columns: Columns, uniform: Tensor) -> None:
        """Take in ``n`` positives; ``uniform [n]`` in [0, 1) decides which stay, and where."""
        arrival = self.seen + torch.arange(len(uniform))
        capacity = self.store.capacity
        slots = torch.where(arrival < capacity, arrival, (uniform * (arrival + 1)).long())
        self.seen += len(uniform)
        # Of two rows for one slot the later stays.
        last = {slot: row for row, slot in enumerate(slots.tolist()) if slot < capacity}
        if last:
            rows = torch.tensor(list(last.values()))
            self.store.put(torch.tensor(list(last)), pick(columns, rows))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "columns": _copy(self.store.columns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.store.columns = state["seen"], _copy(state["columns"])


class HardReservoir:
    """The negatives with the highest last seen scores, ``capacity`` of them at most.

    Args:
        capacity: of rows.
        fraction: share of the negatives seen so far that are hard; what exceeds the capacity is
            lost.
        max_age: a row is dropped when more than so many rows have come after it. None: never.
    """

    def __init__(self, capacity: int, fraction: float, max_age: int | None) -> None:
        self.store, self.fraction, self.max_age = Store(capacity), fraction, max_age
        self.seen = 0
        self.scores = torch.full((capacity,), -torch.inf, dtype=torch.float32)
        self.ids = torch.full((capacity,), -1)  # numbers of arrival; -1: an empty slot
        self.hard = torch.empty(0, dtype=torch.int64)  # slots to draw from

    def record(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Update the scores of the ``ids [n]`` that are here; return which are, ``[n]`` bool."""
        order = self.ids.argsort()
        place = torch.searchsorted(self.ids, ids, sorter=order).clamp(max=len(order) - 1)
        slots = order[place]
        here = self.ids[slots] == ids
        # Of a row that is given twice the higher score counts.
        self.scores[slots[here]] = -torch.inf
        self.scores.scatter_reduce_(0, slots[here], scores[here], "amax")
        return here

    def add(self, ids: Tensor, scores: Tensor, columns: Columns, rows: Tensor) -> None:
        """Let those of ``n`` new negatives enter that are harder than the easiest that are here.

        Args:
            ids, scores: ``[n]`` of the negatives.
            columns, rows: the negatives are the ``rows [n]`` of the columns.
        """
        self.seen += len(ids)
        # Once the reservoir is full few rows are harder than any that is here: these are put in
        # order, and not all.
        harder = (scores > self.scores.min()).nonzero().squeeze(-1)
        count = min(len(harder), len(self.scores))
        scores, best = scores[harder].topk(count)
        best = harder[best]
        easiest, slots = self.scores.topk(count, largest=False)
        enters = scores > easiest
        best, slots = best[enters], slots[enters]
        self.scores[slots], self.ids[slots] = scores[enters], ids[best]
        if len(best):
            self.store.put(slots, pick(columns, rows[best]))

    def select(self, newest: int) -> None:
        """Choose the slots to draw from, when ``newest`` is the number of the last arrival."""
        if self.max_age is not None:
            old = (self.ids >= 0) & (self.ids < newest - self.max_age)
            self.scores[old], self.ids[old] = -torch.inf, -1
        filled = int((self.ids >= 0).sum())
        size = min(filled, max(1, round(self.fraction * self.seen)))
        if size == len(self.ids):
            self.hard = torch.arange(size)
        else:
            self.hard = self.scores.topk(size).indices

    def state_dict(self) -> dict[str, Any]:
        arrays = {"scores": self.scores, "ids": self.ids, "hard": self.hard}
        return {
            "seen": self.seen,
            **{name: array.clone() for name, array in arrays.items()},
            "columns": _copy(self.store.columns),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.store.columns = state["seen"], _copy(state["columns"])
        self.scores, self.ids = state["scores"].clone(), state["ids"].clone()
        self.hard = state["hard"].clone()


def _copy(columns: Columns | None) -> Columns | None:
    """Return a copy of the columns, so that no state shares its rows with a reservoir."""
    if columns is None:
        return None
    return [column.clone() if isinstance(column, Tensor) else [*column] for column in columns]
