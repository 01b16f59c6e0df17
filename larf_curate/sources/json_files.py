"""JSON and JSON lines as tables, without altering a value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import DataError
from .json_documents import BEGINNING, Place, as_row, read_rows, refuse_columns
from .json_types import has_surrogate, infer_type, join_types
from .json_values import array_of
from .schemas import say_what_lacks
from .tables import ROWS_AT_ONCE, DataFile, chunks_of
from .text_files import kind_of


def scan_json(paths: Sequence[Path], field: str = "") -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The schema that holds every value of these files as it is, and where their rows are.

    Parsed by the standard library: Arrow's own reader turns strings that look like dates into dates.

    Args:
        paths: the files of one dataset.
        field: see `read_rows`.

    Raises:
        DataError: one cannot be read, or is no table of rows; names the line.
    """
    types: dict[str, pa.DataType] = {}
    files: list[DataFile] = []
    columns: list[set[str]] = []
    for path in paths:
        count = 0
        columns.append(set())
        marks: list[tuple[int, int, int]] = []
        chunk: list[_Record] = []
        for chunk in chunks_of(_records(path, field), ROWS_AT_ONCE):
            if chunk[0].place is not None:
                marks.append((count, *chunk[0].place))
            count += len(chunk)
            for column in dict.fromkeys(key for record in chunk for key in record.row):
                columns[-1].add(column)
                values = [record.row.get(column) for record in chunk]
                kind = _type_of(values, column, chunk)
                types[column] = join_types(types.get(column, pa.null()), kind)
        if count == 1 and not field:
            refuse_columns(path, chunk[0].row)
        files.append(DataFile(str(path), kind_of(path), count, marks=tuple(marks), field=field))
    if len(paths) > 1:
        say_what_lacks(paths, [[name for name in types if name in those] for those in columns])
    schema = pa.schema([(column, pa.string() if pa.types.is_null(kind) else kind) for column, kind in types.items()])
    return schema, tuple(files)


def read_json(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows from `start` on, in tables of at most `size` rows."""
    row, byte, line = max((mark for mark in file.marks if mark[0] <= start), default=(0, 0, 1))
    records = itertools.islice(_records(Path(file.path), file.field, Place(byte, line)), start - row, None)
    for chunk in chunks_of(records, size):
        yield pa.table([array_of([record.row.get(f.name) for record in chunk], f.type) for f in schema], schema)


class _Record(NamedTuple):
    where: str
    row: dict[str, Any]
    place: Place | None


def _records(path: Path, field: str, start: Place = BEGINNING) -> Iterator[_Record]:
    for number, place, value in read_rows(path, field, start):
        row = as_row(value)
        where = f"{path}, row {number - 1}" if place is None else f"{path}, line {number}"  # rows count from 0
        if not isinstance(row, dict):
            raise DataError(f"{where}: {type(row).__name__} where an object is wanted")
        if any(has_surrogate(key) for key in row):
            raise DataError(f"{where}: a column's name holds half of a surrogate pair, which is no text")
        yield _Record(where, row, place)


def _type_of(values: list[Any], column: str, chunk: Sequence[_Record]) -> pa.DataType:
    try:
        return infer_type(values)
    except UnicodeEncodeError:
        where = next(record.where for record in chunk if has_surrogate(record.row.get(column)))
        raise DataError(
            f"{where}, column {column!r}: half of a surrogate pair (\\ud800 to \\udfff alone), which is no text; "
            "replace it, for example by \\ufffd"
        ) from None
