"""Single values of a row: texts, and JSON inside texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import Issue, Unscorable


def text_of(value: Any) -> str:
    """A text as it is, null as the empty text.

    Raises:
        Unscorable: it is something else.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unscorable(Issue.WRONG_TYPE)
    return value


def answer_of(value: Any) -> str:
    """A text that says something.

    Raises:
        Unscorable: it is blank, or no text.
    """
    text = text_of(value)
    if not text.strip():
        raise Unscorable(Issue.EMPTY_ANSWER)
    return text


def join_texts(*texts: str) -> str:
    """The texts that are not blank, an empty line between them."""
    return "\n\n".join(text for text in texts if text.strip())


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


def parse_json(text: str) -> Any:
    """JSON out of a row.

    Raises:
        ValueError: it is none, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
