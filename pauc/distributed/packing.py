"""How rows travel between ranks: as a table of 32-bit words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pauc.core.batch import Batch
from pauc.core.queue import is_multilabel

# How a target travels: in 31 bits, next to the bit of the iid mask. No class index comes near.
_LARGEST = (1 << 30) - 1
_IGNORED = -_LARGEST - 1


def pack(batch: Batch, logits: Tensor, weighted: bool) -> Tensor:
    """Return rows as ``[n, words]`` int32: logits, weight if any, and target with iid bit.

    A row is ``4 C + 4`` bytes, 4 more with weights; ``8 C + 4`` and 8 more in float64. Multi-label
    it is a byte more for each class, rounded up to 4.
    """
    columns = [logits, batch.weight.to(logits.dtype).unsqueeze(1)] if weighted else [logits]
    words = torch.cat(columns, dim=1).view(torch.int32)
    if is_multilabel(batch.targets):
        label = torch.where(batch.present, batch.positive(), -1)
        label = torch.cat([label, batch.iid.unsqueeze(1)], dim=1).to(torch.int8)
        label = pad(label, (0, -label.shape[1] % 4))
        return torch.cat([words, label.view(torch.int32)], dim=1)
    target = torch.where(batch.present, batch.targets.clamp(-_LARGEST, _LARGEST), _IGNORED)
    code = (2 * target + batch.iid).to(torch.int32)
    return torch.cat([words, code.unsqueeze(1)], dim=1)


def unpack_classes(
    table: Tensor, dtype: torch.dtype, num_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits ``[N, C]``, targets, iid mask and weight; the inverse of :func:`pack`."""
    # A copy at any rate: one row would pass for contiguous, with strides that no float64 fits.
    numbers = table[:, :-1].clone(memory_format=torch.contiguous_format).view(dtype)
    code = table[:, -1].long()
    target = code >> 1
    targets = torch.where(target == _IGNORED, ignore_index, target)
    return numbers[:, :num_classes], targets, (code & 1).bool(), numbers[:, -1]


def unpack_multilabel(
    table: Tensor, dtype: torch.dtype, num_classes: int, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`unpack_classes`, with targets ``[N, C]``."""
    words = num_classes // 4 + 1  # of C labels and the iid bit
    numbers = table[:, :-words].clone(memory_format=torch.contiguous_format).view(dtype)
    label = table[:, -words:].clone(memory_format=torch.contiguous_format).view(torch.int8)
    target, iid = label[:, :num_classes].long(), label[:, num_classes].bool()
    targets = torch.where(target == -1, ignore_index, target)
    return numbers[:, :num_classes], targets, iid, numbers[:, -1]
