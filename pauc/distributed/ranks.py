"""Who the ranks are, and the two exchanges that a step makes between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(NamedTuple):
    """What a rank asks of the others; every rank must ask in the same order."""

    rank: int  # this one's place
    size: int
    group: dist.ProcessGroup | None

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors, which have one shape."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        """Return ``[size, *tensor.shape]``: all ranks' tensors, which have one shape."""
        return all_gather(tensor.detach().contiguous(), self.group)


def is_gathering(gather: bool | None, group: dist.ProcessGroup | None) -> bool:
    """Return whether rows are to be gathered; ``None`` asks for it where there are more ranks.

    Raises:
        RuntimeError: ``gather=True`` without an initialised :mod:`torch.distributed`.
    """
    if gather is False:
        return False
    if dist.is_available() and dist.is_initialized():
        return gather is True or dist.get_world_size(group) > 1
    if gather is None:
        return False
    raise RuntimeError(
        "gather_distributed=True needs torch.distributed.init_process_group(...) before the "
        "first step, got no initialised process group; None gathers only where there is one"
    )


def queue_rows_of_a_rank(queue_size: int, group: dist.ProcessGroup | None) -> int:
    """Return how many of ``queue_size`` rows each rank keeps, rounded up.

    Raises:
        RuntimeError: no initialised :mod:`torch.distributed`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "shard_queue=True needs torch.distributed.init_process_group(...) before the loss is "
            "built, got no initialised process group"
        )
    return -(-queue_size // dist.get_world_size(group))


def check_process_group(group: object) -> None:
    """Raise unless ``group`` is None or a process group that this rank is in."""
    if group is None or (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        return
    hint = ""
    if dist.is_available() and group is dist.GroupMember.NON_GROUP_MEMBER:
        hint = " (what new_group returns on a rank that is not in the group)"
    raise TypeError(
        f"process_group must be a torch.distributed.ProcessGroup or None, got {group!r}{hint}"
    )


def all_gather(tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Return ``[W, *tensor.shape]``: the tensors of all ranks, which have one shape."""
    gathered = tensor.new_empty(dist.get_world_size(group), *tensor.shape)
    # Not all_gather_into_tensor, which newer versions of torch rename.
    dist.all_gather(list(gathered.unbind()), tensor, group=group)
    return gathered
