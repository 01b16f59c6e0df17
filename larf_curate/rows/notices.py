"""Messages about a dataset's columns: which format was chosen, and which columns of text it does not read."""

from __future__ import annotations

from collections.abc import Iterable

from .formats import RowFormat, fitting
from .score_columns import PREFIX, score_columns


def reading_note(row_format: RowFormat, columns: Iterable[str], text_columns: Iterable[str]) -> str:
    """One line that names the format and what it leaves unread; empty where it reads every text.

    Args:
        row_format: the one that was taken.
        columns: the columns of the dataset.
        text_columns: the columns among them that may hold text, at any depth.

    >>> from larf_curate.rows.formats import FORMATS
    >>> texts = ["messages", "instruction", "output"]
    >>> reading_note(FORMATS["messages"], [*texts, "n"], texts)
    'read as messages (messages); not read: instruction, output, which would be alpaca'
    """
    available = list(columns)
    others_of = [name for name in row_format.alternatives if name in available][1:]
    read = [name for name in row_format.columns(available) if name not in others_of]
    ours = score_columns(available)
    unread = [name for name in text_columns if not (name in read or name in ours or name.startswith(f"{PREFIX}_"))]
    if not unread or row_format.name == "custom":
        return ""
    others = [
        other.name
        for other in fitting(available)
        if not set(other.required) <= set(read) and other.name not in (row_format.name, "preference-rejected")
    ]
    also = f", which would be {' or '.join(others)}" if others else ""
    return f"read as {row_format.name} ({', '.join(read)}); not read: {', '.join(unread)}{also}"
