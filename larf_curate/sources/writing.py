"""Results that appear under their name when all of them is written, or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic import scratch_path
from ..errors import OutputError
from ..written import record_all, refuse_foreign
from .json_values import rows_of
from .tables import Source

_GROUP_ROWS = 65_536
_GROUP_BYTES = 64 << 20
"""A row group of Parquet is written once it holds so much; a smaller one only at the end, an empty one never."""


class TableWriter:
    """Writes tables of one schema to `.parquet`, `.jsonl` or `.csv`.

    In a CSV file, what is not a single value is JSON, and null is an empty field. A Parquet file without rows has its
    columns and no row group: `datasets` cannot read an empty one.

    Args:
        path, schema: of the file.
        kind: its ending, if that of `path` is another.
        counting: the numbers in it mostly rise by little, so that a Parquet file holds their differences.
    """

    def __init__(self, path: Path, schema: pa.Schema, kind: str | None = None, *, counting: bool = False) -> None:
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows, self._bytes = 0, 0
        options = _counting(schema) if counting else {}
        self._parquet = pq.ParquetWriter(path, schema, **options) if (kind or path.suffix) == ".parquet" else None
        self._lines = None if self._parquet else path.open("w", encoding="utf-8", newline="\n")
        self._csv = None
        if self._lines is not None and (kind or path.suffix) == ".csv":
            self._csv = csv.writer(self._lines, lineterminator="\n")
            self._csv.writerow(schema.names)

    def write(self, table: pa.Table) -> None:
        """Add rows; those of a Parquet file may be written later."""
        if self._parquet is not None:
            self._waiting.append(table)
            self._rows += len(table)
            self._bytes += table.nbytes
            if self._rows >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
                self._flush()
        elif self._lines is not None:
            for row in rows_of(table, table.column_names):
                try:
                    if self._csv is not None:
                        self._csv.writerow([_field(row[name]) for name in table.column_names])
                    else:
                        self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                except TypeError as error:  # dates, bytes
                    raise OutputError(f"JSON cannot hold these columns ({error}); write .parquet") from error

    def _flush(self) -> None:
        if self._parquet is not None and self._rows:
            waiting = pa.concat_tables(self._waiting)
            self._waiting, self._rows, self._bytes = [], 0, 0
            self._parquet.write_table(waiting)

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            self._flush()
        finally:
            for file in (self._parquet, self._lines):
                if file is not None:
                    file.close()


def _counting(schema: pa.Schema) -> dict[str, Any]:
    """Options of a Parquet file whose whole numbers rise by little: a bit or two for each, in place of 8 bytes."""
    numbers = [field.name for field in schema if pa.types.is_integer(field.type)]
    others = [name for name in schema.names if name not in numbers]
    return {"use_dictionary": others or False, "column_encoding": dict.fromkeys(numbers, "DELTA_BINARY_PACKED")}


def _field(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def write_file(path: Path, schema: pa.Schema, *, counting: bool = False) -> Iterator[TableWriter]:
    """A file that appears under its name when all of it is written, or not at all; for arguments see `TableWriter`.

    Raises:
        OutputError: it cannot be written there, or not in that format.
    """
    if path.suffix not in (".parquet", ".jsonl", ".csv"):
        raise OutputError(f"cannot write {path.name}: give it the ending .parquet, .jsonl or .csv")
    with scratch_path(path, directory=False) as scratch:
        if path.is_dir():  # reported before the rows are scored, not when the file is renamed
            raise OutputError(f"{path} cannot be written: it is a directory")
        writer = TableWriter(scratch, schema, path.suffix, counting=counting)
        try:
            yield writer
        finally:
            writer.close()
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)


@contextlib.contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """A directory that appears under its name when all of it is written, or not at all.

    It replaces an earlier one only if all files in that were written here.

    Raises:
        OutputError: it cannot be written there, or something else is in the way.
    """
    path = path.resolve()
    with scratch_path(path, directory=True) as scratch:
        refuse_occupied(path)
        yield scratch
        record_all(scratch)
        refuse_occupied(path)  # the work may have taken hours
        if not path.exists():
            scratch.rename(path)
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as old:
            aside = Path(old) / "result"
            path.rename(aside)
            try:
                scratch.rename(path)
            except BaseException:
                aside.rename(path)
                raise


def refuse_occupied(path: Path) -> None:
    """Refuse a directory that holds anything but an earlier result.

    Raises:
        OutputError: it holds something else.
    """
    if path.exists() and not path.is_dir():
        raise OutputError(
            f"{path} exists and is not an earlier result of larf-curate; choose another name or remove it"
        )
    refuse_foreign(path)


def refuse_own_source(source: Source, path: Path) -> None:
    """Refuse an output that would overwrite its own source.

    Args:
        source: what is read.
        path: the file or directory to be written.

    Raises:
        OutputError: the source, or a file of it, lies there.
    """
    target = path.resolve()
    for file in source.files:
        read = Path(file.path).resolve()
        if read == target or target in read.parents:
            raise OutputError(f"{path} holds the rows that are read ({read.name}): write to another place")
