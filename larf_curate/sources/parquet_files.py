"""Parquet files as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .reading_errors import reading
from .tables import DataFile


def scan_parquet(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The schema of the files, and how many rows each holds.

    Raises:
        DataError: one cannot be read, or has other columns than the first.
    """
    schemas = []
    files = []
    for path in paths:
        with reading(str(path)):
            schemas.append(pq.read_schema(path))
            files.append(DataFile(str(path), ".parquet", pq.read_metadata(path).num_rows))
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise DataError(f"{path} has other columns or types than {paths[0]}: {schema.names} / {schemas[0].names}")
    return schemas[0], tuple(files)


def read_parquet(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows from `start` on, in tables of at most `size` rows; row groups before `start` are skipped unread."""
    with pq.ParquetFile(file.path) as parquet:
        groups = list(range(parquet.num_row_groups))
        while groups and start >= (rows := parquet.metadata.row_group(groups[0]).num_rows):
            start -= rows
            groups.pop(0)
        for batch in parquet.iter_batches(batch_size=size, row_groups=groups) if groups else ():
            if start < len(batch):
                table = pa.Table.from_batches([batch.slice(start)], batch.schema)
                yield table.replace_schema_metadata(schema.metadata)
            start = max(0, start - len(batch))
