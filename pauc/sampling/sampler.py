"""A batch sampler that adds positives and hard negatives and says which rows are still iid."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from pauc._public import public
from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_int, check_real, check_targets
from pauc.sampling.draws import Draws
from pauc.sampling.hard_set import HardSet


@public
class BandSampler(Sampler[list[int]]):
    """Batches of iid rows, then positives, then hard negatives; ``iid_mask`` tells them apart.

    At a low budget few rows of an iid batch are positives or in the band, so most of it teaches
    nothing. Rows that are added by class or score make it dense, but are no sample of the
    population: pass ``iid_mask``, and the loss takes the band's edges from the iid rows alone::

        sampler = BandSampler(targets, 1024)
        rows = torch.arange(len(targets))
        loader = DataLoader(TensorDataset(features, targets, rows), batch_sampler=sampler)
        for epoch in range(epochs):
            for x, y, rows in loader:
                logits = model(x)
                loss_fn(logits, y, iid_mask=sampler.iid_mask.to(y.device)).backward()
                ...
                sampler.update(rows, logits)
            sampler.refresh()

    The data set yields each row's index for ``update`` only; a data set that does not can do with
    ``refresh(scores_of_all_rows)`` now and then. If the data set can be indexed by a list, as
    ``TensorDataset`` can, ``DataLoader(data, sampler=sampler, batch_size=None)`` loads faster.

    A batch begins with ``round(batch_size * iid_share)`` iid rows, in the order of a permutation of
    the data set. Where that is used up, in the middle of a batch too, a new permutation begins, so
    that each row comes equally often. Then come the positives, drawn with replacement and evenly
    over the classes that have rows. The rest are drawn with replacement from the hard negatives:
    the top ``hard_fraction`` of the negatives seen so far, by last seen score; before the first
    ``refresh``, all negatives. A row can thus be in a batch more than once. Rows whose target is
    ``ignore_index`` are never drawn.

    With several ranks, each makes the same draws from the same ``seed``, for a batch of
    ``world_size * batch_size`` rows, and takes its own part: together the ranks hold the rows that
    a single one with that batch size would, and no iid row twice in a pass. The hard set is the
    same on all ranks if all record the same scores (gather them before ``update``). Where each rank
    records only its own scores, each draws hard negatives from a hard set of its own; iid rows and
    positives are not affected.

    Args:
        targets: ``[N]`` or ``[N, 1]``, class indices (binary: 0 or 1) or ``ignore_index``; a
            tensor, an array, a column of a data frame or a list. Rows are counted by position: the
            index of a pandas column plays no part.
        batch_size: rows of a batch, on each rank.
        num_classes: 1 is binary. Otherwise one against the rest: a row is a negative of every class
            but its own, and how hard it is its highest logit among those classes says.
        iid_share: share of iid rows in a batch, in (0, 1]. The band's edges are taken from these
            rows alone, and the fewer they are, the noisier the edges.
        positive_share: share of added positives, in [0, 1]. What the two shares leave are hard
            negatives.
        hard_fraction: share of the seen negatives that are hard, in (0, 1].
        num_batches: batches of an epoch. None: as many as bring each row once among the iid rows,
            ``1 / iid_share`` times the number of plain batches.
        seed: of the sampler's own generators; global ones are neither read nor changed.
        rank, world_size: of this process, and the number of processes.
        ignore_index: target of rows to leave out.
        max_prefetch: how many drawn batches :meth:`state_dict` can take back; at least the
            loader's ``num_workers * prefetch_factor``.

    Attributes:
        iid_mask: ``[batch_size]`` bool on the CPU, for every batch.
        iid_share: share of iid rows in a batch, after rounding to whole rows.
        positive_rate: share of positives in a batch on average; with several classes, of positives
            of the rarest, without those that are drawn as hard negatives of other classes.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """

    def __init__(
        self,
        targets: ArrayLike,
        batch_size: int,
        *,
        num_classes: int = 1,
        iid_share: float = 0.5,
        positive_share: float = 0.25,
        hard_fraction: float = 0.05,
        num_batches: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        ignore_index: int = -100,
        max_prefetch: int = 64,
    ) -> None:
        counts = {"batch_size": batch_size, "num_classes": num_classes, "world_size": world_size}
        for name, value in {**counts, "max_prefetch": max_prefetch}.items():
            check_int(name, value, 1)
        _check_ranks(rank, world_size)
        _check_shares(iid_share, positive_share, hard_fraction)
        check_int("seed", seed, 0)
        self._targets = _as_targets(targets, num_classes, ignore_index)
        self.batch_size, self.num_classes = batch_size, num_classes
        self.rank, self.world_size = rank, world_size
        self._n_iid = round(batch_size * iid_share)
        # The sum is rounded, and not the second share: where the shares add up to 1, rounding both
        # could leave a place for a hard negative.
        self._n_positive = round(batch_size * (iid_share + positive_share)) - self._n_iid
        # The layout of a batch never changes, and neither workers nor collation reorder rows: one
        # constant mask is right for every batch, however many batches a loader draws ahead.
        self.iid_mask = torch.arange(batch_size) < self._n_iid
        self.iid_share = self._n_iid / batch_size

        present = self._targets != ignore_index
        self._draws = Draws(self._targets, present, num_classes, seed)
        negative = present & (self._targets == 0) if num_classes == 1 else present
        self.positive_rate = self._positive_rate()
        self._hard = HardSet(negative, hard_fraction)
        self._check_parts(iid_share)
        if num_batches is None:
            num_batches = math.ceil(self._draws.n_rows / (self._n_iid * world_size))
        check_int("num_batches", num_batches, 1)
        self.num_batches = num_batches

        self._in_epoch = 0  # batches of the running epoch that were handed out
        self._handed = 0  # batches that the running `iter` handed out; 0 after a resume
        # Batches of all ranks, `[world_size, batch_size]` each: the last ones that were handed out,
        # and those that were drawn before a resume but not trained on.
        self._log: deque[Tensor] = deque(maxlen=max_prefetch)
        self._replay: deque[Tensor] = deque()

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """Start an epoch; the first after :meth:`load_state_dict` goes on with the saved one."""
        # Here, and not in the generator, which does nothing before its first batch is asked for: a
        # `state_dict` taken before that would still count the old epoch. Only if a batch was handed
        # out, since a DataLoader with workers calls `iter` twice, and a resumed epoch must go on.
        if self._handed > 0:
            self._in_epoch = self._handed = 0
        return self._batches()

    @property
    def hard_rows(self) -> Tensor:
        """The rows ``[K]`` int64 that hard negatives are drawn from, the highest score first."""
        return self._hard.rows.clone()

    @property
    def candidates(self) -> Tensor:
        """The rows ``[K]`` int64 that are worth a new score before a refresh.

        They are the hard set and a few times as many rows that came next to it. In place of an
        ``update`` in each step, ``sampler.update(rows, model(features[rows]))`` for these rows and
        then ``refresh()`` keep the hard set current, at a cost of O(hard set).
        """
        return self._hard.candidates.clone()

    def update(self, indices: ArrayLike, scores: ArrayLike) -> None:
        """Record the scores of rows, as a training step has seen them; O(n).

        The hard set stays as it is until :meth:`refresh`. Scores on another device are copied to
        the host, which waits for them.

        Args:
            indices: ``[n]`` int, rows of ``targets``. Of a row that is given twice the higher
                score counts.
            scores: ``[n, num_classes]`` or, binary, ``[n]``: the logits, any floating dtype.
                Non-finite ones are dropped.

        Raises:
            ValueError: shapes that do not fit, or an index out of range.
        """
        indices = as_tensor(indices, "indices").cpu().reshape(-1).long()
        scores = self._as_scores(scores, len(indices))
        n_rows = len(self._targets)
        if bool(((indices < 0) | (indices >= n_rows)).any()):
            extremes = f"{int(indices.min())} to {int(indices.max())}"
            raise ValueError(f"indices must be in 0..{n_rows - 1}, got {extremes}")
        self._hard.record(indices, self._hardness(self._targets[indices], scores))

    def refresh(self, scores: ArrayLike = None) -> None:
        """Select the hard set anew; batches drawn from here on use it, prefetched ones do not.

        Args:
            scores: ``[N, num_classes]`` or, binary, ``[N]``: scores of all rows, which are recorded
                first; O(N). None: the selection is by the recorded scores, at a cost of O(hard
                set), and now and then, when most of the candidates have fallen behind, by a scan of
                all N. The selection is exact either way.

        Raises:
            ValueError: shapes that do not fit.
        """
        if scores is not None:
            scores = self._as_scores(scores, len(self._targets))
            self._hard.record_all(self._hardness(self._targets, scores))
        self._hard.select()

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return the state, from which another sampler goes on with exactly the same batches.

        It is the same on every rank that has recorded the same scores.

        Args:
            consumed: batches that training has taken from the running ``iter(loader)``: ``i`` in
                ``for i, batch in enumerate(loader, start=1)``. Workers prefetch: without it,
                batches drawn but not yet trained on would be lost. A loader with
                ``in_order=False`` cannot tell which these are. None: all that were drawn.

        Raises:
            TypeError: ``consumed`` is no integer.
            ValueError: it is below 0 or above the number of drawn batches, or leaves more of these
                to take back than are remembered (see ``max_prefetch``).
        """
        ahead = 0 if consumed is None else self._ahead(consumed)
        drawn = list(self._log)
        unused = [*drawn[len(drawn) - ahead :], *self._replay]
        return {
            "layout": self._layout(),
            "draws": self._draws.state_dict(),
            "in_epoch": self._in_epoch - ahead,
            "unused": torch.stack(unused) if unused else torch.empty(0, dtype=torch.int64),
            "hard": self._hard.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; the next ``iter`` yields the rest of the epoch that was in progress.

        If that epoch was complete, ``iter`` starts the next one.

        Raises:
            ValueError: a state of a sampler with other rows, shares or batch sizes.
        """
        ours, theirs = self._layout(), state_dict["layout"]
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"state_dict is of another sampler: its {name} is {theirs.get(name)!r}, "
                    f"this BandSampler's is {value!r}"
                )
        self._draws.load_state_dict(state_dict["draws"])
        self._in_epoch = state_dict["in_epoch"] % self.num_batches
        self._hard.load_state_dict(state_dict["hard"])
        self._replay = deque(state_dict["unused"])
        self._handed = 0

    def _batches(self) -> Iterator[list[int]]:
        """Yield the rest of the epoch, this rank's part of each batch."""
        while self._in_epoch < self.num_batches:
            batch = self._replay.popleft() if self._replay else self._draw()
            self._log.append(batch)
            self._handed += 1
            self._in_epoch += 1
            yield batch[self.rank].tolist()

    def _draw(self) -> Tensor:
        """Return the next batch of every rank, ``[world_size, batch_size]``."""
        n_hard = self.batch_size - self._n_iid - self._n_positive
        parts = (
            self._draws.iid(self.world_size * self._n_iid),
            self._draws.positives(self.world_size * self._n_positive),
            self._draws.among(self._hard.rows, self.world_size * n_hard),
        )
        return torch.cat([part.view(self.world_size, -1) for part in parts], dim=1)

    def _as_scores(self, scores: ArrayLike, n_rows: int) -> Tensor:
        """Return the scores as ``[n_rows, num_classes]`` on the CPU."""
        found = as_tensor(scores, "scores").cpu()
        if found.dim() == 1 and self.num_classes == 1:
            found = found.unsqueeze(1)
        if found.shape != (n_rows, self.num_classes):
            raise ValueError(
                f"scores must be [{n_rows}, {self.num_classes}], one row for each index, "
                f"got {list(found.shape)}"
            )
        return found

    def _hardness(self, targets: Tensor, scores: Tensor) -> Tensor:
        """Return ``[n]``: each row's highest score among the classes of which it is a negative."""
        if self.num_classes == 1:
            return scores[:, 0]
        own = targets.clamp(0, self.num_classes - 1).unsqueeze(1)
        return scores.scatter(1, own, -torch.inf).amax(1)

    def _positive_rate(self) -> float:
        """Return the expected share of a batch, as the attribute ``positive_rate`` says."""
        share = self._draws.smallest_class / max(self._draws.n_rows, 1)
        added = self._n_positive / max(self._draws.n_classes, 1)
        return (self._n_iid * share + added) / self.batch_size

    def _ahead(self, consumed: int) -> int:
        """Return how many of the drawn batches are not among the ``consumed`` ones."""
        check_int("consumed", consumed, 0)
        ahead = self._handed - consumed
        if ahead < 0:
            raise ValueError(
                f"consumed must be at most the {self._handed} batches drawn in this iteration "
                f"(it counts from the last iter(), not from the first epoch), got {consumed}"
            )
        if ahead > len(self._log):
            raise ValueError(
                f"consumed={consumed} of {self._handed} drawn batches leaves {ahead} to take back, "
                f"and only the last {len(self._log)} are known. Cure: max_prefetch={ahead} or more"
            )
        return ahead

    def _layout(self) -> dict[str, int]:
        """Return the numbers that must be equal for one sampler to take over another's state."""
        return {
            "number of rows": len(self._targets),
            "number of drawable rows": self._draws.n_rows,
            "num_classes": self.num_classes,
            "world_size": self.world_size,
            "batch_size": self.batch_size,
            "number of iid rows": self._n_iid,
            "number of positives": self._n_positive,
            "num_batches": self.num_batches,
        }

    def _check_parts(self, iid_share: float) -> None:
        """Raise if there are no rows from which a part of the batch could be drawn."""
        if self._n_iid == 0:
            raise ValueError(
                f"iid_share must give at least one row of batch_size={self.batch_size}, "
                f"got {iid_share}"
            )
        if self._draws.n_rows == 0:
            raise ValueError(
                f"targets must have a row that is not ignored, got {len(self._targets)} rows"
            )
        if self._n_positive > 0 and self._draws.n_positives == 0:
            raise ValueError("targets must have a positive where positive_share is not 0, got none")
        needs_hard = self._n_iid + self._n_positive < self.batch_size
        if needs_hard and len(self._hard.rows) == 0:
            raise ValueError(
                "targets must have a negative where iid_share + positive_share < 1, got none"
            )


def _as_targets(targets: ArrayLike, num_classes: int, ignore_index: int) -> Tensor:
    """Return the checked targets, ``[N]`` int64 on the CPU."""
    check_int("ignore_index", ignore_index)
    found = as_tensor(targets, "targets").cpu()
    if found.dim() == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.dim() != 1:
        raise ValueError(f"targets must be [N] or [N, 1], got {list(found.shape)}")
    check_targets(found, num_classes, ignore_index)
    return found.long()


def _check_ranks(rank: int, world_size: int) -> None:
    """Raise unless ``rank`` is in ``0..world_size - 1``."""
    check_int("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank must be below world_size={world_size}, got {rank}")


def _check_shares(iid_share: float, positive_share: float, hard_fraction: float) -> None:
    """Raise unless the shares are in their ranges and the first two sum to at most 1."""
    shares = {"iid_share": iid_share, "positive_share": positive_share}
    for name, value in {**shares, "hard_fraction": hard_fraction}.items():
        check_real(name, value)
        zero_is_fine = name == "positive_share"
        if not 0 <= value <= 1 or (value == 0 and not zero_is_fine):
            expected = "[0, 1]" if zero_is_fine else "(0, 1]"
            raise ValueError(f"{name} must be in {expected}, got {value!r}")
    if iid_share + positive_share > 1 + 1e-9:  # two shares that make 1 may round above it
        raise ValueError(
            "iid_share and positive_share must sum to at most 1, "
            f"got {iid_share} + {positive_share}"
        )
