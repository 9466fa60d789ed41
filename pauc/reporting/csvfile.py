"""Columns of a CSV file, read by the standard library in blocks of rows.

A block is converted as a whole, without regard to line numbers. Only once a cell is found to be bad
is the file read again, line by line, to say where.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

__all__ = ["Kind", "read_columns", "read_head"]

_BLOCK = 1 << 9  # rows: larger blocks of lists keep the garbage collector busy
_DELIMITERS = ",;\t|"


class Kind(NamedTuple):
    """How the cells of a column are read."""

    block: Callable[[list[str]], Sequence[Any]]  # many cells at once; may refuse what `cell` takes
    cell: Callable[[str], Any]  # one cell; its ValueError says what was expected


def read_head(path: Path, rows: int) -> tuple[list[str], list[list[str]]]:
    """Return the names in the first line, and the cells of the first rows.

    Raises:
        OSError: the file cannot be read.
        ValueError: no text, no rows, or a first line without names.
    """
    names = _names(path)
    sample = [row for _, row in islice(_rows(path, len(names)), rows)]
    if not sample:
        raise ValueError(f"{path}, line 2: expected rows below the names of the columns, got none")
    return names, sample


def read_columns(
    path: Path, names: Sequence[str], wanted: Mapping[str, Kind]
) -> dict[str, list[Any]]:
    """Return the values of each wanted column.

    Raises:
        ValueError: a cell that is refused, or a line with too few or too many cells.
    """
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    for block in _blocks(path, len(names)):
        for name, kind in wanted.items():
            place = names.index(name)
            values = _converted([row[place] for row in block], kind)
            if values is None:
                _say_where(path, names, wanted)
            found[name].extend(values)
    return found


def _blocks(path: Path, width: int) -> Iterator[list[list[str]]]:
    """Yield the rows below the first line, many at a time."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        delimiter = _delimiter(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter)
        next(reader)
        try:
            while block := list(islice(reader, _BLOCK)):
                if set(map(len, block)) != {width}:
                    block = [row for row in block if row]  # blank lines are passed over
                    _check_widths(path, block, width)
                yield block
        except (csv.Error, UnicodeDecodeError):
            _say_where(path, [""] * width, {})


def _check_widths(path: Path, block: list[list[str]], width: int) -> None:
    """Raise the error of the first line with too few or too many cells, if there is one."""
    if any(len(row) != width for row in block):
        _say_where(path, [""] * width, {})


def _converted(cells: list[str], kind: Kind) -> Sequence[Any] | None:
    """Return the values of cells; None if one of them is refused."""
    try:
        return kind.block(cells)
    except (ValueError, KeyError):
        pass
    try:
        return [kind.cell(cell) for cell in cells]
    except ValueError:
        return None


def _names(path: Path) -> list[str]:
    """Return the names in the first line; raise unless they are names, all different."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            line = file.readline()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line 1: expected text in UTF-8, got {error}") from error
    names = [name.strip() for name in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    if not any(names):
        raise ValueError(f"{path}, line 1: expected the names of the columns, got nothing")
    if any(_is_number(name) for name in names):
        raise ValueError(f"{path}, line 1: expected the names of the columns, got {line.strip()!r}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}, line 1: expected different names of the columns, got {twice}")
    return names


def _delimiter(line: str) -> str:
    """Return the delimiter that the line has most of, a comma if it has none."""
    return max(_DELIMITERS, key=line.count)


def _rows(path: Path, width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of each row below the first line; blank lines are passed over."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        line = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=_delimiter(line))
        try:
            next(reader)
            for row in reader:
                if len(row) == width:
                    yield reader.line_num, row
                elif row:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: expected {width} cells, got {len(row)}"
                    )
        except (csv.Error, UnicodeDecodeError) as error:
            number = reader.line_num + 1
            raise ValueError(
                f"{path}, line {number}: expected CSV in UTF-8, got {error}"
            ) from error


def _say_where(path: Path, names: Sequence[str], wanted: Mapping[str, Kind]) -> NoReturn:
    """Read the file line by line, and raise the error of the first bad line or cell."""
    for line, row in _rows(path, len(names)):
        for name, kind in wanted.items():
            cell = row[names.index(name)]
            try:
                kind.cell(cell)
            except ValueError as error:
                where = f"{path}, line {line}, column {name!r}"
                raise ValueError(f"{where}: {error}, got {cell!r}") from None
    raise RuntimeError(f"{path} has changed while it was read")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
