"""Single values of a row: texts, and JSON inside texts."""

from __future__ import annotations

import json
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


def parse_json(text: str) -> Any:
    """JSON out of a row.

    Raises:
        ValueError: it is none, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
