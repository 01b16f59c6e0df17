"""CSV and TSV files as tables of strings, every field exactly as it is written: `007` stays `007`, `NA` stays `NA`."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ..errors import DataError
from .tables import DataFile, chunks_of
from .text_files import kind_of, open_text


def scan_csv(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The columns that all the files have, and how many rows each holds.

    Raises:
        DataError: a header is missing or differs, or a line has more or fewer fields than the header.
    """
    header = next(_lines_of(paths[0]), (0, []))[1]
    if not header or len(set(header)) != len(header):
        raise DataError(f"{paths[0]} has no header line, or one that names a column twice: {', '.join(header)}")
    files = []
    for path in paths:
        if next(_lines_of(path))[1] != header:
            raise DataError(f"{path} has other columns than {paths[0]}")
        files.append(DataFile(str(path), kind_of(path), sum(1 for _ in _rows_of(path, len(header)))))
    return pa.schema([(column, pa.string()) for column in header]), tuple(files)


def read_csv(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows from `start` on, in tables of at most `size` rows."""
    for chunk in chunks_of(itertools.islice(_rows_of(Path(file.path), len(schema)), start, None), size):
        yield pa.table(dict(zip(schema.names, map(list, zip(*chunk, strict=True)), strict=True)), schema)


def _lines_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line and fields of every record, the header first; blank lines are left out."""
    csv.field_size_limit(2**31 - 1)
    with open_text(path) as file:
        reader = csv.reader(file, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
        try:
            for fields in reader:
                if fields:
                    yield reader.line_num, fields
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            where = f"after line {reader.line_num}"
            raise DataError(f"{path}, {where}: not UTF-8 (byte 0x{byte:02x}); convert the file to UTF-8") from None
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: broken CSV ({error})") from error


def _rows_of(path: Path, width: int) -> Iterator[list[str]]:
    for number, fields in itertools.islice(_lines_of(path), 1, None):
        if len(fields) != width:
            raise DataError(f"{path}, line {number}: {len(fields)} fields where the header has {width}")
        yield fields
