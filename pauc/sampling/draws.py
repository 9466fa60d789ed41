"""The random streams of :class:`pauc.BandSampler`: a permutation without end, and free draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pauc.sampling.labels import BatchParts
from pauc.sampling.row_set import RowSet, positives_of, row_dtype


class Drawable(Protocol):
    """Rows that can be drawn from by their rank."""

    def __len__(self) -> int: ...
    def at(self, ranks: Tensor) -> Tensor: ...


def draw_among(sets: Sequence[Drawable], of: Tensor, uniform: Tensor) -> Tensor:
    """Return ``[n]`` int64: a row of each of the ``sets`` that ``of [n]`` names.

    ``uniform [n]``, float64 in [0, 1), says which row of its set it is.
    """
    rows = torch.empty(len(of), dtype=torch.int64)
    for k in sorted(set(of.tolist())):
        places = (of == k).nonzero().squeeze(1)
        rows[places] = sets[k].at((uniform[places] * len(sets[k])).long())
    return rows


def in_turn(turn: int, count: int, n_classes: int) -> Tensor:
    """Return ``[count]`` int64: whose turn it is among the classes, from ``turn`` on."""
    return (turn + torch.arange(count)) % n_classes


class Draws:
    """Draws rows from those that are present: each in turn, the positives, or any given ones.

    What changes from call to call is two generators, the position in the permutation and whose turn
    it is among the classes. :meth:`state_dict` holds all of it; global generators are not used.

    Args:
        labels: ``[N]`` or ``[N, C]``, -1 where a row or an entry is absent.
        num_classes: 1 is binary: the rows with label 1 are the positives. Otherwise, of labels
            ``[N]``, every present row is a positive of its own class.
        seed: of both generators, at least 0.

    Attributes:
        n_rows, n_positives: how many rows there are to draw from; a row that is a positive of
            several labels counts for each.
        n_classes, smallest_class: how many classes have positives, and how many of them the class
            with the fewest has.
    """

    def __init__(self, labels: Tensor, num_classes: int, seed: int) -> None:
        present = labels >= 0
        self._given = len(labels)
        self._rows = RowSet(present.any(dim=1) if labels.ndim == 2 else present)
        self._positives = positives_of(labels, num_classes)
        self.n_rows, self.n_positives = len(self._rows), len(self._positives.rows)
        self.n_classes = len(self._positives.sizes)
        self.smallest_class = int(self._positives.sizes.min()) if self.n_classes else 0

        self._free = torch.Generator().manual_seed(seed)
        # The permutation has a generator of its own: a state dict then holds this generator's state
        # before the shuffle, and not the N indices. Its seed is drawn from the other generator, so
        # that the streams of no two samplers with neighbouring seeds are the same.
        second_seed = int(torch.randint(2**62, (), generator=self._free))
        self._shuffles = torch.Generator().manual_seed(second_seed)
        self._shuffle()
        self._turn = self._hard_turn = 0  # drawn so far, modulo the classes

    def check_parts(self, parts: BatchParts, any_hard: bool) -> None:
        """Raise if there are no rows from which a part of a batch could be drawn."""
        if self.n_rows == 0:
            raise ValueError(f"targets must have a row that is not ignored, got {self._given} rows")
        if parts.positive > 0 and self.n_positives == 0:
            raise ValueError("targets must have a positive where positive_share is not 0, got none")
        if parts.hard > 0 and not any_hard:
            raise ValueError(
                "targets must have a negative where iid_share + positive_share < 1, got none"
            )

    def positive_rate(self, parts: BatchParts) -> float:
        """Return the expected share of positives of the rarest class in a batch of these parts."""
        among_iid = parts.iid * self.smallest_class / self.n_rows
        return (among_iid + parts.positive / max(self.n_classes, 1)) / sum(parts)

    def iid(self, count: int) -> Tensor:
        """Return the next ``[count]`` rows of the permutation; where it ends, a new one begins."""
        parts = [torch.empty(0, dtype=torch.int64)]
        while count > 0:
            if self._position == self.n_rows:
                self._shuffle()
            part = self._permutation[self._position : self._position + count]
            self._position += len(part)
            count -= len(part)
            parts.append(self._rows.at(part))
        return torch.cat(parts)

    def positives(self, count: int) -> Tensor:
        """Return ``[count]`` positives, drawn with replacement from one class after another.

        Over all calls together, the numbers drawn from two classes differ by at most one.
        """
        if count == 0:
            return torch.empty(0, dtype=torch.int64)
        of = in_turn(self._turn, count, self.n_classes)
        self._turn = (self._turn + count) % self.n_classes
        return self._positives.draw(of, self._uniform(count))

    def among(self, sets: Sequence[Drawable], count: int) -> Tensor:
        """Return ``[count]`` rows, with replacement, from one of the ``sets`` after another."""
        if count == 0:
            return torch.empty(0, dtype=torch.int64)
        of = in_turn(self._hard_turn, count, len(sets))
        self._hard_turn = (self._hard_turn + count) % len(sets)
        return draw_among(sets, of, self._uniform(count))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state; its size does not depend on the number of rows."""
        return {
            "free": self._free.get_state(),
            "shuffles": self._shuffle_state.clone(),
            "position": self._position,
            "turn": self._turn,
            "hard_turn": self._hard_turn,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`state_dict` of an instance with the same rows."""
        self._free.set_state(state["free"])
        self._shuffles.set_state(state["shuffles"])
        self._shuffle()
        self._position = state["position"]
        self._turn, self._hard_turn = state["turn"], state["hard_turn"]

    def _shuffle(self) -> None:
        """Begin a new permutation, and keep the generator's state from before it."""
        self._shuffle_state = self._shuffles.get_state()
        dtype = row_dtype(self.n_rows)
        self._permutation = torch.randperm(self.n_rows, generator=self._shuffles, dtype=dtype)
        self._position = 0

    def _uniform(self, count: int) -> Tensor:
        """Return ``[count]`` float64 in [0, 1)."""
        # Not `randint`: how many random numbers it uses up may depend on the size. Ranks whose hard
        # sets differ in size would from then on draw different positives, too.
        return torch.rand(count, generator=self._free, dtype=torch.float64)
