"""Arrow files: streams, as `datasets` keeps them in its cache and in saved datasets, and Feather files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from .schemas import scan_files
from .tables import DataFile, conform


def scan_arrow(paths: Sequence[Path]) -> tuple[pa.Schema, tuple[DataFile, ...]]:
    """See `scan_files`."""
    return scan_files(paths, _schema_and_rows)


def _schema_and_rows(path: Path) -> tuple[pa.Schema, int]:
    rows = sum(len(batch) for batch in batches_of(str(path)))
    return _schema_of(str(path)), rows


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
