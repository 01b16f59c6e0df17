"""The row formats: which columns each one reads, and which one a dataset has. Decided once per dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import RowFormatError
from . import conversions
from .conversions import PREFERENCE_PROMPTS, Convert, Row
from .tools import Message
from .turns import Conversation, conversation_of, turns_of

FormatLike = str | Callable[[Row], "Conversation | list[Message] | None"]
"""`auto`, the name of a row format, or a function from a row to chat messages."""


@dataclass(frozen=True)
class RowFormat:
    """How the rows of one dataset become conversations.

    Attributes:
        name: what users type.
        required: columns without which it does not apply.
        optional: columns that it reads where they are there.
        convert: a row becomes a conversation; raises `Unscorable` where it holds none.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Convert

    def columns(self, available: Iterable[str]) -> list[str]:
        """The columns of `available` that this format reads: all of them for a user's own function.

        >>> FORMATS["alpaca"].columns(["id", "instruction", "output"])
        ['instruction', 'output']
        """
        read = {*self.required, *self.optional}
        return [name for name in available if name in read or self.name == "custom"]


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Every column that any of the rows has, in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


_PREFERENCE = (*PREFERENCE_PROMPTS, "input", "system", "tools")

FORMATS: dict[str, RowFormat] = {
    row_format.name: row_format
    for row_format in (
        RowFormat("preference", ("chosen", "rejected"), _PREFERENCE, conversions.preference("chosen")),
        RowFormat("preference-rejected", ("chosen", "rejected"), _PREFERENCE, conversions.preference("rejected")),
        RowFormat("messages", ("messages",), ("system", "tools"), conversions.messages),
        RowFormat("sharegpt", ("conversations",), ("system", "tools"), conversions.sharegpt),
        RowFormat("alpaca", ("instruction", "output"), ("input", "system", "history"), conversions.alpaca),
        RowFormat("dolly", ("instruction", "response"), ("context",), conversions.dolly),
        RowFormat("prompt-completion", ("prompt", "completion"), ("system", "tools"), conversions.prompt_completion),
        RowFormat("question-answer", ("question", "answer"), ("system",), conversions.question_answer),
    )
}
"""Every row format by name. `auto` takes the first whose required columns are all there, in this order.

Help texts, the recipe schema and the documentation read the names and columns from here.
"""

FORMAT_NAMES = ("auto", *FORMATS)
"""What a user may type as `format`."""


def _custom(function: Callable[[Row], Conversation | list[Message] | None]) -> RowFormat:
    def convert(row: Row) -> Conversation:
        returned = function(row)
        if isinstance(returned, Conversation):
            return conversation_of(turns_of(list(returned.messages)), tools=list(returned.tools))
        return conversation_of(turns_of(returned))

    return RowFormat("custom", (), (), convert)


def resolve_format(row_format: FormatLike, columns: Iterable[str]) -> RowFormat:
    """The format of a dataset with these columns.

    Args:
        row_format: `auto`, a name out of `FORMATS`, or the user's own function. A function takes a row (a mapping of
            column to value) and returns chat messages, a `Conversation`, or None for a row with nothing to score.
        columns: of the whole dataset.

    Raises:
        RowFormatError: no format fits the columns, or the named one lacks a column.

    >>> resolve_format("auto", ["instruction", "input", "output"]).name
    'alpaca'
    """
    columns = list(columns)
    if callable(row_format):
        return _custom(row_format)
    if row_format == "auto":
        for candidate in FORMATS.values():
            if set(candidate.required) <= set(columns):
                return candidate
        wanted = "; ".join(f"{candidate.name}: {', '.join(candidate.required)}" for candidate in FORMATS.values())
        raise RowFormatError(
            f"the columns ({', '.join(columns) or 'none'}) fit no known row format. Rename them to one of [{wanted}], "
            "or pass format= a function that turns a row into chat messages"
        )
    if row_format not in FORMATS:
        raise RowFormatError(f"unknown row format {row_format!r}; known: {', '.join(FORMAT_NAMES)}")
    missing = [name for name in FORMATS[row_format].required if name not in columns]
    if missing:
        raise RowFormatError(
            f"row format {row_format!r} needs the column {', '.join(map(repr, missing))}; "
            f"the dataset has: {', '.join(columns) or 'none'}"
        )
    return FORMATS[row_format]
