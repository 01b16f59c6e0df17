"""Rows out of Arrow tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa


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
