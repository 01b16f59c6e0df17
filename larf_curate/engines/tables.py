"""Rows as Arrow tables: what every reader gives and every writer takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Source:
    """Rows to read: their Arrow schema, how many there are, and a function that yields them as tables.

    Types are the source's own. What JSON mixes in one column (a string here, a number there) is `arrow.json`; CSV
    fields are strings, exactly as written.
    """

    name: str
    schema: pa.Schema
    rows: int
    tables: Callable[[int], Iterator[pa.Table]]


def rows_of(table: pa.Table, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a table as mappings, of the named columns; `arrow.json` values decoded."""
    chosen = table.select([name for name in table.column_names if name in set(columns)])
    rows: list[dict[str, Any]] = chosen.to_pylist()
    for field in chosen.schema:
        if is_json(field.type):
            for row in rows:
                if isinstance(row[field.name], str):
                    row[field.name] = json.loads(row[field.name])
    return rows


def is_json(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def chunks_of(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
