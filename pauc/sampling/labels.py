"""What a sampler is told of the rows and of a batch, checked: targets, shares, ranks, scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pauc.arrays import ArrayLike, as_tensor
from pauc.checks import check_ignore_index, check_int, check_real, check_targets
from pauc.sampling.row_set import blocks

ABSENT = -1


def as_labels(targets: ArrayLike, num_classes: int, multilabel: bool, ignore_index: int) -> Tensor:
    """Return the checked targets on the CPU, in the narrowest dtype, ABSENT where ignored.

    Args:
        targets: ``[N]`` or ``[N, 1]``, or ``[N, num_classes]`` if ``multilabel``: a tensor, an
            array, a pandas or polars column, or a list.
    """
    check_ignore_index(ignore_index)
    targets = as_tensor(targets, "targets").cpu()
    if not multilabel and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    _check_shape(targets, num_classes, multilabel)
    labels = torch.empty(targets.shape, dtype=_label_dtype(1 if multilabel else num_classes))
    for block in blocks(len(targets)):
        part = targets[block]
        try:
            check_targets(part, num_classes, ignore_index)
        except ValueError:
            check_targets(targets, num_classes, ignore_index)  # names the rows as the caller does
            raise
        labels[block] = torch.where(part == ignore_index, ABSENT, part.to(labels.dtype))
    return labels


def _check_shape(targets: Tensor, num_classes: int, multilabel: bool) -> None:
    expected = f"[N, {num_classes}] with multilabel=True" if multilabel else "[N] or [N, 1]"
    if multilabel:
        fits = targets.ndim == 2 and targets.shape[1] == num_classes
    else:
        fits = targets.ndim == 1
    if not fits:
        raise ValueError(f"targets must be {expected}, got {list(targets.shape)}")


def _label_dtype(num_classes: int) -> torch.dtype:
    if num_classes <= 2**7:
        return torch.int8
    return torch.int16 if num_classes <= 2**15 else torch.int64


class BatchParts(NamedTuple):
    """How many rows of a batch are iid, added positives and hard negatives, in this order."""

    iid: int
    positive: int
    hard: int

    @classmethod
    def of(cls, batch_size: int, iid_share: float, positive_share: float) -> BatchParts:
        """Return the parts of the checked shares."""
        check_shares(iid_share, positive_share)
        iid = round(batch_size * iid_share)
        # The sum is rounded, and not the second share: where the shares add up to 1, rounding both
        # could leave a place for a hard negative.
        both = round(batch_size * (iid_share + positive_share))
        if iid == 0:
            raise ValueError(
                f"iid_share must give at least one row of batch_size={batch_size}, got {iid_share}"
            )
        return cls(iid, both - iid, batch_size - both)

    def iid_mask(self) -> Tensor:
        """Return ``[batch_size]`` bool, the rows that are iid."""
        return torch.arange(sum(self)) < self.iid


def check_shares(iid_share: float, positive_share: float) -> None:
    """Raise unless the shares are in their ranges and sum to at most 1."""
    check_share("iid_share", iid_share)
    check_share("positive_share", positive_share, zero_is_fine=True)
    if iid_share + positive_share > 1 + 1e-9:  # two shares that make 1 may round above it
        raise ValueError(
            "iid_share and positive_share must sum to at most 1, "
            f"got {iid_share} + {positive_share}"
        )


def check_share(name: str, value: float, zero_is_fine: bool = False) -> None:
    """Raise unless ``value`` is in (0, 1], or in [0, 1] if ``zero_is_fine``."""
    check_real(name, value)
    if not 0 <= value <= 1 or (value == 0 and not zero_is_fine):
        expected = "[0, 1]" if zero_is_fine else "(0, 1]"
        raise ValueError(f"{name} must be in {expected}, got {value!r}")


class Ranks(NamedTuple):
    """Which of how many processes draws, and whether a person said so."""

    rank: int
    world_size: int
    given: bool

    @classmethod
    def of(cls, rank: int | None, world_size: int | None) -> Ranks:
        """Return the checked numbers; those of torch.distributed where both are None."""
        if (rank is None) != (world_size is None):
            raise ValueError(
                f"rank and world_size must be given together, got {rank!r} and {world_size!r}"
            )
        if rank is None or world_size is None:
            return cls(*group_ranks(), given=False)
        check_int("world_size", world_size, 1)
        check_int("rank", rank, 0)
        if rank >= world_size:
            raise ValueError(f"rank must be below world_size={world_size}, got {rank}")
        return cls(rank, world_size, given=True)

    def check_still_right(self, owner: str) -> None:
        """Raise if a process group has come up since, and nobody gave the ranks."""
        if not self.given and group_ranks() != (self.rank, self.world_size):
            raise RuntimeError(
                f"this {owner} was made for rank {self.rank} of {self.world_size}, and is now used "
                f"by rank {group_ranks()[0]} of {group_ranks()[1]}: all ranks would draw the same "
                f"rows. Cure: make it after init_process_group (Lightning: in train_dataloader), "
                f"or give rank and world_size"
            )


def group_ranks() -> tuple[int, int]:
    """Return rank and world size of the default process group; 0 and 1 if there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def as_indices(indices: ArrayLike, name: str, first: int, last: int) -> Tensor:
    """Return the checked indices as ``[n]`` int64 on the CPU.

    Raises:
        TypeError: no integers. A mask would name rows 0 and 1 alone, a fraction the row below it.
        ValueError: an index outside of ``first..last``.
    """
    found = as_tensor(indices, name).cpu().reshape(-1)
    if found.numel() == 0:  # an empty list has no dtype of its own
        return found.long()
    if found.is_floating_point() or found.dtype == torch.bool:
        raise TypeError(f"{name} must be integers, one for each row of scores, got {found.dtype}")
    lowest, highest = (int(end) for end in found.aminmax())
    if lowest < first or highest > last:
        raise ValueError(f"{name} must be in {first}..{last}, got {lowest} to {highest}")
    return found.long()


def as_scores(scores: ArrayLike, n_rows: int, num_classes: int) -> Tensor:
    """Return the scores as floating ``[n_rows, num_classes]`` on the CPU, without gradient."""
    found = as_tensor(scores, "scores").cpu()
    found = found if found.is_floating_point() else found.to(torch.float32)
    if found.ndim == 1 and num_classes == 1:
        found = found.unsqueeze(1)
    if found.shape != (n_rows, num_classes):
        raise ValueError(
            f"scores must be [{n_rows}, {num_classes}], one row for each index, "
            f"got {list(found.shape)}"
        )
    return found
