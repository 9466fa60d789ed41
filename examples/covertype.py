"""Covertype, the examples' real data: is a cell of forest aspen (1.6 % of 581,012) or not?

The table lies next to this file, see data/README.md, so nothing is downloaded.

    from covertype import load, mlp
    data = load(seed=0)                       # data.train, data.validation, data.test
    logits = mlp()(data.train.features)       # [290506, 1]

`python examples/covertype.py` prints the sizes of the three parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TABLE = Path(__file__).parent / "data" / "covertype.npz"
N_FEATURES = 54  # 10 continuous, 4 wilderness areas, 40 soil types
ASPEN = 5  # in the table's cover types 1..7
TRAIN, VALIDATION = 0.5, 0.1  # shares of the rows; the other 40 % are for testing
QUICK_ROWS = 60_000


class Part(NamedTuple):
    features: Tensor  # float32 [N, 54]
    targets: Tensor  # int64 [N]: 1 is aspen; with multiclass=True the cover type, 0..6


class Covertype(NamedTuple):
    train: Part
    validation: Part  # every choice (a recipe, a threshold) is made here
    test: Part  # looked at once, at the end


def load(seed: int = 0, *, quick: bool = False, multiclass: bool = False) -> Covertype:
    """Split the rows at random into 50 % train, 10 % validation and 40 % test.

    `quick` keeps 60,000 random rows. A random split puts neighbouring cells on both sides, so the
    scores on `test` say how losses compare, not how well a new region would be mapped.
    """
    with np.load(TABLE) as table:
        arrays = {name: torch.from_numpy(table[name]) for name in table.files}
    n_table = len(arrays["cover_type"])
    rows = torch.randperm(n_table, generator=torch.Generator().manual_seed(seed))
    rows = rows[:QUICK_ROWS] if quick else rows
    n_train, n_validation = int(TRAIN * len(rows)), int(VALIDATION * len(rows))

    cover_type = arrays["cover_type"][rows].long()
    targets = cover_type - 1 if multiclass else (cover_type == ASPEN).long()
    features = torch.cat(
        [
            standardise(arrays["continuous"][rows].float(), n_train),
            F.one_hot(arrays["wilderness"][rows].long(), 4).float(),
            F.one_hot(arrays["soil"][rows].long(), 40).float(),
        ],
        dim=1,
    )
    cuts = [n_train, n_train + n_validation]
    parts = zip(features.tensor_split(cuts), targets.tensor_split(cuts), strict=True)
    return Covertype(*(Part(x, y) for x, y in parts))


def standardise(columns: Tensor, n_train: int) -> Tensor:
    """Zero mean and unit variance over the first `n_train` rows: the others are not to be seen."""
    train = columns[:n_train]
    return (columns - train.mean(dim=0)) / train.std(dim=0)


def mlp(n_outputs: int = 1) -> nn.Sequential:
    """The examples' model, 54-128-64-n_outputs; raw logits, no sigmoid at the end."""
    return nn.Sequential(
        nn.Linear(N_FEATURES, 128), nn.ReLU(),
        nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, n_outputs),
    )  # fmt: skip


if __name__ == "__main__":
    for name, part in load()._asdict().items():
        print(f"{name:>10}: {len(part.targets):7,} rows, {int(part.targets.sum()):5,} aspen")
