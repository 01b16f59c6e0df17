"""Parquet files as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .reading_errors import reading
from .schemas import unified_schema
from .tables import DataFile, conform


def scan_parquet(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The schema that holds the rows of all the files, and how many rows each holds.

    Raises:
        DataError: one cannot be read, or a column has types that do not go together.
    """
    schemas = []
    files = []
    for path in paths:
        with reading(str(path)):
            schemas.append(pq.read_schema(path))
            files.append(DataFile(str(path), ".parquet", pq.read_metadata(path).num_rows))
    return unified_schema(paths, schemas), tuple(files)


def read_parquet(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows from `start` on, in tables of at most `size` rows; row groups before `start` are skipped unread."""
    with pq.ParquetFile(file.path) as parquet:
        groups = list(range(parquet.num_row_groups))
        while groups and start >= (rows := parquet.metadata.row_group(groups[0]).num_rows):
            start -= rows
            groups.pop(0)
        for batch in parquet.iter_batches(batch_size=size, row_groups=groups) if groups else ():
            if start < len(batch):
                yield conform(pa.Table.from_batches([batch.slice(start)], batch.schema), schema)
            start = max(0, start - len(batch))
