"""The rows of all ranks as one batch.

A step takes two collectives, both ``all_gather``: a header of fixed size, from which every rank
learns who brings how many rows and whether all may go on, and the rows themselves. The core then
sees what one process would see, the concatenated batch in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pauc.checks import is_multilabel
from pauc.config import LossConfig, PAUCConfig, options_of
from pauc.core.pool import Batch, make_batch
from pauc.core.queue import QueueState
from pauc.core.step import PAUCTerms
from pauc.core.surrogates import class_sum
from pauc.distributed.agreement import Header, agree, all_gather
from pauc.distributed.packing import pack, unpack_classes, unpack_multilabel
from pauc.distributed.sharded import loss_of_shards


class GatheredRows(NamedTuple):
    """The concatenated batch of all ranks, ``N`` rows; the first arguments of the pure functions.

    The gradient of this rank's logits is multiplied by the number of ranks, other ranks' rows are
    constants.
    """

    logits: Tensor  # [N, C] float32 or float64; rows to ignore are zeros
    targets: Tensor  # [N] int64; multi-label [N, C]
    iid_mask: Tensor  # [N] bool
    sample_weight: Tensor | None  # [N], None if no rank gave weights


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


def world_size(group: dist.ProcessGroup | None) -> int:
    """Return the number of ranks that a queue is divided over.

    Raises:
        RuntimeError: no initialised :mod:`torch.distributed`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "shard_queue=True needs torch.distributed.init_process_group(...) before the loss is "
            "built, got no initialised process group"
        )
    return dist.get_world_size(group)


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


# A graph break, not an error, where the loss is compiled: collectives and host reads are in here.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def gather_rows(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: LossConfig,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    settings: Mapping[str, object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> GatheredRows:
    """Return the batch of all ranks in the order of the ranks; every rank must call it.

    All ranks return the same values, so all compute the same loss and keep the same queue. The
    gradient of this rank's rows is multiplied by the number of ranks ``W``: after the average over
    ranks that DDP and FSDP take, it is that of one process on the concatenated batch. Whoever sums
    gradients over ranks instead divides the loss by ``W``.

    A rank whose rows fail their checks takes part in the header all the same, so that every rank
    raises and none waits. The header is read by the host: one synchronisation a step.

    Args:
        logits, targets, iid_mask, sample_weight, validate_args: this rank's rows, ``[n, C]`` and
            ``[n]`` (multi-label targets ``[n, C]``) with ``n`` of its own, 0 included; see
            :func:`pauc.pauc_loss_fn`. Weights are given by all ranks or by none, a mask by whom it
            concerns.
        queue: the queue before the step, the same on all ranks.
        config: the options of the loss.
        settings: what else must be the same on all ranks.
        group: the ranks to gather over; None: all.

    Raises:
        TypeError, ValueError: a bad argument of this rank, as in one process.
        RuntimeError: a bad argument of another rank, which the message names.
        ValueError: settings, weights or queues that differ between ranks; names what and where.
    """
    batch, headers = agree(
        partial(make_batch, logits, targets, queue, config, iid_mask, sample_weight, validate_args),
        queue,
        _settings(config, settings, sample_weight),
        ("cursor", "fill", "step"),
        group,
    )
    return _exchange_rows(batch, sample_weight is not None, headers, config, group)


# As above. The gradient of this path is known when the forward pass ends: none is exchanged later.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def sharded_terms(
    logits: Tensor,
    targets: Tensor,
    queue: QueueState,
    config: PAUCConfig,
    *,
    iid_mask: Tensor | None = None,
    sample_weight: Tensor | None = None,
    validate_args: bool = True,
    diagnostics: bool = False,
    settings: Mapping[str, object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[PAUCTerms, int]:
    """Return the loss over the rows and the queues of all ranks, and how many rows they brought.

    Args, Raises: as for :func:`gather_rows` and
    :func:`pauc.distributed.sharded.loss_of_shards`; ``queue`` is this rank's part of the whole, and the returned queue has this rank's rows in it.
    """
    # Ranks that disagree on these would go on with different collectives.
    also = {"gradient": torch.is_grad_enabled(), **(settings or {})}
    batch, headers = agree(
        partial(make_batch, logits, targets, queue, config, iid_mask, sample_weight, validate_args),
        queue,
        _settings(config, also, sample_weight),
        ("step",),
        group,
    )
    ranks = Ranks(dist.get_rank(group), len(headers), group)
    own = batch.logits.to(_common_dtype(headers))
    batch = batch._replace(
        logits=_scale_gradient(own, ranks.size), weight=batch.weight.to(own.dtype)
    )
    terms = loss_of_shards(batch, queue, config, ranks, validate_args, diagnostics)
    return terms, sum(header.rows for header in headers)


def count_positives(
    targets: Tensor, num_classes: int, ignore_index: int, multilabel: bool
) -> Tensor:
    """Return ``[C]`` int64: how many of ``targets`` are positives of each class."""
    targets = targets.to(torch.int64)
    if multilabel:
        return ((targets == 1) & (targets != ignore_index)).sum(dim=0)
    targets = targets.reshape(-1)
    label = targets - 1 if num_classes == 1 else targets
    known = (targets != ignore_index) & (label >= 0) & (label < num_classes)
    return class_sum(known.long(), torch.where(known, label, 0), num_classes)


def exclude_queues(model: nn.Module) -> nn.Module:
    """Tell DDP to leave the queues inside ``model`` alone; call it before ``DDP(model)``.

    DDP broadcasts a model's buffers in every forward pass. The queues are equal on all ranks, so
    that this changes nothing and costs the size of the queue. Not needed where the loss stands
    outside the wrapped model, or with ``DDP(model, broadcast_buffers=False)``.
    """
    from pauc.modules.base import QueuedLoss  # which imports this module

    ignored = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
    for name, module in model.named_modules():
        if isinstance(module, QueuedLoss):
            prefix = f"{name}." if name else ""
            ignored |= {f"{prefix}{buffer}" for buffer, _ in module.named_buffers()}
    tell = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    tell(model, sorted(ignored))  # type: ignore[no-untyped-call]
    return model


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


class _ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied: by nothing but the factor, nan stays nan."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _settings(
    config: LossConfig, settings: Mapping[str, object] | None, sample_weight: Tensor | None
) -> dict[str, object]:
    """Return what must be the same on all ranks, beside the queue."""
    weighted = {"sample_weight is given": sample_weight is not None}
    return {**options_of(config), **(settings or {}), **weighted}


def _common_dtype(headers: list[Header]) -> torch.dtype:
    return torch.float64 if any(h.wide for h in headers) else torch.float32


def _exchange_rows(
    batch: Batch,
    weighted: bool,
    headers: list[Header],
    config: LossConfig,
    group: dist.ProcessGroup | None,
) -> GatheredRows:
    """Return the rows of all ranks, of which this rank's are attached."""
    rank, counts = dist.get_rank(group), [h.rows for h in headers]
    dtype = _common_dtype(headers)
    own = batch.logits.to(dtype)
    table = pack(batch, own.detach(), weighted)
    padded = table.new_zeros(max(counts), table.shape[1])
    padded[: counts[rank]] = table
    blocks = all_gather(padded, group) if max(counts) else padded.expand(len(counts), -1, -1)
    table = torch.cat([block[:rows] for block, rows in zip(blocks, counts, strict=True)])

    unpack = unpack_multilabel if is_multilabel(batch.targets) else unpack_classes
    logits, targets, iid, weight = unpack(table, dtype, own.shape[1], config.ignore_index)
    start = sum(counts[:rank])
    attached = _scale_gradient(own, len(counts))
    logits = torch.cat([logits[:start], attached, logits[start + counts[rank] :]])
    return GatheredRows(logits, targets, iid, weight if weighted else None)


def _scale_gradient(values: Tensor, factor: int) -> Tensor:
    return cast(Tensor, _ScaleGradient.apply(values, factor))  # type: ignore[no-untyped-call]
