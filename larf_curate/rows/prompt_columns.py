"""The names that datasets give to the column of a request: one list for all who read rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

REQUEST_COLUMNS = ("request", "prompt", "instruction", "question")
"""Columns that hold a request, the first of them that a row has being the one that counts."""


def request_column(row: Mapping[str, Any], columns: Iterable[str] = REQUEST_COLUMNS) -> str | None:
    """The first of `columns` that holds something in this row; None where none does.

    >>> request_column({"id": 7, "prompt": None, "question": "Hi?"})
    'question'
    """
    return next((name for name in columns if row.get(name) is not None), None)
