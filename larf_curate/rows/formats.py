"""The row formats: which columns each one reads, and which one a dataset has. Decided once per dataset."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ..errors import RowFormatError, unknown_name
from . import conversions
from .conversions import SEPARATOR, Convert, Row, exchange
from .prompt_columns import ALIASES, CONTEXT_COLUMNS, PREFERENCE_PROMPTS, SYSTEM_COLUMNS, TOOLS_COLUMNS
from .reading import Reading
from .tools import Message
from .turns import Conversation, conversation_of, turns_of

FormatLike = str | Callable[[Row], "Conversation | list[Message] | None"]
"""`auto`, the name of a row format, a `Reading` as text, or a function from a row to chat messages."""


@dataclass(frozen=True)
class RowFormat:
    """How the rows of one dataset become conversations.

    Attributes:
        name: what users type.
        required: columns without which it does not apply.
        optional: columns that it reads where they are there.
        convert: a row becomes a conversation; raises `Unscorable` where it holds none.
        example: one row, for the documentation.
        detected: whether `auto` may take it.
        alternatives: optional columns of which only one is read in each row: the first that holds something.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Convert
    example: Row = field(default_factory=dict)
    detected: bool = True
    alternatives: tuple[str, ...] = ()

    def columns(self, available: Iterable[str]) -> list[str]:
        """The columns of `available` that this format reads: all of them for a user's own function.

        >>> FORMATS["alpaca"].columns(["id", "instruction", "output"])
        ['instruction', 'output']
        """
        read = {*self.required, *self.optional}
        return [name for name in available if name in read or self.name == "custom"]

    def renamed(self, columns: Mapping[str, str]) -> RowFormat:
        """The same for a dataset with other names: `columns` maps the dataset's name to the one that is read here."""

        def own(names: Iterable[str]) -> tuple[str, ...]:
            back = {new: old for old, new in columns.items()}
            return tuple(back.get(name, name) for name in names)

        def convert(row: Row, *, join: str = SEPARATOR) -> Conversation:
            renamed = {name: value for name, value in row.items() if name not in columns.values()}
            return self.convert({columns.get(name, name): value for name, value in renamed.items()}, join=join)

        return replace(self, required=own(self.required), optional=own(self.optional), convert=convert)

    def joined(self, join: str) -> RowFormat:
        """The same with other texts between a request and its input; see `Reading`."""
        return replace(self, convert=partial(self.convert, join=join))


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Every column that any of the rows has, in the order they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


_TURNS = (*SYSTEM_COLUMNS, *TOOLS_COLUMNS)
_TEXTS = (*CONTEXT_COLUMNS, "history", *_TURNS)
_PREFERENCE = tuple(dict.fromkeys((*PREFERENCE_PROMPTS, *_TEXTS)))
_HI = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
_HI_SHAREGPT = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]

FORMATS: dict[str, RowFormat] = {
    row_format.name: row_format
    for row_format in (
        *(
            RowFormat(
                name,
                ("chosen", "rejected"),
                _PREFERENCE,
                conversions.preference(side),
                {"prompt": "Hi?", "chosen": "Hello.", "rejected": "Go away."},
                alternatives=tuple(column for column in PREFERENCE_PROMPTS if column not in CONTEXT_COLUMNS),
            )
            for name, side in (("preference", "chosen"), ("preference-rejected", "rejected"))
        ),
        RowFormat("messages", ("messages",), _TURNS, conversions.messages, {"messages": _HI}),
        RowFormat("sharegpt", ("conversations",), _TURNS, conversions.sharegpt, {"conversations": _HI_SHAREGPT}),
        RowFormat(
            "alpaca",
            ("instruction", "output"),
            _TEXTS,
            exchange("instruction", "output", after=CONTEXT_COLUMNS),
            {"instruction": "Add.", "input": "1 2", "output": "3"},
        ),
        RowFormat(
            "dolly",
            ("instruction", "response"),
            _TEXTS,
            exchange("instruction", "response", after=CONTEXT_COLUMNS),
            {"instruction": "Sum up.", "context": "A text.", "response": "Text."},
        ),
        RowFormat(
            "prompt-completion",
            ("prompt", "completion"),
            _TEXTS,
            conversions.prompt_completion,
            {"prompt": "Hi?", "completion": "Hello."},
        ),
        RowFormat(
            "question-answer",
            ("question", "answer"),
            (*_TEXTS, "choices"),
            exchange("question", "answer", before=("context",), after=("input",)),
            {"context": "A text.", "question": "What is it?", "answer": "Text."},
        ),
        RowFormat(
            "text",
            ("text",),
            _TURNS,
            conversions.transcript,
            {"text": "### Instruction:\nAdd 1 and 2.\n\n### Response:\n3"},
            detected=False,  # most columns of this name hold plain text
        ),
    )
}
"""Every row format by name. `auto` takes the first that is `detected` and whose required columns are all there, in this
order.

Help texts, the recipe schema and the documentation read the names and columns from here.
"""

FORMAT_NAMES = ("auto", *FORMATS)
"""What a user may type as `format`."""


def _custom(function: Callable[[Row], Conversation | list[Message] | None]) -> RowFormat:
    def convert(row: Row, *, join: str = SEPARATOR) -> Conversation:  # noqa: ARG001 - the function joins what it likes
        returned = function(row)
        if isinstance(returned, Conversation):
            return conversation_of(turns_of(list(returned.messages)), tools=list(returned.tools))
        return conversation_of(turns_of(returned))

    return RowFormat("custom", (), (), convert)


def resolve_format(row_format: FormatLike, columns: Iterable[str], join: str = SEPARATOR) -> RowFormat:
    """The format of a dataset with these columns.

    Args:
        row_format: `auto`, a name out of `FORMATS`, a `Reading` as text, or the user's own function. A function takes a
            row (a mapping of column to value) and returns chat messages, a `Conversation`, or None for a row with
            nothing to score.
        columns: the columns of the whole dataset.
        join: what stands between a request and its input where the `Reading` does not say it.

    Raises:
        RowFormatError: no format fits the columns, or the named one lacks a column.

    >>> resolve_format("auto", ["instruction", "input", "output"]).name
    'alpaca'
    """
    available = list(columns)
    if callable(row_format):
        return _custom(row_format)
    reading = Reading.from_text(row_format)
    if absent := [name for name in reading.columns if name not in available]:
        raise RowFormatError(
            f"there is no column {absent[0]!r} to read as {reading.columns[absent[0]]!r}; the dataset has: "
            f"{', '.join(available) or 'none'}"
        )
    aliases = {name: usual for name, usual in ALIASES.items() if name in available and usual not in available}
    renamed = {**aliases, **reading.columns}
    taken = set(renamed.values()) - set(renamed)
    names = [renamed.get(name, name) for name in available if name not in taken]
    chosen = _choose(reading.format, names)
    join = join if reading.join is None else reading.join
    chosen = chosen.renamed(renamed) if renamed else chosen
    return chosen if join == SEPARATOR else chosen.joined(join)


def check_format(name: str) -> None:
    """Say at once that a name is wrong.

    Raises:
        RowFormatError: no format has it.
    """
    if Reading.from_text(name).format not in FORMAT_NAMES:
        resolve_format(name, Reading.from_text(name).columns)


def renamed(row_format: FormatLike, columns: Mapping[str, str] | None) -> FormatLike:
    """A format that reads columns of other names.

    Args:
        row_format: see `FormatLike`.
        columns: names of the dataset's columns, and which column of the format each one is; None for no change.

    Raises:
        RowFormatError: no format has that name, or a function is to read renamed columns.
    """
    if columns:
        if callable(row_format):
            raise RowFormatError("a function reads the columns as they are: leave columns= out")
        row_format = replace(Reading.from_text(row_format), columns=columns).to_text()
    if isinstance(row_format, str):  # a wrong name is reported here, not in the middle of a run
        check_format(row_format)
    return row_format


def fitting(columns: Iterable[str]) -> list[RowFormat]:
    """Every row format that `auto` may take for these columns, in the order of detection."""
    available = set(columns)
    return [candidate for candidate in FORMATS.values() if candidate.detected and set(candidate.required) <= available]


def _choose(name: str, columns: list[str]) -> RowFormat:
    have = ", ".join(columns) or "none"
    if name == "auto":
        for candidate in fitting(columns):
            return candidate
        detected = [candidate for candidate in FORMATS.values() if candidate.detected]
        wanted = "; ".join(f"{candidate.name}: {', '.join(candidate.required)}" for candidate in detected)
        raise RowFormatError(
            f"the columns ({have}) fit no known row format{_hint(columns)}. Say which columns hold the parts "
            f"(columns= or --map, for example query=prompt,reply=completion) of one of [{wanted}]; name a format "
            "(format= or --format); or, in Python, pass format= a function that turns a row into chat messages"
        )
    if name not in FORMATS:
        raise RowFormatError(unknown_name("row format", name, FORMAT_NAMES))
    if missing := [column for column in FORMATS[name].required if column not in columns]:
        raise RowFormatError(
            f"row format {name!r} needs the column {', '.join(map(repr, missing))}; the dataset has: "
            f"{have}{_hint(columns)}"
        )
    return FORMATS[name]


_HEADER_WORDS = 4
"""A name of more words than these is a row that stands where the header should."""


def _hint(columns: Iterable[str]) -> str:
    """What in these names keeps a format from fitting: capitals, blanks, another delimiter."""
    columns = list(columns)
    if len(columns) == 1 and (delimiter := next((mark for mark in ";|\t" if mark in columns[0]), None)):
        return f" (one column with {delimiter!r} in its name: is the file delimited by that? larf-curate reads commas)"
    if any(len(name.split()) > _HEADER_WORDS for name in columns):
        return " (is there no header line? The names of columns are read from the first line)"
    if "text" in columns:
        return " (if 'text' holds whole conversations, written out by a template, pass format='text' or --format text)"
    plain = {name.strip().lower().replace(" ", "_"): name for name in columns}
    for candidate in fitting(plain):
        odd = [f"{plain[name]!r} as {name!r}" for name in candidate.required if plain[name] != name]
        if odd:
            return f" (but for how they are written: {', '.join(odd)} would be {candidate.name})"
    known = {column for candidate in FORMATS.values() for column in (*candidate.required, *candidate.optional)}
    for name in sorted(set(plain) - known):
        if close := difflib.get_close_matches(name, sorted(known), 1, 0.85):
            return f" (did you mean {close[0]!r} by {plain[name]!r}?)"
    return ""
