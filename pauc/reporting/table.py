"""A file of scores as tensors: which columns are meant, and what their cells mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pauc._public import public_in
from pauc.reporting import csvfile, parquet
from pauc.reporting.csvfile import Kind

__all__ = ["ScoreTable", "read_scores"]

_SAMPLE = 1000  # rows by which a column is guessed
_IGNORED = -100
_TARGETS = {
    **dict.fromkeys(("0", "0.0", "false"), 0),
    **dict.fromkeys(("1", "1.0", "true"), 1),
    **dict.fromkeys(("", "nan", "null", "none", "na"), _IGNORED),
}
_TARGET_NAMES = ("target", "targets", "label", "labels", "y", "y_true", "truth", "class", "outcome")
_SCORE_NAME = re.compile(r"score|prob|pred|logit|model", re.IGNORECASE)


@public_in("pauc.reporting")
class ScoreTable(NamedTuple):
    """Rows of a file."""

    scores: dict[str, Tensor]  # [N] float64 for each model
    targets: Tensor  # [N] int64 of 0, 1 and -100, where the file has no label
    groups: list[str] | None  # [N], the group of each row
    notes: tuple[str, ...]  # what was read, and which columns were guessed


class _Chosen(NamedTuple):
    target: str
    scores: list[str]
    group: str | None
    notes: tuple[str, ...]


def read_scores(
    path: str | Path,
    *,
    target: str | None = None,
    scores: Sequence[str] | None = None,
    group: str | None = None,
) -> ScoreTable:
    """Read scores and targets from a CSV or Parquet file.

    A CSV file has the names of its columns in the first line, and commas, semicolons, tabs or bars
    between its cells. A target is 0, 1, true or false, or empty where there is no label. A score is
    a number. Columns that are not named here are guessed, and ``notes`` say so: the target by its
    name ("target", "label", "y", ...), or as the only column of zeros and ones; the scores by
    "score", "prob", "pred", "logit" or "model" in their names, or as the only other numbers. A
    group is never guessed.

    Args:
        path: a file; ``.parquet`` and ``.pq`` are Parquet (extra ``report``), all else is CSV.
        target: the column of the targets.
        scores: the columns of the models.
        group: the column of the groups.

    Raises:
        OSError: the file cannot be read.
        ImportError: Parquet without pyarrow.
        ValueError: an unknown column, one that cannot be guessed, or a bad cell, with its line and
            column.
    """
    path = Path(path)
    reader: Any = parquet if path.suffix.lower() in (".parquet", ".pq") else csvfile
    names, sample = reader.read_head(path, _SAMPLE)
    chosen = _choose(path, names, sample, target, scores, group)
    wanted = {chosen.target: _TARGET, **dict.fromkeys(chosen.scores, _SCORE)}
    if chosen.group is not None:
        wanted[chosen.group] = _GROUP
    found = reader.read_columns(path, names, wanted)
    return ScoreTable(
        {name: torch.tensor(found[name], dtype=torch.float64) for name in chosen.scores},
        torch.tensor(found[chosen.target], dtype=torch.int64),
        None if chosen.group is None else found[chosen.group],
        chosen.notes,
    )


def _choose(
    path: Path,
    names: list[str],
    sample: list[list[str]],
    target: str | None,
    scores: Sequence[str] | None,
    group: str | None,
) -> _Chosen:
    """Return the columns that are meant; raise for one that is not there or cannot be guessed."""
    asked = [*([target] if target else []), *(scores or ()), *([group] if group else [])]
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise ValueError(f"{path}: expected columns among {names}, got {unknown}")
    twice = sorted({name for name in asked if asked.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: expected each column in one place only, got {twice} in two")
    cells = dict(zip(names, zip(*sample, strict=True), strict=True))
    notes = []
    if target is None:
        free = [name for name in names if name not in asked]
        target, why = _guess_target(path, free, cells)
        notes.append(f"target: column {target!r}, guessed by its {why}")
    if scores is None:
        free = [name for name in names if name not in (target, group)]
        scores, why = _guess_scores(path, free, cells)
        notes.append(f"scores: {_listed(scores)}, guessed by {why}")
    return _Chosen(target, list(scores), group, tuple(notes))


def _guess_target(path: Path, names: list[str], cells: dict[str, Any]) -> tuple[str, str]:
    """Return the column of the targets, and by what it was guessed."""
    by_name = [name for name in names if name.lower() in _TARGET_NAMES]
    if len(by_name) == 1:
        return by_name[0], "name"
    binary = [name for name in names if all(_accepts(_TARGET, cell) for cell in cells[name])]
    if not by_name and len(binary) == 1:
        return binary[0], "zeros and ones"
    raise ValueError(
        f"{path}: expected one column of targets, got {_listed(by_name or binary) or 'none'} "
        f"among {names}. Name it: target=, or --target"
    )


def _guess_scores(path: Path, names: list[str], cells: dict[str, Any]) -> tuple[list[str], str]:
    """Return the columns of the models, and by what they were guessed."""
    numbers = [name for name in names if all(_accepts(_SCORE, cell) for cell in cells[name])]
    by_name = [name for name in numbers if _SCORE_NAME.search(name)]
    if by_name:
        return by_name, "name"
    if len(numbers) == 1:
        return numbers, "being the only numbers"
    raise ValueError(
        f"{path}: expected columns of scores, got {_listed(numbers) or 'no numbers'} among "
        f"{names}. Name them: scores=, or --scores"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _accepts(kind: Kind, cell: str) -> bool:
    try:
        kind.cell(cell)
    except ValueError:
        return False
    return True


def _target(cell: str) -> int:
    """Return 0, 1 or -100."""
    found = _TARGETS.get(cell.strip().lower())
    if found is None:
        raise ValueError("expected 0, 1, true, false or nothing")
    return found


def _score(cell: str) -> float:
    """Return a number that is not nan."""
    try:
        value = float(cell)
    except ValueError:
        raise ValueError("expected a number") from None
    if value != value:
        raise ValueError("expected a number")
    return value


def _score_block(cells: list[str]) -> list[float]:
    """Return numbers without nan; a sum is nan where one of them is, or by infinities."""
    values = list(map(float, cells))
    if math.isnan(sum(values)):
        raise ValueError
    return values


_TARGET = Kind(lambda cells: [_TARGETS[cell] for cell in cells], _target)
_SCORE = Kind(_score_block, _score)
_GROUP = Kind(lambda cells: cells, str)
