"""A stream whose batches get positives and hard negatives from what has gone by before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pauc._public import public
from pauc.checks import check_flag, check_ignore_index, check_int
from pauc.sampling.fresh import FreshRows
from pauc.sampling.labels import BatchParts, as_indices, as_scores, check_share
from pauc.sampling.reservoirs import Columns, HardReservoir, PositiveReservoir, join, pick


@public
class StreamBatch(NamedTuple):
    """A batch of a :class:`pauc.BandStream`.

    Attributes:
        rows: what the source yields, with ``B`` rows.
        iid_mask: ``[B]`` bool, the fresh rows.
        ids: ``[B]`` int64, numbers of arrival, for :meth:`BandStream.update`; -1 of positives that
            came before.
    """

    rows: Any
    iid_mask: Tensor
    ids: Tensor


@public
class BandStream(IterableDataset[StreamBatch]):
    """Batches of fresh rows of a stream, then positives, then hard negatives that came before.

    What :class:`pauc.BandSampler` is for rows that can be addressed, for rows that come by, once or
    in several passes: neither their number nor their labels are known before. Binary targets::

        stream = BandStream(DataLoader(source, 4096, num_workers=4), 1024, batched=True)
        for epoch in range(epochs):
            for (x, y), iid_mask, ids in stream:
                logits = model(x)
                loss_fn(logits, y, iid_mask=iid_mask).backward()
                ...
                stream.update(ids, logits)

    Fresh rows come in the order of the source, each once in a pass; they are iid as far as the
    source is shuffled. Positives are drawn from a uniform sample of all that have come, hard
    negatives from those with the highest last seen scores, both with replacement. As long as there
    are none, fresh rows take their places, with ``iid_mask`` True. A pass that ends in the middle
    of a batch ends with a smaller one. The memory is that of the two reservoirs and of the last
    ``max_prefetch`` batches.

    The stream lives in the process that trains, since scores must reach it: workers belong in the
    source. Frameworks take it as it is, like a :class:`pauc.BandLoader`.

    Args:
        source: yields rows, or batches of any size if ``batched``; ``iter(source)`` is called for
            each pass. Rows and batches are tensors, or tuples, lists or dicts of tensors and (in
            rows) of what :func:`torch.utils.data.default_collate` takes.
        batch_size: rows of a batch, on each rank.
        target: where in a row or batch the targets are, an index or a key. They are 0, 1, or
            ``ignore_index``: such rows are left out.
        batched: whether the source yields batches.
        iid_share, positive_share: as of :class:`pauc.BandSampler`.
        hard_fraction: share of the negatives seen so far that are hard, in (0, 1].
        max_positives, max_hard: rows that are kept of each kind.
        max_age: a hard negative is dropped when so many rows have come after it. In several passes
            over the same rows let it be their number, or the hardest are there once for each pass.
            None: never.
        num_batches: batches of an epoch; the source begins anew where it ends. None: an epoch is a
            pass. With several ranks give it, so that all have equally many.
        shard: whether each rank takes only every ``world_size``-th item of the source. False: the
            source gives each rank its own rows. None: an error if there are several ranks.
        seed: of the stream's own generator.
        ignore_index: target of rows to leave out.
        max_prefetch: how many batches may be drawn before the scores of the first are recorded.

    Raises:
        TypeError, ValueError: a bad argument, named with what was expected and what came.
    """

    def __init__(
        self,
        source: Iterable[Any],
        batch_size: int,
        *,
        target: int | str = 1,
        batched: bool = False,
        iid_share: float = 0.5,
        positive_share: float = 0.25,
        hard_fraction: float = 0.02,
        max_positives: int = 16_384,
        max_hard: int = 8192,
        max_age: int | None = None,
        num_batches: int | None = None,
        shard: bool | None = None,
        seed: int = 0,
        ignore_index: int = -100,
        max_prefetch: int = 8,
    ) -> None:
        counts = {"batch_size": batch_size, "max_positives": max_positives, "max_hard": max_hard}
        optional = {"max_age": max_age, "num_batches": num_batches}
        counts |= {name: value for name, value in optional.items() if value is not None}
        for name, value in {**counts, "max_prefetch": max_prefetch}.items():
            check_int(name, value, 1)
        check_int("seed", seed, 0)
        check_ignore_index(ignore_index)
        check_flag("batched", batched)
        if shard is not None:
            check_flag("shard", shard)
        check_share("hard_fraction", hard_fraction)
        self._parts = BatchParts.of(batch_size, iid_share, positive_share)
        self.batch_size, self.num_batches = batch_size, num_batches
        self._fresh = FreshRows(
            source, batched=batched, target=target, shard=shard, ignore_index=ignore_index
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._positives = PositiveReservoir(max_positives)
        self._hard = HardReservoir(max_hard, hard_fraction, max_age)
        self._arrived = 0  # rows that were handed out as fresh ones
        self._handed: deque[tuple[int, Tensor, Columns]] = deque(maxlen=max_prefetch)
        self._in_epoch = 0
        self._resumed = False

    def __len__(self) -> int:
        """Return the number of batches of an epoch, if it is known."""
        if self.num_batches is None:
            raise TypeError("a BandStream has a length if num_batches is given")
        return self.num_batches

    def __iter__(self) -> Iterator[StreamBatch]:
        """Start an epoch; the first after :meth:`load_state_dict` goes on with the saved one."""
        if get_worker_info() is not None:
            raise RuntimeError(
                "a BandStream must be in the process that trains, or no score reaches it. Cure: "
                "num_workers=0 for the loader around it, and workers in the source: "
                "BandStream(DataLoader(source, ..., num_workers=...), ..., batched=True)"
            )
        if not self._resumed:
            self._in_epoch = 0
            # An epoch of a fixed number of batches goes on where the last one ended.
            if self.num_batches is None:
                self._fresh.begin()
        self._resumed = False
        while self.num_batches is None or self._in_epoch < self.num_batches:
            batch = self._next_batch()
            if batch is None:
                return
            self._in_epoch += 1
            yield batch

    def update(self, ids: Tensor, scores: Tensor) -> None:
        """Record the scores of a batch's rows, as a training step has seen them.

        Scores of positives and non-finite ones are dropped, and so are those of fresh rows whose
        batch was handed out more than ``max_prefetch`` batches ago.

        Args:
            ids: ``[n]`` int64, of a batch.
            scores: ``[n]`` or ``[n, 1]``: the logits, any real dtype, held as float32.

        Raises:
            TypeError: ids that are no integers.
            ValueError: shapes that do not fit, or an id that has not been handed out.
        """
        ids = as_indices(ids, "ids", -1, self._arrived - 1)
        scores = as_scores(scores, len(ids), 1)[:, 0].to(self._hard.scores.dtype)
        usable = (ids >= 0) & scores.isfinite()
        ids, scores = ids[usable], scores[usable]
        new = ~self._hard.record(ids, scores)
        self._add(ids[new], scores[new])
        self._hard.select(self._arrived)

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last batch that was handed out, reservoirs included.

        A source with a ``state_dict`` is saved with it. Of any other, a resumed run reads over what
        was taken in the pass that was in progress.
        """
        return {
            "in_epoch": self._in_epoch,
            "arrived": self._arrived,
            "generator": self._generator.get_state(),
            "fresh": self._fresh.state_dict(),
            "handed": list(self._handed),
            "positives": self._positives.state_dict(),
            "hard": self._hard.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state of a stream with the same arguments."""
        self._fresh.load_state_dict(state_dict["fresh"])
        self._positives.load_state_dict(state_dict["positives"])
        self._hard.load_state_dict(state_dict["hard"])
        self._generator.set_state(state_dict["generator"])
        self._handed.clear()
        self._handed.extend(state_dict["handed"])
        self._arrived, self._in_epoch = state_dict["arrived"], state_dict["in_epoch"]
        self._resumed = self._in_epoch != self.num_batches

    def _next_batch(self) -> StreamBatch | None:
        """Return the next batch; None where an epoch without a fixed length ends."""
        n_positive = self._parts.positive if len(self._positives) else 0
        n_hard = self._parts.hard if len(self._hard.hard) else 0
        again = self.num_batches is not None
        taken = self._fresh.take(self.batch_size - n_positive - n_hard, again)
        if taken is None:
            return None
        labels, fresh = taken
        ids = self._arrived + torch.arange(len(labels))
        self._handed.append((self._arrived, labels, fresh))
        self._arrived += len(labels)
        parts, all_ids = [fresh], [ids]
        if n_positive:
            parts.append(self._draw_positives(n_positive))
            all_ids.append(torch.full((n_positive,), -1))
        if n_hard:
            slots = self._hard.hard[self._below(len(self._hard.hard), n_hard)]
            parts.append(self._hard.store.take(slots))
            all_ids.append(self._hard.ids[slots])
        self._keep_positives(labels, fresh)
        mask = torch.arange(len(labels) + n_positive + n_hard) < len(labels)
        return StreamBatch(self._fresh.as_batch(join(parts)), mask, torch.cat(all_ids))

    def _draw_positives(self, count: int) -> Columns:
        return self._positives.store.take(self._below(len(self._positives), count))

    def _keep_positives(self, labels: Tensor, columns: Columns) -> None:
        """Let the positives of a fresh batch enter the reservoir, for the batches to come."""
        rows = (labels == 1).nonzero().squeeze(1)
        if len(rows):
            self._positives.add(pick(columns, rows), self._uniform(len(rows)))

    def _add(self, ids: Tensor, scores: Tensor) -> None:
        """Let fresh negatives with these scores enter the reservoir of the hard ones."""
        if len(ids) == 0:
            return
        first, last = int(ids.min()), int(ids.max())
        for start, labels, columns in self._handed:
            if last < start or first >= start + len(labels):
                continue
            inside = (ids >= start) & (ids < start + len(labels))
            rows, of_rows = ids[inside] - start, scores[inside]
            negative = labels[rows] == 0
            rows, of_rows = rows[negative], of_rows[negative]
            self._hard.add(rows + start, of_rows, columns, rows)

    def _below(self, size: int, count: int) -> Tensor:
        """Return ``[count]`` whole numbers from 0 up to ``size``, which is excluded."""
        return (self._uniform(count) * size).long()

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._generator, dtype=torch.float64)
