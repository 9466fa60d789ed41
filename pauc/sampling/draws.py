"""The random streams of :class:`pauc.BandSampler`: a permutation without end, and free draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Draws:
    """Draws rows from those that are ``present``: each in turn, the positives, or any given ones.

    What changes from call to call is two generators, the position in the permutation and whose turn
    it is among the classes. :meth:`state_dict` holds all of it; global generators are not used.

    Args:
        targets: ``[N]`` int64.
        present: ``[N]`` bool, the rows that may be drawn; at least one.
        num_classes: 1 is binary: the rows with target 1 are the positives. Otherwise every row is a
            positive, of its own class.
        seed: of both generators, at least 0.

    Attributes:
        n_rows, n_positives: how many rows there are to draw from.
        n_classes, smallest_class: how many classes have positives, and how many of them the class
            with the fewest has.
    """

    def __init__(self, targets: Tensor, present: Tensor, num_classes: int, seed: int) -> None:
        self._rows = present.nonzero().squeeze(1)
        positive = present & (targets == 1) if num_classes == 1 else present
        rows = positive.nonzero().squeeze(1)
        self._by_class = rows[targets[rows].argsort(stable=True)]
        sizes = torch.bincount(targets[rows])
        self._sizes = sizes[sizes > 0]  # positives of each class that has some
        self._starts = self._sizes.cumsum(0) - self._sizes
        self.n_rows, self.n_positives = len(self._rows), len(rows)
        self.n_classes = len(self._sizes)
        self.smallest_class = int(self._sizes.min()) if self.n_classes else 0

        self._free = torch.Generator().manual_seed(seed)
        # The permutation has a generator of its own: a state dict then holds this generator's state
        # before the shuffle, and not the N indices. Its seed is drawn from the other generator, so
        # that the streams of no two samplers with neighbouring seeds are the same.
        second_seed = int(torch.randint(2**62, (), generator=self._free))
        self._shuffles = torch.Generator().manual_seed(second_seed)
        self._shuffle()
        self._turn = 0  # positives drawn so far, modulo the classes

    def iid(self, count: int) -> Tensor:
        """Return the next ``[count]`` rows of the permutation; where it ends, a new one begins."""
        parts = [self._rows[:0]]
        while count > 0:
            if self._position == self.n_rows:
                self._shuffle()
            part = self._permutation[self._position : self._position + count]
            self._position += len(part)
            count -= len(part)
            parts.append(part)
        return torch.cat(parts)

    def positives(self, count: int) -> Tensor:
        """Return ``[count]`` positives, drawn with replacement from one class after another.

        Over all calls together, the numbers drawn from two classes differ by at most one.
        """
        if count == 0:
            return self._rows[:0]
        turns = (self._turn + torch.arange(count)) % len(self._sizes)
        self._turn = (self._turn + count) % len(self._sizes)
        return self._by_class[self._starts[turns] + self._below(self._sizes[turns], count)]

    def among(self, rows: Tensor, count: int) -> Tensor:
        """Return ``[count]`` of the ``rows [K]``, with replacement."""
        return rows[self._below(len(rows), count)]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state; its size does not depend on the number of rows."""
        return {
            "free": self._free.get_state(),
            "shuffles": self._shuffle_state.clone(),
            "position": self._position,
            "turn": self._turn,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state from :meth:`state_dict` of an instance with the same rows."""
        self._free.set_state(state["free"])
        self._shuffles.set_state(state["shuffles"])
        self._shuffle()
        self._position, self._turn = state["position"], state["turn"]

    def _shuffle(self) -> None:
        """Begin a new permutation, and keep the generator's state from before it."""
        self._shuffle_state = self._shuffles.get_state()
        order = torch.randperm(self.n_rows, generator=self._shuffles)
        self._permutation, self._position = self._rows[order], 0

    def _below(self, sizes: Tensor | int, count: int) -> Tensor:
        """Return ``[count]`` whole numbers, each from 0 up to its size, the size excluded."""
        # Not `randint`: how many random numbers it uses up may depend on the size. Ranks whose hard
        # sets differ in size would from then on draw different positives, too.
        uniform = torch.rand(count, generator=self._free, dtype=torch.float64)
        return (uniform * sizes).long()
