"""What frameworks ask of a sampler before they replace, wrap or share it out: refused."""

from __future__ import annotations

from typing import NoReturn

from torch.utils.data import BatchSampler

_CURE = (
    "Cure: give the framework pauc.BandLoader(dataset, sampler) as it is, not prepared or wrapped; "
    "it draws each rank's rows, and its state_dict resumes a run"
)


class NotTakenApart(BatchSampler):
    """A batch sampler that no framework may take out of its DataLoader, or share out over ranks.

    Accelerate and the Hugging Face Trainer lose a sampler in ``sampler=`` whose batches are lists,
    and halve the batches of one that draws for its own rank. Lightning halves them too, and saves
    no state. None of them says so. Each asks for something first, and is answered here: accelerate
    for ``sampler``, if the class is a BatchSampler; Lightning for ``sampler`` or ``set_epoch``, and
    before it wraps a sampler for ranks, for its length.

    Attributes:
        num_batches: of an epoch.
        rank, world_size: for which the batches are drawn.
    """

    num_batches: int
    rank: int
    world_size: int

    def __init__(self) -> None:
        pass  # BatchSampler's own `__init__` sets the attribute `sampler`

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, if there is one rank.

        Raises:
            TypeError: there are several ranks. Who asks for the length of a sampler inside of a
                loader is about to share its batches out once more.
        """
        if self.world_size > 1:
            raise TypeError(
                f"the sampler draws for rank {self.rank} of {self.world_size} by itself, and has "
                f"no length by which its batches could be shared out again. {_CURE}. The number "
                "of its batches is num_batches"
            )
        return self.num_batches

    @property
    def sampler(self) -> NoReturn:  # type: ignore[override]
        """Refuse: who asks wants to put another sampler in its place, or to wrap it."""
        raise RuntimeError(f"a DataLoader with a BandSampler must not be taken apart. {_CURE}")

    def set_epoch(self, epoch: int) -> NoReturn:  # noqa: ARG002
        """Refuse: the sampler counts epochs by itself."""
        raise RuntimeError(f"BandSampler counts epochs by itself: leave set_epoch out. {_CURE}")
