"""The Arrow type that holds the values of a JSON column without altering one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .json_values import is_json

EXACT = 2**53
"""Integers up to this size are exact as doubles."""


def infer_type(values: list[Any]) -> pa.DataType:
    """The Arrow type that holds these values as they are; `arrow.json` where none does.

    Raises:
        UnicodeEncodeError: a value holds half of a surrogate pair, which is no text.
    """
    try:
        kind = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        for value in values:
            json.dumps(value, ensure_ascii=False).encode()
        return pa.json_()
    return pa.json_() if _alters(kind) or (_has_double(kind) and _mixes_numbers(values)) else kind


def has_surrogate(value: Any) -> bool:
    """Whether a JSON value holds half of a surrogate pair in any text or key."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _alters(kind: pa.DataType) -> bool:
    """Whether there is a struct without fields in this type: Parquet cannot hold one."""
    if pa.types.is_struct(kind):
        return kind.num_fields == 0 or any(_alters(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_list(kind) and _alters(kind.value_type)


def _has_double(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_has_double(kind.field(i).type) for i in range(kind.num_fields))
    return _has_double(kind.value_type) if pa.types.is_list(kind) else pa.types.is_floating(kind)


def _mixes_numbers(values: Sequence[Any]) -> bool:
    """Whether a double would alter some of these values: `true`, or an integer beyond its 53 bits."""
    kinds = {type(value) for value in values}
    if float in kinds and (bool in kinds or any(type(value) is int and abs(value) > EXACT for value in values)):
        return True
    items = [item for value in values if isinstance(value, list) for item in value]
    objects = [value for value in values if isinstance(value, dict)]
    keys = dict.fromkeys(key for value in objects for key in value)
    fields = ([value[key] for value in objects if key in value] for key in keys)
    return bool(items and _mixes_numbers(items)) or any(map(_mixes_numbers, fields))


def join_types(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of two chunks of one column."""
    if is_json(one) or is_json(other):
        return pa.json_()
    try:
        schemas = [pa.schema([("x", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.json_()
