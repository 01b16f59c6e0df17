"""Reads one file of a dataset, whatever its kind."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from .arrow_files import read_arrow
from .csv_files import read_csv
from .json_files import read_json
from .parquet_files import read_parquet
from .reading_errors import reading
from .tables import DataFile, Reader
from .text_files import ARROW, CSV, JSON, PARQUET

_READERS: dict[str, Reader] = {
    PARQUET: read_parquet,
    **dict.fromkeys(ARROW, read_arrow),
    **dict.fromkeys(JSON, read_json),
    **dict.fromkeys(CSV, read_csv),
}


def read_file(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows of one file from row `start` on, in tables of this schema with at most `size` rows each.

    Raises:
        DataError: it cannot be read, or not any more.
    """
    with reading(file.path):
        yield from _READERS[file.kind](file, schema, size, start)
