"""The names that datasets give to the columns of a request: one list for all who read rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

REQUEST_COLUMNS = ("request", "prompt", "instruction", "question", "query")
"""Columns that hold a request as a text; the first of them that holds something in a row counts."""

PROMPT_COLUMNS = (
    "goal",  # JailbreakBench; before `behavior`, which is a title there
    *REQUEST_COLUMNS,  # `instruction`: DirectHarm4
    "behavior",  # HarmBench
    "forbidden_prompt",  # StrongREJECT
    "text",
)
"""Columns that hold the prompt in a file of prompts without answers, as benchmarks publish them."""

PREFERENCE_PROMPTS = ("conversations", "messages", *REQUEST_COLUMNS, "input")
"""Columns that may hold the prompt of a preference row: turns, or a text."""

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
"""Columns that hold a system turn's text; those that a row has are joined."""

CONTEXT_COLUMNS = ("input", "context")
"""Columns that hold what a request is about, beside the request itself."""

ALIASES = {"chosen_messages": "chosen", "rejected_messages": "rejected"}
"""Other names of columns that a format needs, each for a dataset that has no column of the usual name."""

TOOLS_COLUMNS = ("tools", "functions")
"""Columns that list tools; the first of them that holds something in a row counts."""


def request_column(row: Mapping[str, Any], columns: Iterable[str] = REQUEST_COLUMNS) -> str | None:
    """The first of `columns` that holds something in this row; None where none does.

    >>> request_column({"id": 7, "prompt": None, "question": "Hi?"})
    'question'
    """
    return next((name for name in columns if row.get(name) is not None), None)
