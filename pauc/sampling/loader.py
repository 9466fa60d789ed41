"""The loader of a `BandSampler`: frameworks leave it alone, and its state counts the batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, TensorDataset

from pauc._public import public
from pauc.checks import check_flag
from pauc.sampling.sampler import BandSampler


@public
class BandLoader:
    """The batches of a :class:`pauc.BandSampler`, for a loop of one's own or for a framework.

    It is not a :class:`torch.utils.data.DataLoader`, though there is one inside: frameworks take a
    DataLoader apart, to put a sampler of theirs in place of its own or to share its batches out
    over ranks, and a `BandSampler` has done both already. Pass it as it is::

        loader = BandLoader(TensorDataset(features, targets, rows), BandSampler(targets, 1024))
        lightning.Trainer(...).fit(model, loader)
        model, optimizer = accelerator.prepare(model, optimizer)        # not the loader
        for x, y, rows in loader: ...

    A Hugging Face ``Trainer`` returns it from ``get_train_dataloader``, skorch from
    ``get_iterator``. Batches are on the CPU: Lightning and ``Trainer`` move them, others do it
    themselves. For Lightning's ``overfit_batches``, which wants the same batches in each epoch,
    pass ``DataLoader(list(itertools.islice(loader, k)), batch_size=None)``; given a BandLoader, it
    would take the first batches of another pass in each epoch.

    Args:
        dataset: one that is indexed by a row; or by a list of rows if ``whole_batches``.
        sampler: draws the rows.
        whole_batches: whether ``dataset[rows]`` with a list of rows is a ready batch, which is
            several times as fast as fetching and collating rows. None: if it is a
            :class:`torch.utils.data.TensorDataset`.
        options: more options of the DataLoader, such as ``num_workers``, ``collate_fn`` (which is
            given the ready batch if ``whole_batches``) and ``pin_memory``. With workers, let
            the sampler's ``max_prefetch`` be at least ``num_workers * prefetch_factor``.

    Attributes:
        band_sampler: the sampler.

    Raises:
        TypeError: ``sampler`` is no `BandSampler`, or an option is one that the sampler decides.
        ValueError: the workers would draw more ahead than the sampler can take back.
    """

    def __init__(
        self,
        dataset: Any,
        sampler: BandSampler,
        *,
        whole_batches: bool | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(sampler, BandSampler):
            raise TypeError(f"sampler must be a BandSampler, got {type(sampler).__name__}")
        if whole_batches is None:
            whole_batches = isinstance(dataset, TensorDataset)
        check_flag("whole_batches", whole_batches)
        _check_options(options)
        # As a `sampler` without batch size, the data set is indexed by the whole list of rows.
        layout: dict[str, Any] = {"sampler": sampler, "batch_size": None}
        layout = layout if whole_batches else {"batch_sampler": sampler}
        self.band_sampler = sampler
        self._loader: DataLoader[Any] = DataLoader(dataset, **layout, **options)
        _check_prefetch(self._loader, sampler)
        self._taken = 0  # batches that were taken from the running iteration

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, on each rank."""
        return self.band_sampler.num_batches

    def __iter__(self) -> Iterator[Any]:
        """Start an epoch; the first after :meth:`load_state_dict` goes on with the saved one.

        Nothing is drawn, and no state moves, before the first batch is asked for: frameworks call
        ``iter`` to see whether they can.
        """
        batches = iter(self._loader)
        self._taken = 0
        for batch in batches:
            # Before the batch is handed out: whoever has it may save the state after its step.
            self._taken += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last batch that was taken, however many were prefetched.

        It is the sampler's; on every rank the same, if all record the same scores.
        """
        return self.band_sampler.state_dict(consumed=self._taken)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state; the next ``iter`` yields the rest of the epoch that was in progress.

        Raises:
            ValueError: a state of a sampler with other rows, shares or batch sizes.
        """
        self.band_sampler.load_state_dict(state_dict)
        self._taken = 0

    @property
    def dataset(self) -> Any:
        """Refuse, as a missing attribute: who asks would build a loader without the sampler."""
        raise AttributeError(
            "a BandLoader does not give its dataset away, since a loader made from it would lose "
            "the sampler. Cure, where a Hugging Face Trainer or accelerate wants to skip batches "
            "of a resumed run: ignore_data_skip=True (no skip_first_batches), and load the state "
            "of the checkpoint with BandLoader.load_state_dict"
        )


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise if one of the options belongs to the sampler, or hides which batch is which."""
    decided = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")
    for name in decided:
        if name in options:
            raise TypeError(f"{name} is decided by the BandSampler, got {options[name]!r}")
    if not options.get("in_order", True):
        raise ValueError("in_order must be True: iid_mask and the state need the sampler's order")


def _check_prefetch(loader: DataLoader[Any], sampler: BandSampler) -> None:
    """Raise if workers draw more batches ahead than the sampler can take back."""
    ahead = loader.num_workers * (loader.prefetch_factor or 0)
    if ahead > sampler.max_prefetch:
        raise ValueError(
            f"num_workers * prefetch_factor must be at most the sampler's max_prefetch="
            f"{sampler.max_prefetch}, or a state could not be saved, got {ahead}. "
            f"Cure: BandSampler(..., max_prefetch={ahead})"
        )
