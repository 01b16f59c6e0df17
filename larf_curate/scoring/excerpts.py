"""One row to look at: its score, and the first characters of its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RowFormatError, Unscorable
from ..rows.formats import RowFormat, resolve_format
from ..rows.score_columns import score_columns

MAX_CHARACTERS = 2_000
"""What an excerpt keeps of each of its texts."""


def signed(value: float | None, digits: int = 5) -> str:
    """A score as people read it: with its sign, but zero without one; nothing for None.

    >>> signed(0.0047213), signed(-0.000001), signed(-0.0321, 2), signed(None)
    ('+0.00472', '0.00000', '-0.03', '')
    """
    if value is None:
        return ""
    text = f"{value:+.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text


@dataclass(frozen=True)
class Excerpt:
    """One row, its texts cut to `MAX_CHARACTERS`.

    Attributes:
        score: None where the row has none.
        row: its number in the source, from 0.
        prompt, answer: the conversation in plain words. Where no format says how the row becomes one, `prompt` is empty
            and `answer` shows the columns.
        outcome: where the row went: kept, removed or unscorable; None where nothing was split.
        issue: the row's `larf_issue`.
        more: values of further columns that were asked for, as text.
        place: where a person finds the row if the source has several splits or files (`17 of test`); empty if not.
    """

    score: float | None
    row: int
    prompt: str
    answer: str
    outcome: str | None = None
    issue: str | None = None
    more: tuple[str, ...] = ()
    place: str = ""

    @property
    def where(self) -> str:
        """Where in the source the row is, for people."""
        return self.place or str(self.row)

    @property
    def remark(self) -> str:
        """What the row's `larf_issue` says of it, in words; empty where there is none."""
        return (self.issue or ("no score" if self.score is None else "")).replace("_", " ")


def excerpt_of(
    values: Mapping[str, Any],
    row_format: RowFormat | None,
    *,
    score: float | None,
    row: int,
    outcome: str | None = None,
    issue: str | None = None,
    more: Sequence[str] = (),
    place: str = "",
) -> Excerpt:
    """The excerpt of a row with these `values`; other arguments are those of `Excerpt`, but for the names in `more`.

    >>> from larf_curate.rows.formats import resolve_format
    >>> values = {"prompt": "Hi", "completion": "Hello."}
    >>> excerpt_of(values, resolve_format("auto", values), score=0.5, row=7)
    Excerpt(score=0.5, row=7, prompt='Hi', answer='Hello.', outcome=None, issue=None, more=(), place='')
    """
    prompt, answer = _texts(values, row_format)
    texts = tuple(_cell(values[name])[:MAX_CHARACTERS] for name in more)
    return Excerpt(score, row, prompt[:MAX_CHARACTERS], answer[:MAX_CHARACTERS], outcome, issue, texts, place)


def excerpt_format(format: str, columns: Sequence[str]) -> RowFormat | None:  # noqa: A002 - the word users know
    """The format to read texts by; None for rows that fit none, which only a user's own function can have scored.

    Raises:
        RowFormatError: the columns do not fit the format that was asked for by name.
    """
    try:
        return resolve_format(format, columns)
    except RowFormatError:
        if format != "auto":
            raise
        return None


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _texts(values: Mapping[str, Any], row_format: RowFormat | None) -> tuple[str, str]:
    try:
        conversation = row_format.convert(values) if row_format else None
    except Unscorable:
        conversation = None
    if conversation is None:
        scored = score_columns(values)
        return "", str({name: value for name, value in values.items() if name not in scored})
    return conversation.prompt, conversation.answer
