"""Arrow files: streams, as `datasets` keeps them in its cache and in saved datasets, and Feather files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from .reading_errors import reading
from .schemas import unified_schema
from .tables import DataFile, conform
from .text_files import kind_of


def scan_arrow(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """The schema that holds the rows of all the files, and how many rows each holds.

    Raises:
        DataError: one cannot be read, or a column has types that do not go together.
    """
    schemas = []
    files = []
    for path in paths:
        with reading(str(path)):
            rows = sum(len(batch) for batch in batches_of(str(path)))
            files.append(DataFile(str(path), kind_of(path), rows))
            schemas.append(_schema_of(str(path)))
    return unified_schema(paths, schemas), tuple(files)


def batches_of(path: str) -> Iterator[pa.RecordBatch]:
    """The record batches of a file, mapped into memory and not copied."""
    with pa.memory_map(path) as mapped:
        if mapped.read(6) == b"ARROW1":
            with pa.ipc.open_file(mapped) as file:
                yield from (file.get_batch(number) for number in range(file.num_record_batches))
            return
        mapped.seek(0)
        with pa.ipc.open_stream(mapped) as stream:
            yield from stream


def _schema_of(path: str) -> pa.Schema:
    with pa.memory_map(path) as mapped:
        is_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        return (pa.ipc.open_file(mapped) if is_file else pa.ipc.open_stream(mapped)).schema


def read_arrow(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows from `start` on, in tables of at most `size` rows."""
    for batch in batches_of(file.path):
        for low in range(start, len(batch), size):
            yield conform(pa.Table.from_batches([batch.slice(low, size)]), schema)
        start = max(0, start - len(batch))
