"""The rows of all ranks as one batch.

A step takes two collectives, both ``all_gather``: a header of fixed size, from which every rank
learns who brings how many rows and whether all may go on, and the rows themselves. The core then
sees what one process would see, the concatenated batch in the order of the ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from pauc.config import LossConfig
from pauc.core.batch import Batch, Rows
from pauc.core.queue import QueueState, is_multilabel
from pauc.core.surrogates import scale_gradient
from pauc.distributed.agreement import Header, agree, common_dtype
from pauc.distributed.packing import pack, unpack_classes, unpack_multilabel
from pauc.distributed.ranks import all_gather


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
) -> Rows:
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
    given = Rows(logits, targets, iid_mask, sample_weight)
    rows: Rows
    rows, _ = gather(given, queue, config, validate_args, settings=settings, group=group)
    return rows


# A graph break, not an error, where the loss is compiled: collectives and host reads are in here.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def gather(
    rows: Rows,
    queue: QueueState,
    config: LossConfig,
    validate_args: bool,
    *,
    settings: Mapping[str, object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Rows, Batch]:
    """Return the rows of all ranks as :func:`gather_rows` does, and this rank's checked batch."""
    counters = ("cursor", "fill", "step")
    batch, headers = agree(rows, queue, config, validate_args, settings, counters, group)
    is_weighted = rows.sample_weight is not None
    return _exchange_rows(batch, is_weighted, headers, config, group), batch


def attach_for_average(logits: Tensor, size: int) -> Tensor:
    """Return the logits with their gradient multiplied by the number of ranks, for DDP's average.

    A logit that is not finite keeps its value, which the scaling would make nan; its class's
    gradient is nan in any case.
    """
    return torch.where(logits.detach().isfinite(), scale_gradient(logits, size), logits)


def _exchange_rows(
    batch: Batch,
    is_weighted: bool,
    headers: list[Header],
    config: LossConfig,
    group: dist.ProcessGroup | None,
) -> Rows:
    """Return the rows of all ranks, of which this rank's are attached."""
    rank, counts = dist.get_rank(group), [h.rows for h in headers]
    dtype = common_dtype(headers)
    own = batch.logits.to(dtype)
    table = pack(batch, own.detach(), is_weighted)
    padded = table.new_zeros(max(counts), table.shape[1])
    padded[: counts[rank]] = table
    blocks = all_gather(padded, group) if max(counts) else padded.expand(len(counts), -1, -1)
    table = torch.cat([block[:rows] for block, rows in zip(blocks, counts, strict=True)])

    unpack = unpack_multilabel if is_multilabel(batch.targets) else unpack_classes
    logits, targets, iid, weight = unpack(table, dtype, own.shape[1], config.ignore_index)
    start = sum(counts[:rank])
    attached = attach_for_average(own, len(counts))
    logits = torch.cat([logits[:start], attached, logits[start + counts[rank] :]])
    return Rows(logits, targets, iid, weight if is_weighted else None)
