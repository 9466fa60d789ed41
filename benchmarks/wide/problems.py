"""A problem: rows with labels, split in three, and the network that is trained on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.coverage import datasets
from benchmarks.coverage.datasets import SOURCES, thin
from benchmarks.coverage.training import mlp

from . import fashion, flights, glosses


class Data(NamedTuple):
    """``inputs[rows]`` is what a network takes; for bags of grams, the rows themselves."""

    inputs: Tensor  # [N, ...]
    targets: Tensor  # int64 [N]
    train: Tensor  # int64, rows
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Problem:
    load: Callable[[int], Data]  # of a seed
    model: Callable[[], nn.Module]
    epochs: int
    batch_size: int
    lr: float
    every: int = 1  # epochs between two looks at the validation rows
    starts_at_zero: bool = False  # a linear model, whose bias should start there too


def _split(n: int, seed: int, *, test: float, validation: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return training, validation and test rows; the test rows are the same for all seeds."""
    fixed = _permutation(n, 0)
    tested, rest = fixed[: int(test * n)], fixed[int(test * n) :]
    rest = rest[_permutation(len(rest), 1 + seed)]
    return rest[int(validation * n) :], rest[: int(validation * n)], tested


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def table(name: str, seed: int) -> Data:
    parts = datasets.split(SOURCES[name], seed)
    sizes = [len(part.targets) for part in parts]
    rows = torch.arange(sum(sizes)).split(sizes)  # type: ignore[no-untyped-call]
    inputs, targets = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return Data(inputs, targets, *rows)


def flights_by_time(seed: int) -> Data:  # noqa: ARG001, time leaves nothing to draw
    """Train to August, validate in September, test from October on."""
    numbers, flags, targets, month = flights.flights()
    parts = (month <= 8, month == 9, month >= 10)
    train, validation, test = (part.nonzero()[:, 0] for part in parts)
    missing = numbers.isnan()
    filled = torch.where(missing, numbers[train].nanmedian(dim=0).values, numbers)
    mean, std = filled[train].mean(dim=0), filled[train].std(dim=0).clamp_min(1e-6)
    some_missing = missing[:, missing.any(dim=0)].float()
    inputs = torch.cat([(filled - mean) / std, some_missing, flags], dim=1)
    return Data(inputs, targets, train, validation, test)


def text(category: str, seed: int, *, encoded: bool = False) -> Data:
    targets = glosses.is_in(category)
    inputs = glosses.embeddings() if encoded else torch.arange(len(targets))
    return Data(inputs, targets, *_split(len(targets), seed, test=0.4, validation=0.15))


def image(name: str, seed: int) -> Data:
    """1 % of the training rows are positives; validation and test rows are left as they are."""
    pixels, labels = fashion.images()
    targets = (labels == fashion.CLASSES[name]).long()
    train, validation, test = _split(len(targets), seed, test=0.4, validation=8 / 70)
    return Data(pixels, targets, thin(train, targets, 0.01, seed), validation, test)


def network(width: int) -> nn.Module:
    return mlp(width, (128, 64))


_bag = partial(Problem, model=glosses.bag_of_embeddings, epochs=10, batch_size=512, lr=2e-3)
_linear = partial(
    Problem,
    model=glosses.linear_on_tfidf,
    epochs=20,
    batch_size=512,
    lr=1e-2,
    every=2,
    starts_at_zero=True,
)
_head = partial(Problem, model=glosses.head_on_encoder, epochs=10, batch_size=512, lr=1e-3)
_cnn = partial(Problem, model=fashion.CNN, epochs=8, batch_size=256, lr=1e-3, every=2)
_net = partial(Problem, batch_size=1024, lr=1e-3)

PROBLEMS = {
    "covertype": _net(partial(table, "covertype"), partial(network, 54), epochs=20, every=2),
    "covertype-thin": _net(
        partial(table, "covertype-thin"), partial(network, 54), epochs=20, every=2
    ),
    "kdd2004": _net(partial(table, "kdd2004"), partial(network, 74), epochs=20, every=2),
    "fars": _net(partial(table, "fars"), lambda: network(_width("fars")), epochs=15),
    "flights": _net(flights_by_time, lambda: network(_width("flights")), epochs=10),
    **{f"{c}, bag": _bag(partial(text, c)) for c in ("quantity", "possession", "time")},
    **{f"{c}, linear": _linear(partial(text, c)) for c in ("quantity", "possession", "time")},
    **{
        f"{c}, encoder": _head(partial(text, c, encoded=True))
        for c in ("quantity", "possession", "time")
    },
    **{name: _cnn(partial(image, name)) for name in fashion.CLASSES},
}


@lru_cache(maxsize=1)
def data_of(name: str, seed: int) -> Data:
    return PROBLEMS[name].load(seed)


def _width(name: str) -> int:
    return data_of(name, 0).inputs.shape[1]
