"""Columns of a Parquet file, by pyarrow; bad cells are named by row, counted from 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pauc.reporting.csvfile import Kind

__all__ = ["read_columns", "read_head"]


def read_head(path: Path, rows: int) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns, and the first rows as a CSV file would hold them."""
    file = _pyarrow().ParquetFile(path)
    names = list(file.schema_arrow.names)
    batch = next(file.iter_batches(batch_size=rows), None)
    if batch is None or not batch.num_rows:
        raise ValueError(f"{path}: expected rows, got none")
    columns = [[_text(value) for value in column.to_pylist()] for column in batch.columns]
    return names, [list(row) for row in zip(*columns, strict=True)]


def read_columns(
    path: Path, names: Sequence[str], wanted: Mapping[str, Kind]
) -> dict[str, list[Any]]:
    """Return the values of each wanted column, all of which are among ``names``.

    Raises:
        ValueError: a cell that is refused.
    """
    assert set(wanted) <= set(names)
    table = _pyarrow().read_table(path, columns=list(wanted))
    return {
        name: _column(path, name, table[name].to_pylist(), kind) for name, kind in wanted.items()
    }


def _column(path: Path, name: str, values: list[Any], kind: Kind) -> list[Any]:
    """Return the converted values, or raise for the first that cannot be."""
    if all(type(value) is float and value == value for value in values):
        return values
    found = []
    for row, value in enumerate(values, start=1):
        try:
            found.append(kind.cell(_text(value)))
        except ValueError as error:
            where = f"{path}, row {row}, column {name!r}"
            raise ValueError(f"{where}: {error}, got {_text(value)!r}") from None
    return found


def _text(value: Any) -> str:
    """Return a value as CSV has it: nothing for a null."""
    return "" if value is None else str(value)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "reading Parquet needs pyarrow, which is not installed. Cure: "
            "pip install 'torch-pauc[report]'"
        ) from error
    return pyarrow.parquet
