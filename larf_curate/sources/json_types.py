"""The Arrow type that holds the values of a JSON column without altering one of them.

A struct holds objects only where all of them have the same keys in the same order: Arrow would give the others keys
that they do not have. Numbers keep their kind: `1` beside `1.5` is no column of doubles. Whatever no such type holds is
`arrow.json`: the whole value, or each item of a list.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .json_values import holds_json, is_json

_INT64 = range(-(2**63), 2**63)


def infer_type(values: Sequence[Any]) -> pa.DataType:
    """The type of these values, `null` where all are null.

    Raises:
        UnicodeEncodeError: a text or a key holds half of a surrogate pair, which is no text.

    >>> infer_type(["a", None]), infer_type([1, 1.5]), infer_type([[{"a": 1}, {"b": 1}]])
    (DataType(string), JsonType(extension<arrow.json>), ListType(list<item: extension<arrow.json>>))
    """
    present = [value for value in values if value is not None]
    kinds = set(map(type, present))
    if not kinds:
        return pa.null()
    if kinds == {str}:
        for value in present:
            value.encode()
        return pa.string()
    if kinds == {int}:
        return pa.int64() if all(value in _INT64 for value in present) else pa.json_()
    if kinds == {list}:
        return _list_of(infer_type([item for value in present for item in value]))
    if kinds == {dict}:
        keys = tuple(present[0])
        if keys and all(tuple(value) == keys for value in present):
            for key in keys:
                key.encode()
            return _struct_of([(key, infer_type([value[key] for value in present])) for key in keys])
    elif len(kinds) == 1:
        return pa.bool_() if kinds == {bool} else pa.float64()
    for value in present:
        json.dumps(value, ensure_ascii=False).encode()
    return pa.json_()


def join_types(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of two types, both from `infer_type`."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        return _list_of(join_types(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other) and one.names == other.names:
        return _struct_of([(a.name, join_types(a.type, b.type)) for a, b in zip(one, other, strict=True)])
    return pa.json_()


def has_surrogate(value: Any) -> bool:
    """Whether a JSON value holds half of a surrogate pair in any text or key."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _list_of(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.json_() if holds_json(item) and not is_json(item) else item)


def _struct_of(fields: list[tuple[str, pa.DataType]]) -> pa.DataType:
    return pa.json_() if any(holds_json(kind) for _, kind in fields) else pa.struct(fields)
