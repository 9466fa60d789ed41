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

    The data set yields each row's index for ``update`` only; without it, call
    ``refresh(scores_of_all_rows)`` now and then. One that takes a list of indices, as
    ``TensorDataset`` does, loads faster as ``DataLoader(data, sampler=sampler, batch_size=None)``.

    A batch has ``round(batch_size * iid_share)`` iid rows, in the order of a permutation of the
    data set (a new one when it is used up, within a batch too, so that each row comes equally
    often); then the positives, with replacement, evenly over the classes that have rows; the rest
    are drawn with replacement from the hard negatives: the top ``hard_fraction`` of the negatives
    seen so far by last seen score, all negatives before the first ``refresh``. A row can thus be
    in a batch more than once. Rows whose target is ``ignore_index`` are never drawn.

    With several ranks, each makes the same draws from the same ``seed`` and takes its own columns
    of a batch of ``world_size * batch_size`` rows: together they hold the rows that one rank with
    that batch size would, no iid row twice in a pass. Hard negatives are the same everywhere if
    every rank gets the same scores (gather them before ``update``); where ranks record only their
    own, each draws from its own hard set, and the other parts are as before.

    Args:
        targets: ``[N]`` or ``[N, 1]``, class indices (binary: 0 or 1) or ``ignore_index``; a
            tensor or what :func:`torch.as_tensor` takes.
        batch_size: rows of a batch, of each rank.
        num_classes: 1 is binary. Otherwise one against the rest: every row is a negative of the
            other classes, and its score for hardness is its highest logit among these.
        iid_share: above 0. The edges come from these rows; fewer make them noisier.
        positive_share: at least 0; what the two shares leave are hard negatives.
        hard_fraction: in (0, 1].
        num_batches: of an epoch. None: until the iid rows have gone through the data set once,
            ``1 / iid_share`` times as many as plain batches would need.
        seed: of the sampler's own generators; global ones are neither read nor changed.
        rank, world_size: of this process, and the number of processes.
        ignore_index: target of rows to leave out.
        max_prefetch: batches of which :meth:`state_dict` can take back the draw; at least
            ``num_workers * prefetch_factor``.

    Attributes:
        iid_mask: ``[batch_size]`` bool on the CPU, for every batch.
        iid_share: of the rows of a batch, after rounding.
        positive_rate: share of positives that a batch has on average, not counting those of other
            classes that are drawn as hard negatives; with several classes, that of the rarest.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """

    def __init__(
        self,
        targets: Tensor,
        batch_size: int,
        *,
        num_classes: int = 1,
        iid_share: float = 0.5,
        positive_share: float = 0.25,
        hard_fraction: float = 0.02,
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
        # Rounding the sum leaves no hard row by accident where the shares add up to 1.
        self._n_positive = round(batch_size * (iid_share + positive_share)) - self._n_iid
        # A batch's layout never changes, and neither workers nor collation reorder rows. So one
        # constant mask is right for each batch, however many were prefetched meanwhile.
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

        self._in_epoch = 0
        self._handed = 0  # batches of the running iteration
        self._log: deque[Tensor] = deque(maxlen=max_prefetch)  # the last ones drawn, of all ranks
        self._replay: deque[Tensor] = deque()  # drawn before a resume, not yet trained on

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """Start an epoch; the first after :meth:`load_state_dict` goes on with the saved one."""
        # Done here and not in the generator, whose body waits for the first batch: `state_dict` may
        # come earlier. And only after a batch: a DataLoader with workers calls `iter` twice.
        if self._handed > 0:
            self._in_epoch = self._handed = 0
        return self._batches()

    @property
    def hard_rows(self) -> Tensor:
        """The rows ``[K]`` that hard negatives are drawn from, the highest score first."""
        return self._hard.rows.clone()

    @property
    def candidates(self) -> Tensor:
        """Rows worth scoring anew before a refresh, a few times the hard set and its next ones too.

        ``sampler.update(rows, model(features[rows]))`` for these, then ``refresh()``, keeps hard
        rows current at O(hard set) where ``update`` in each step is not wanted.
        """
        return self._hard.candidates.clone()

    def update(self, indices: Tensor, scores: Tensor) -> None:
        """Record the scores of rows, as a training step has seen them; O(n).

        The hard set stays as it is until :meth:`refresh`. Scores on another device are copied to
        the host, which waits for them.

        Args:
            indices: ``[n]`` int, rows of ``targets``. Of a row that comes twice the higher score
                counts.
            scores: ``[n, num_classes]`` or, binary, ``[n]``: the logits, any floating dtype.
                Non-finite ones are dropped.

        Raises:
            ValueError: shapes that do not fit, or an index out of range.
        """
        indices = torch.as_tensor(indices).cpu().reshape(-1).long()
        scores = self._as_scores(scores, len(indices))
        n_rows = len(self._targets)
        if bool(((indices < 0) | (indices >= n_rows)).any()):
            extremes = f"{int(indices.min())} to {int(indices.max())}"
            raise ValueError(f"indices must be in 0..{n_rows - 1}, got {extremes}")
        self._hard.record(indices, self._hardness(self._targets[indices], scores))

    def refresh(self, scores: Tensor | None = None) -> None:
        """Select the hard set anew; batches drawn from here on use it, prefetched ones do not.

        Args:
            scores: ``[N, num_classes]`` or, binary, ``[N]``: scores of all rows, to be recorded
                first; O(N). None: the recorded ones; O(hard set), but for a scan of the N recorded
                scores when most of the former candidates have fallen behind. The selection is
                exact either way.

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
            TypeError, ValueError: not a number of batches, more than were drawn, or so few that
                the others are no longer known (see ``max_prefetch``).
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

        Of an epoch that was complete nothing is left, so that ``iter`` starts the next one.

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

    def _as_scores(self, scores: Tensor, n_rows: int) -> Tensor:
        """Return the scores as ``[n_rows, num_classes]`` on the CPU."""
        scores = scores.detach().cpu()
        if scores.dim() == 1 and self.num_classes == 1:
            scores = scores.unsqueeze(1)
        if scores.shape != (n_rows, self.num_classes):
            raise ValueError(
                f"scores must be [{n_rows}, {self.num_classes}], one row for each index, "
                f"got {list(scores.shape)}"
            )
        return scores

    def _hardness(self, targets: Tensor, scores: Tensor) -> Tensor:
        """Return ``[n]``: a row's highest score among the classes whose negative it is."""
        if self.num_classes == 1:
            return scores[:, 0]
        own = targets.clamp(0, self.num_classes - 1).unsqueeze(1)
        return scores.scatter(1, own, -torch.inf).amax(1)

    def _positive_rate(self) -> float:
        share = self._draws.smallest_class / max(self._draws.n_rows, 1)
        added = self._n_positive / max(self._draws.n_classes, 1)
        return (self._n_iid * share + added) / self.batch_size

    def _ahead(self, consumed: int) -> int:
        """Return how many drawn batches training has not seen."""
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
        """What must agree for a state to mean the same batches here."""
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
        """Raise if a part of the batch has no rows to be drawn from."""
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


def _as_targets(targets: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Return the checked targets, ``[N]`` int64 on the CPU."""
    check_int("ignore_index", ignore_index)
    targets = torch.as_tensor(targets).cpu()
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.dim() != 1:
        raise ValueError(f"targets must be [N] or [N, 1], got {list(targets.shape)}")
    check_targets(targets, num_classes, ignore_index)
    return targets.long()


def _check_ranks(rank: int, world_size: int) -> None:
    check_int("rank", rank, 0)
    if rank >= world_size:
        raise ValueError(f"rank must be below world_size={world_size}, got {rank}")


def _check_shares(iid_share: float, positive_share: float, hard_fraction: float) -> None:
    """Raise unless the shares are in their ranges and leave nothing negative."""
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
