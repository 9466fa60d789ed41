"""Sets of rows in few bytes: the rows of a mask by their rank, and the rows of several classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# A scan of all rows works in blocks of this many, so that what it makes on the way stays small.
BLOCK = 2**22


class RowSet:
    """The rows where a mask ``[N]`` is True, in ascending order, found by their rank.

    Either the rows themselves are held, or those that are missing: the shorter list of the two, in
    four bytes a row. A hundred million negatives beside few positives then take no memory.
    """

    def __init__(self, mask: Tensor) -> None:
        self._count = int(mask.count_nonzero())
        self._holds_missing = 2 * self._count > len(mask)
        listed = ~mask if self._holds_missing else mask
        self._listed = narrow_rows(listed.nonzero().squeeze(1), len(mask))
        if self._holds_missing:
            # The j-th missing row has this many rows of the set before it, an ascending list too.
            order = torch.arange(len(self._listed), dtype=self._listed.dtype)
            self._listed = self._listed - order

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def at(self, ranks: Tensor) -> Tensor:
        """Return ``[n]`` int64: the rows of the ``ranks [n]`` int, from 0 up to the length."""
        if not self._holds_missing:
            return self._listed[ranks].long()
        ranks = ranks.long()
        narrow = ranks.to(self._listed.dtype)  # or `searchsorted` would widen the whole list
        return ranks + torch.searchsorted(self._listed, narrow, right=True)


class Groups(NamedTuple):
    """Rows of several classes: ``rows[starts[k] : starts[k] + sizes[k]]`` are those of one."""

    rows: Tensor  # [K] int32 or int64
    starts: Tensor  # [G] int64
    sizes: Tensor  # [G] int64, each at least 1

    def draw(self, of: Tensor, uniform: Tensor) -> Tensor:
        """Return ``[n]`` int64: a row of each class ``of [n]``, by ``uniform [n]`` in [0, 1)."""
        return self.rows[self.starts[of] + (uniform * self.sizes[of]).long()].long()


def positives_of(labels: Tensor, num_classes: int) -> Groups:
    """Return the positives of each class that has some.

    Args:
        labels: ``[N]``, -1 where a row is absent, or ``[N, C]``, 1 for a positive.
        num_classes: 1 is binary: the rows with label 1. Otherwise, of labels ``[N]``, every present
            row is a positive of its own class.
    """
    if labels.ndim == 2:
        classes, rows = (labels.T == 1).nonzero(as_tuple=True)
    else:
        rows = ((labels == 1) if num_classes == 1 else (labels >= 0)).nonzero().squeeze(1)
        classes = labels[rows]
        order = classes.argsort(stable=True) if num_classes > 1 else slice(None)
        rows = rows[order]
    sizes = torch.bincount(classes)
    sizes = sizes[sizes > 0]
    return Groups(narrow_rows(rows, len(labels)), sizes.cumsum(0) - sizes, sizes)


def narrow_rows(rows: Tensor, n_rows: int) -> Tensor:
    """Return the ``rows`` in four bytes each, where those can hold every row below ``n_rows``."""
    return rows.to(row_dtype(n_rows))


def row_dtype(n_rows: int) -> torch.dtype:
    """Return the dtype in which rows are held."""
    return torch.int32 if n_rows < 2**31 else torch.int64


def blocks(n_rows: int) -> Iterator[slice]:
    """Yield the slices of a scan of all rows."""
    for start in range(0, n_rows, BLOCK):
        yield slice(start, start + BLOCK)
