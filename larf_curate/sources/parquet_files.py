"""Parquet files as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .schemas import scan_files
from .tables import DataFile, conform


def scan_parquet(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """See `scan_files`."""
    return scan_files(paths, _schema_and_rows)


def _schema_and_rows(path: Path) -> tuple[pa.Schema, int]:
    return pq.read_schema(path), pq.read_metadata(path).num_rows


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
