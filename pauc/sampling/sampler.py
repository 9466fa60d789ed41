"""A batch sampler that adds positives and hard negatives and says which rows are still iid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pauc._public import public
from pauc.arrays import ArrayLike
from pauc.checks import check_flag, check_int
from pauc.sampling.draws import Draws
from pauc.sampling.handed_out import HandedOut
from pauc.sampling.hard_sets import HardSets
from pauc.sampling.labels import (
    BatchParts,
    Ranks,
    as_indices,
    as_labels,
    as_scores,
    check_share,
)
from pauc.sampling.refusals import NotTakenApart


@public
class BandSampler(NotTakenApart):
    """Batches of iid rows, then positives, then hard negatives; ``iid_mask`` tells them apart.

    At a low budget few rows of an iid batch are positives or in the band, so most of it teaches
    nothing. Rows that are added by class or score make it dense, but are no sample of the
    population: pass ``iid_mask``, and the loss takes the band's edges from the iid rows alone::

        sampler = BandSampler(targets, 1024)
        rows = torch.arange(len(targets))
        loader = BandLoader(TensorDataset(features, targets, rows), sampler)
        for epoch in range(epochs):
            for x, y, rows in loader:
                logits = model(x)
                loss_fn(logits, y, iid_mask=sampler.iid_mask.to(y.device)).backward()
                ...
                sampler.update(rows, logits)
            sampler.refresh()

    The data set yields each row's index for ``update`` only; a data set that does not can do with
    ``refresh(scores_of_all_rows)`` now and then. :class:`pauc.BandLoader` also works under
    Lightning, accelerate, the Hugging Face ``Trainer`` and skorch, and is what a run resumes from.
    In a loop of one's own, ``for rows in sampler`` and ``DataLoader(data, batch_sampler=sampler)``
    do as well; where a framework would take such a loader apart, an error says so.

    A batch begins with ``round(batch_size * iid_share)`` iid rows, in the order of a permutation of
    the data set. Where that is used up, in the middle of a batch too, a new permutation begins, so
    that each row comes equally often. Then come the positives, drawn with replacement and evenly
    over the classes that have rows. The rest are drawn with replacement from the hard negatives:
    the top ``hard_fraction`` of the negatives seen so far, by last seen score; before the first
    ``refresh``, all negatives. A row can thus be in a batch more than once. Rows whose target is
    ``ignore_index`` are never drawn.

    With ``multilabel=True`` a row is drawn if any of its labels is known. Added positives come from
    one label after another, and so do hard negatives: each label has a hard set of its own, of
    rows that are known negatives of it, by their score for it. A missing label makes a row neither.

    With several ranks, each makes the same draws from the same ``seed``, for a batch of
    ``world_size * batch_size`` rows, and takes its own part: together the ranks hold the rows that
    a single one with that batch size would, and no iid row twice in a pass. The hard set is the
    same on all ranks if all record the same scores (gather them before ``update``). Where each rank
    records only its own scores, each draws hard negatives from a hard set of its own; iid rows and
    positives are not affected.

    Args:
        targets: ``[N]`` or ``[N, 1]``, class indices (binary: 0 or 1) or ``ignore_index``;
            ``[N, num_classes]`` of 0, 1 or ``ignore_index`` with ``multilabel``. A tensor, an
            array, a pandas or polars column, or a list; a copy in a byte a target is held.
        batch_size: rows of a batch, on each rank.
        num_classes: 1 is binary. Otherwise one against the rest: a row is a negative of every class
            but its own, and how hard it is its highest logit among those classes says.
        multilabel: whether the classes are labels of which a row may have several.
        iid_share: share of iid rows in a batch, in (0, 1]. The band's edges are taken from these
            rows alone, and the fewer they are, the noisier the edges.
        positive_share: share of added positives, in [0, 1]. What the two shares leave are hard
            negatives.
        hard_fraction: share of the seen negatives that are hard, in (0, 1].
        num_batches: batches of an epoch. None: as many as bring each row once among the iid rows,
            ``1 / iid_share`` times the number of plain batches.
        seed: of the sampler's own generators; global ones are neither read nor changed.
        rank, world_size: of this process, and the number of processes. None: those of the default
            process group, if there is one when the sampler is made. Give both where ranks should
            share their rows (tensor parallelism).
        ignore_index: target of rows to leave out.
        max_prefetch: how many drawn batches :meth:`state_dict` can take back; at least the
            loader's ``num_workers * prefetch_factor``.

    Attributes:
        iid_mask: ``[batch_size]`` bool on the CPU, for every batch.
        iid_share: share of iid rows in a batch, after rounding to whole rows.
        positive_rate: share of positives in a batch on average; with several classes, of positives
            of the rarest, without those that are drawn for other classes.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.

    Warns:
        UserWarning: once, where an epoch ends without a ``refresh`` and hard negatives are drawn.
        RuntimeError: at ``iter``, if a process group has come up since and no ranks were given.
    """

    def __init__(
        self,
        targets: ArrayLike,
        batch_size: int,
        *,
        num_classes: int = 1,
        multilabel: bool = False,
        iid_share: float = 0.5,
        positive_share: float = 0.25,
        hard_fraction: float = 0.05,
        num_batches: int | None = None,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        ignore_index: int = -100,
        max_prefetch: int = 64,
    ) -> None:
        super().__init__()
        counts = {"batch_size": batch_size, "num_classes": num_classes}
        for name, value in {**counts, "max_prefetch": max_prefetch}.items():
            check_int(name, value, 1)
        check_int("seed", seed, 0)
        check_flag("multilabel", multilabel)
        check_share("hard_fraction", hard_fraction)
        self._ranks = Ranks.of(rank, world_size)
        self._parts = BatchParts.of(batch_size, iid_share, positive_share)
        self._labels = as_labels(targets, num_classes, multilabel, ignore_index)
        self.batch_size, self.num_classes, self.multilabel = batch_size, num_classes, multilabel
        self.rank, self.world_size = self._ranks.rank, self._ranks.world_size
        # The layout of a batch never changes, and neither workers nor collation reorder rows: one
        # constant mask is right for every batch, however many batches a loader draws ahead.
        self.iid_mask = self._parts.iid_mask()
        self.iid_share = self._parts.iid / batch_size

        self._draws = Draws(self._labels, num_classes, seed)
        self._hard = HardSets(self._labels, num_classes, hard_fraction)
        self._draws.check_parts(self._parts, any_hard=bool(self._hard.drawn))
        self.positive_rate = self._draws.positive_rate(self._parts)
        if num_batches is None:
            num_batches = math.ceil(self._draws.n_rows / (self._parts.iid * self.world_size))
        check_int("num_batches", num_batches, 1)
        self.num_batches = num_batches
        self.max_prefetch = max_prefetch
        self._handed_out = HandedOut(num_batches, max_prefetch)
        self._refreshed = False  # no state: it says whether to warn

    def __iter__(self) -> Iterator[list[int]]:
        """Start an epoch; the first after :meth:`load_state_dict` goes on with the saved one."""
        self._ranks.check_still_right("BandSampler")
        # Here, and not in the generator, which does nothing before its first batch is asked for: a
        # `state_dict` taken before that would still count the old epoch.
        if self._handed_out.begin() and self._parts.hard and not self._refreshed:
            self._refreshed = True  # the warning is for once
            warnings.warn(
                "BandSampler: an epoch is over without a call of refresh(), so that the hard "
                "negatives are drawn from all negatives. Cure: update(rows, logits) in each step "
                "and refresh() after each epoch, or iid_share + positive_share = 1",
                UserWarning,
                stacklevel=2,
            )
        batches = self._handed_out.batches(self._draw)
        return (batch[self.rank].tolist() for batch in batches)

    @property
    def hard_rows(self) -> Tensor:
        """The rows ``[K]`` int64 that hard negatives are drawn from, the highest score first.

        With ``multilabel`` those of one label after another; a row may be there several times.
        """
        return self._hard.rows

    @property
    def candidates(self) -> Tensor:
        """The rows ``[K]`` int64 that are worth a new score before a refresh, each once.

        They are the hard set and a few times as many rows that came next to it. In place of an
        ``update`` in each step, ``sampler.update(rows, model(features[rows]))`` for these rows and
        then ``refresh()`` keep the hard set current, at a cost of O(hard set).
        """
        return self._hard.candidates

    def update(self, indices: ArrayLike, scores: ArrayLike) -> None:
        """Record the scores of rows, as a training step has seen them; O(n).

        The hard set stays as it is until :meth:`refresh`. Scores on another device are copied to
        the host, which waits for them.

        Args:
            indices: ``[n]`` int, rows of ``targets``. Of a row that is given twice the higher
                score counts.
            scores: ``[n, num_classes]`` or, binary, ``[n]``: the logits, any real dtype, held as
                float32. Non-finite ones are dropped.

        Raises:
            TypeError: indices that are no integers, such as a mask.
            ValueError: shapes that do not fit, or an index out of range.
        """
        indices = as_indices(indices, "indices", 0, len(self._labels) - 1)
        scores = as_scores(scores, len(indices), self.num_classes)
        self._hard.record(indices, self._labels[indices], scores)

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
            scores = as_scores(scores, len(self._labels), self.num_classes)
            self._hard.record_all(self._labels, scores)
        self._hard.select()
        self._refreshed = True

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Return the state, from which another sampler goes on with exactly the same batches.

        :class:`pauc.BandLoader` has one that counts ``consumed`` by itself. The state is the same
        on every rank that has recorded the same scores.

        Args:
            consumed: batches that training has taken from the running ``iter``: ``i`` in
                ``for i, batch in enumerate(loader, start=1)``. Workers prefetch: without it,
                batches drawn but not yet trained on would be lost. A loader with
                ``in_order=False`` cannot tell which these are. None: no batch has been drawn.

        Raises:
            TypeError: ``consumed`` is no integer.
            ValueError: it is None though batches were drawn; it is below 0 or above the number of
                drawn batches, or leaves more of these to take back than are remembered (see
                ``max_prefetch``).
        """
        return {
            "layout": self._layout(),
            **self._handed_out.state_dict(consumed),
            "draws": self._draws.state_dict(),
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
        self._hard.load_state_dict(state_dict["hard"])
        self._handed_out.load_state_dict(dict(state_dict))

    def _draw(self) -> Tensor:
        """Return the next batch of every rank, ``[world_size, batch_size]``."""
        parts = (
            self._draws.iid(self.world_size * self._parts.iid),
            self._draws.positives(self.world_size * self._parts.positive),
            self._draws.among(self._hard.drawn, self.world_size * self._parts.hard),
        )
        return torch.cat([part.view(self.world_size, -1) for part in parts], dim=1)

    def _layout(self) -> dict[str, int]:
        """Return the numbers that must be equal for one sampler to take over another's state."""
        return {
            "number of rows": len(self._labels),
            "number of drawable rows": self._draws.n_rows,
            "num_classes": self.num_classes,
            "multilabel": self.multilabel,
            "world_size": self.world_size,
            "batch_size": self.batch_size,
            "number of iid rows": self._parts.iid,
            "number of positives": self._parts.positive,
            "num_batches": self.num_batches,
        }
