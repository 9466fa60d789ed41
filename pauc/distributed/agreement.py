"""What every rank tells the others before a step, so that all go on or all raise."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pauc.config import LossConfig, options_of
from pauc.core.batch import Batch, Rows, check_rows, make_batch
from pauc.core.queue import QueueState, check_counters, is_multilabel
from pauc.distributed.ranks import all_gather


class Header(NamedTuple):
    """What every rank tells before the rows; travels as int64."""

    failed: int  # 1: the checks of the rank's own rows raised
    rows: int
    wide: int  # 1: the arithmetic is float64
    settings: int  # digest of what must be the same on all ranks
    queue: tuple[int, ...]  # those of its counters that must be the same


def agree(
    rows: Rows,
    queue: QueueState,
    config: LossConfig,
    validate_args: bool,
    settings: Mapping[str, object] | None,
    counters: tuple[str, ...],
    group: dist.ProcessGroup | None,
) -> tuple[Batch, list[Header]]:
    """Return this rank's checked batch and all ranks' headers, or raise on every rank.

    Args:
        rows: this rank's.
        queue: this rank's, whose shape must be the same on all ranks.
        config, settings: must be the same on all ranks, and whether there are weights.
        validate_args: check the values of the rows.
        counters: which of the queue's numbers must be the same on all ranks.
        group: the ranks; None: all.
    """
    shared = {
        "num_classes": queue.scores.shape[0],
        "multilabel": is_multilabel(queue.targets),
        "queue_size": queue.scores.shape[1],
        **options_of(config),
        **(settings or {}),
        "sample_weight is given": rows.sample_weight is not None,
    }
    error: Exception | None = None
    batch: Batch | None = None
    try:
        check_rows(rows, queue)
        if validate_args:
            check_counters(queue)
        # The ranks wait for each other in any case, and are all to hear what came.
        batch = make_batch(
            rows, queue, config.ignore_index, check_values=validate_args, may_wait=True
        )
    except Exception as raised:  # whatever it is, the other ranks wait for the header
        error = raised
    state = {name: getattr(queue, name) for name in counters}
    headers = _exchange_headers(batch, _digest(shared), torch.stack([*state.values()]), group)
    if any(h.failed for h in headers) or any(h[3:] != headers[0][3:] for h in headers):
        _raise_everywhere(
            error, {**shared, **{f"queue {k}": int(v) for k, v in state.items()}}, group
        )
    assert batch is not None  # its rank has raised
    return batch, headers


def common_dtype(headers: list[Header]) -> torch.dtype:
    """Return the dtype of the arithmetic of all ranks."""
    return torch.float64 if any(h.wide for h in headers) else torch.float32


def _exchange_headers(
    batch: Batch | None, digest: int, counters: Tensor, group: dist.ProcessGroup | None
) -> list[Header]:
    """Return the headers of all ranks."""
    wide = batch is not None and batch.logits.dtype == torch.float64
    rows = 0 if batch is None else batch.logits.shape[0]
    known = torch.tensor([batch is None, rows, wide, digest], dtype=torch.int64, device="cpu")
    header = torch.cat([known.to(counters.device), counters])
    return [
        Header(failed, rows, wide, settings, tuple(rest))
        for failed, rows, wide, settings, *rest in all_gather(header, group).tolist()
    ]


def _digest(shared: Mapping[str, object]) -> int:
    """Return 63 bits and a sign that stand for the settings, the same in every process."""
    digest = hashlib.sha256(repr(sorted(shared.items())).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _raise_everywhere(
    error: Exception | None, shared: Mapping[str, object], group: dist.ProcessGroup | None
) -> None:
    """Raise on every rank, with the cause: all ranks have seen in the headers that there is one.

    A further exchange, of Python objects, since the headers only say that something is wrong.
    """
    message = None if error is None else f"{type(error).__name__}: {error}"
    settings = {name: repr(value) for name, value in shared.items()}
    reports: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(reports, (message, settings), group=group)
    if error is not None:
        raise error
    refused = [f"rank {r} ({message})" for r, (message, _) in enumerate(reports) if message]
    if refused:
        raise RuntimeError(f"no step was taken, for the rows of {', '.join(refused)} were refused")
    everyone = [settings for _, settings in reports]
    differences = [
        f"{name}: {_by_value([s.get(name) for s in everyone])}"
        for name in everyone[0]
        if len({s.get(name) for s in everyone}) > 1
    ]
    raise ValueError(
        f"all ranks must have the same settings and queue, got {'; '.join(differences)}. "
        "Cure: build the loss and load its checkpoint in the same way on every rank"
    )


def _by_value(values: list[str | None]) -> str:
    """Return each value with the ranks that have it, for an error message."""
    ranks: dict[str | None, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return ", ".join(
        f"{value} on rank {', '.join(where[:3])}{', ...' if len(where) > 3 else ''}"
        for value, where in ranks.items()
    )
