"""What a backend returns of a step, and what the public functions make of it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from pauc._public import public
from pauc.core.queue import QueueState


class Entry(Protocol):
    """The rows of a batch that are to enter a queue; each backend has its own kind."""

    def into(self, queue: QueueState, *, in_place: bool = False) -> QueueState:
        """Return the queue with the rows in it.

        ``in_place`` allows to write into the queue's own tensors, which the caller must own.
        """


class Outcome(NamedTuple):
    """What a step computes, before its rows enter the queue. ``C`` classes."""

    loss: Tensor  # [] or, with reduction="none", [C] with nan where invalid
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool, reference rows are there but have no dispersion
    ref_count: Tensor  # [C] int64, size of the reference set
    stats: dict[str, Tensor]  # [C] each; empty unless asked for
    entry: Entry


@public
class PAUCTerms(NamedTuple):
    """What a step computes. ``C`` classes."""

    loss: Tensor  # [] or, with reduction="none", [C] with nan where invalid
    per_class: Tensor  # [C], nan where invalid
    valid: Tensor  # [C] bool
    degenerate: Tensor  # [C] bool, reference rows are there but have no dispersion
    ref_count: Tensor  # [C] int64, size of the reference set
    stats: dict[str, Tensor]  # [C] each; empty unless asked for
    queue: QueueState  # after the step
