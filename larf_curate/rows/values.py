"""Single values of a row: texts, and JSON inside texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import Issue, Unscorable
from ..json_fields import Undecoded, is_deep

_KINDS = ((list | tuple, "a list"), (Mapping, "an object"), (bytes, "bytes"))


def kind_of_value(value: Any) -> str:
    """What a value is, in words for a message.

    >>> kind_of_value({"a": 1}), kind_of_value("a"), kind_of_value(None)
    ('an object', 'a text', 'null')
    """
    if value is None or isinstance(value, str):
        return "null" if value is None else "a text"
    return next((words for kind, words in _KINDS if isinstance(value, kind)), type(value).__name__)


def text_of(value: Any, column: str = "") -> str:
    """A text as it is; null and NaN as the empty text; a number or a boolean as the text that a trainer sees.

    Raises:
        Unscorable: it is something else; says so of `column`.

    >>> text_of(42), text_of(True), text_of(None)
    ('42', 'True', '')
    """
    if isinstance(value, Undecoded):
        where = f"column {column!r}" if column else "a text"
        raise Unscorable(Issue.WRONG_TYPE, f"{where} holds JSON that cannot be read, nested too deep for example")
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float):
        return str(value)
    where = f"column {column!r}" if column else "a text"
    raise Unscorable(Issue.WRONG_TYPE, f"{where} holds {kind_of_value(value)} where a text is wanted")


def answer_of(value: Any, column: str = "") -> str:
    """A text that says something.

    Raises:
        Unscorable: it is blank, or no text.
    """
    text = text_of(value, column)
    if not text.strip():
        raise Unscorable(Issue.EMPTY_ANSWER, f"column {column!r} is empty" if column else "")
    return text


def join_texts(*texts: str, separator: str = "\n\n") -> str:
    r"""The texts that are not blank, with `separator` between them.

    >>> join_texts("Add.", " ", "1 2")
    'Add.\n\n1 2'
    """
    return separator.join(text for text in texts if text.strip())


def without_nulls(value: Any) -> Any:
    """A value without the keys of its objects that hold null, at any depth; nulls in lists stay.

    Arrow gives each object the keys of all others, with null. What a row says must not depend on its neighbours, so a
    null key counts as no key, wherever it came from; only in JSON that a row holds as a string is it the user's own.

    >>> without_nulls({"city": "Rome", "days": None, "tags": [None, {"a": None}]})
    {'city': 'Rome', 'tags': [None, {}]}
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def parse_row_json(text: str) -> Any:
    """JSON out of a row.

    Raises:
        ValueError: it is none, or nested too deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if isinstance(value, list | dict) and is_deep(value):
        raise ValueError("it is nested too deep")
    return value


def structure_of(value: Any) -> tuple[Any, bool]:
    """A list or an object, also where a row holds it as a JSON string; and whether it was such a string.

    A blank string counts as null. Any other value is returned unchanged.

    Raises:
        Unscorable: it is nested too deep.

    >>> structure_of('[{"role": "user"}]'), structure_of("Hi?"), structure_of(" ")
    (([{'role': 'user'}], True), ('Hi?', False), (None, False))
    """
    if isinstance(value, Undecoded):
        raise Unscorable(Issue.WRONG_TYPE, "JSON that cannot be read, nested too deep for example")
    if not isinstance(value, str):
        return value, False
    if not value.strip():
        return None, False
    if value.lstrip()[0] in "[{":
        try:
            return parse_row_json(value), True
        except ValueError:
            pass
    return value, False
