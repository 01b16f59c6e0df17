"""Arrow stream files, as `datasets` keeps them in its cache and in saved datasets."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from .tables import DataFile, conform


def batches_of(path: str) -> Iterator[pa.RecordBatch]:
    """The record batches of a file, mapped into memory and not copied."""
    with pa.memory_map(path) as mapped, pa.ipc.open_stream(mapped) as stream:
        yield from stream


def read_arrow(file: DataFile, schema: pa.Schema, size: int, start: int) -> Iterator[pa.Table]:
    """Rows from `start` on, in tables of at most `size` rows."""
    for batch in batches_of(file.path):
        for low in range(start, len(batch), size):
            yield conform(pa.Table.from_batches([batch.slice(low, size)]), schema)
        start = max(0, start - len(batch))
