"""The batches that a sampler has handed out, so that those not trained on can be taken back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pauc.checks import check_int


class HandedOut:
    """Counts the batches of an epoch, and remembers the last ones.

    Args:
        num_batches: of an epoch.
        max_prefetch: how many batches can be taken back.
    """

    def __init__(self, num_batches: int, max_prefetch: int) -> None:
        self.num_batches = num_batches
        self.in_epoch = 0  # batches of the running epoch that were handed out
        self.handed = 0  # batches that the running `iter` handed out; 0 after a resume
        # Batches of all ranks, `[world_size, batch_size]` each: the last ones that were handed out,
        # and those that were drawn before a resume but not trained on.
        self._log: deque[Tensor] = deque(maxlen=max_prefetch)
        self._replay: deque[Tensor] = deque()

    def begin(self) -> bool:
        """Begin an epoch, unless a resumed one has to go on; return whether a whole one is over."""
        # Only if a batch was handed out, since a DataLoader with workers calls `iter` twice.
        if self.handed == 0:
            return False
        is_over = self.in_epoch >= self.num_batches
        self.in_epoch = self.handed = 0
        return is_over

    def batches(self, draw: Callable[[], Tensor]) -> Iterator[Tensor]:
        """Yield the rest of the epoch: what was drawn before a resume, then what ``draw`` gives."""
        while self.in_epoch < self.num_batches:
            batch = self._replay.popleft() if self._replay else draw()
            self._log.append(batch)
            self.handed += 1
            self.in_epoch += 1
            yield batch

    def state_dict(self, consumed: int | None) -> dict[str, int | Tensor]:
        """Return the state in which only ``consumed`` batches of this iteration were handed out."""
        if consumed is None and self.handed > 0:
            raise ValueError(
                f"consumed must be given: {self.handed} batches were drawn since iter(), and with "
                "workers training has taken fewer. Cure: state_dict(consumed=...), or a "
                "BandLoader, whose state_dict counts by itself (instead of a StatefulDataLoader)"
            )
        ahead = 0 if consumed is None else self._ahead(consumed)
        drawn = list(self._log)
        unused = [*drawn[len(drawn) - ahead :], *self._replay]
        stacked = torch.stack(unused) if unused else torch.empty(0, dtype=torch.int64)
        return {"in_epoch": self.in_epoch - ahead, "unused": stacked}

    def load_state_dict(self, state: dict[str, int | Tensor]) -> None:
        """Take over a state from :meth:`state_dict`."""
        self.in_epoch = int(state["in_epoch"]) % self.num_batches
        self._replay = deque(torch.as_tensor(state["unused"]))
        self.handed = 0

    def _ahead(self, consumed: int) -> int:
        """Return how many of the drawn batches are not among the ``consumed`` ones."""
        check_int("consumed", consumed, 0)
        ahead = self.handed - consumed
        if ahead < 0:
            raise ValueError(
                f"consumed must be at most the {self.handed} batches drawn in this iteration "
                f"(it counts from the last iter(), not from the first epoch), got {consumed}"
            )
        if ahead > len(self._log):
            raise ValueError(
                f"consumed={consumed} of {self.handed} drawn batches leaves {ahead} to take back, "
                f"and only the last {len(self._log)} are known. Cure: max_prefetch={ahead} or more"
            )
        return ahead
