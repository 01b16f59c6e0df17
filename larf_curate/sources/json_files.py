"""JSON and JSON lines as tables, without altering a value."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from ..errors import DataError, one_line
from .json_types import has_surrogate, infer_type, join_types
from .json_values import array_of
from .tables import ROWS_AT_ONCE, DataFile, chunks_of
from .text_files import kind_of, open_bytes


def scan_json(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The schema that holds every value of these files as it is, and where their rows are.

    Parsed by the standard library: Arrow's own reader turns strings that look like dates into dates.
    """
    types: dict[str, pa.DataType] = {}
    files: list[DataFile] = []
    for path in paths:
        count = 0
        marks: list[tuple[int, int, int]] = []
        for chunk in chunks_of(_records(path), ROWS_AT_ONCE):
            if chunk[0].byte is not None:
                marks.append((count, chunk[0].byte, chunk[0].number))
            count += len(chunk)
            for column in dict.fromkeys(key for record in chunk for key in record.row):
                values = [record.row.get(column) for record in chunk]
                kind = _type_of(values, column, chunk)
                types[column] = join_types(types.get(column, pa.null()), kind)
        files.append(DataFile(str(path), kind_of(path), count, marks=tuple(marks)))
    schema = pa.schema([(column, pa.string() if pa.types.is_null(kind) else kind) for column, kind in types.items()])
    return schema, tuple(files)


def read_json(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    row, byte, line = max((mark for mark in file.marks if mark[0] <= start), default=(0, 0, 1))
    records = itertools.islice(_records(Path(file.path), byte, line), start - row, None)
    for chunk in chunks_of(records, size):
        yield pa.table([array_of([record.row.get(f.name) for record in chunk], f.type) for f in schema], schema)


class _Record(NamedTuple):
    where: str
    row: dict[str, Any]
    number: int
    byte: int | None


def _records(path: Path, byte: int = 0, line: int = 1) -> Iterator[_Record]:
    for number, at, row in _json_rows(path, byte, line):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise DataError(f"{where}: {type(row).__name__} where an object is wanted")
        if any(has_surrogate(key) for key in row):
            raise DataError(f"{where}: a column's name holds half of a surrogate pair, which is no text")
        yield _Record(where, row, number, at)


def _json_rows(path: Path, byte: int, line: int) -> Iterator[tuple[int, int | None, Any]]:
    """Number (of the line, or of the item in an array), where it begins in bytes, and value of every row."""
    with open_bytes(path) as file:
        if not byte and _is_array(file):
            try:
                rows = json.loads(file.read().decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise _broken(path, getattr(error, "lineno", 1), error) from error
            yield from ((number, None, row) for number, row in enumerate(rows, 1))
            return
        file.seek(byte)
        for number, content in enumerate(file, line):
            text = content.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                try:
                    row = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise _broken(path, number, error) from error
                yield number, byte, row
            byte += len(content)


def _is_array(file: BinaryIO) -> bool:
    start = file.read(3)
    start = file.read(1) if start == codecs.BOM_UTF8 else start
    while start and not start.strip():
        start = file.read(1)
    file.seek(0)
    return start.strip().startswith(b"[")


def _broken(path: Path, line: int, error: Exception) -> DataError:
    if isinstance(error, json.JSONDecodeError):
        why = f"{error.msg}, character {error.colno}"
    elif isinstance(error, RecursionError):
        why = "nested too deep"
    else:
        why = one_line(error)
    return DataError(f"{path}, line {line}: broken JSON ({why}); mend or remove that line")


def _type_of(values: list[Any], column: str, chunk: Sequence[_Record]) -> pa.DataType:
    try:
        return infer_type(values)
    except UnicodeEncodeError:
        where = next(record.where for record in chunk if has_surrogate(record.row.get(column)))
        raise DataError(
            f"{where}, column {column!r}: half of a surrogate pair (\\ud800 to \\udfff alone), which is no text; "
            "replace it, for example by \\ufffd"
        ) from None
