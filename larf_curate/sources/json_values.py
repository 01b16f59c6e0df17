"""JSON values in Arrow tables: `arrow.json` at any depth is decoded on the way to Python, encoded on the way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from ..json_fields import Undecoded, is_deep

Convert = Callable[[Any], Any]


def is_json(kind: pa.DataType) -> bool:
    """Whether this is Arrow's type for JSON in a string.

    >>> is_json(pa.json_()), is_json(pa.string())
    (True, False)
    """
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def is_list_type(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of whatever Arrow spelling; a map is none."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def text_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold text, at any depth.

    >>> text_columns(pa.schema([("n", pa.int64()), ("turns", pa.list_(pa.struct([("content", pa.string())])))]))
    ['turns']
    """
    return [field.name for field in schema if _holds_text(field.type)]


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or is_list_type(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_holds_text(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _holds_text(kind.item_type)
    return is_json(kind) or bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def holds_json(kind: pa.DataType) -> bool:
    """Whether there is `arrow.json` in this type, at any depth.

    >>> holds_json(pa.list_(pa.struct([("arguments", pa.json_())])))
    True
    """
    return _walk(kind, lambda value: value) is not None


def rows_of(table: pa.Table, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of a table as mappings, of the named columns; `arrow.json` is decoded at every depth."""
    wanted = set(columns)
    chosen = table.select([name for name in table.column_names if name in wanted])
    rows: list[dict[str, Any]] = chosen.to_pylist()
    for field in chosen.schema:
        decode = _walk(field.type, _decode)
        if decode is not None:
            for row in rows:
                row[field.name] = decode(row[field.name])
    return rows


def array_of(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Python values, as `rows_of` gives them, as an array of this type.

    >>> array_of([[{"a": 1}, "b"], None], pa.list_(pa.json_())).to_pylist()
    [['{"a": 1}', '"b"'], None]
    """
    encode = _walk(kind, _encode)
    if encode is None:
        return pa.array(values, kind)
    encoded = pa.array([encode(value) for value in values], _storage(kind))
    return pa.ExtensionArray.from_storage(kind, encoded) if is_json(kind) else encoded.cast(kind)


def _decode(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        decoded = json.loads(value)
    except (RecursionError, ValueError):  # nested deep, a number of thousands of digits, or no JSON at all
        return Undecoded(value)
    return Undecoded(value) if isinstance(decoded, list | dict) and is_deep(decoded) else decoded


def _encode(value: Any) -> Any:
    return str(value) if isinstance(value, Undecoded) else json.dumps(value, ensure_ascii=False)


def _walk(kind: pa.DataType, convert: Convert) -> Convert | None:
    """A function that applies `convert` to what lies where this type holds `arrow.json`; None where it holds none."""
    if is_json(kind):
        return lambda value: None if value is None else convert(value)
    if is_list_type(kind):
        item = _walk(kind.value_type, convert)
        return None if item is None else lambda value: None if value is None else [item(part) for part in value]
    if pa.types.is_map(kind):
        entry = _walk(kind.item_type, convert)
        return None if entry is None else lambda value: None if value is None else [(k, entry(v)) for k, v in value]
    if pa.types.is_struct(kind):
        fields = {field.name: _walk(field.type, convert) for field in kind}
        inner = {name: change for name, change in fields.items() if change is not None}
        return None if not inner else lambda value: _changed(value, inner)
    return None


def _changed(value: dict[str, Any] | None, inner: dict[str, Convert]) -> dict[str, Any] | None:
    if value is None:
        return None
    return {name: inner[name](item) if name in inner else item for name, item in value.items()}


def _storage(kind: pa.DataType) -> pa.DataType:
    """The type with strings where it has `arrow.json`: what Python values can be made into."""
    if is_json(kind):
        return kind.storage_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_storage(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(kind.key_type, kind.item_field.with_type(_storage(kind.item_type)))
    if is_list_type(kind):
        item = kind.value_field.with_type(_storage(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(item, kind.list_size)
        return pa.large_list(item) if pa.types.is_large_list(kind) else pa.list_(item)
    return kind
