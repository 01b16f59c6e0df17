"""One row to look at: its score, and the first characters of its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RowFormatError, Unscorable
from ..rows.formats import RowFormat, resolve_format
from ..scoring.columns import is_larf_column

MAX_CHARACTERS = 2_000
"""What an excerpt keeps of each of its texts."""


@dataclass(frozen=True)
class Excerpt:
    """One row, its texts cut to `MAX_CHARACTERS`.

    Attributes:
        score: None where the row has none.
        row: its number, from 0: in the source in a `Summary`, in the files of its outcome in a report.
        prompt, answer: the conversation in plain words. Where no format says how the row becomes one, `prompt` is empty
            and `answer` shows the columns.
        outcome: where the row went: kept, removed or unscorable; None where nothing was split.
        issue: the row's `larf_issue`.
    """

    score: float | None
    row: int
    prompt: str
    answer: str
    outcome: str | None = None
    issue: str | None = None

    @property
    def reason(self) -> str:
        """Why the row is where it is, in words; empty where nothing was split."""
        if self.score is None:
            return (self.issue or "no score").replace("_", " ")
        if self.outcome is None:
            return ""
        return "score above the threshold" if self.outcome == "removed" else "just under the threshold"


def excerpt_of(
    values: Mapping[str, Any],
    row_format: RowFormat | None,
    *,
    score: float | None,
    row: int,
    outcome: str | None = None,
    issue: str | None = None,
) -> Excerpt:
    """The excerpt of a row with these `values`; other arguments are those of `Excerpt`.

    >>> from larf_curate.rows.formats import resolve_format
    >>> values = {"prompt": "Hi", "completion": "Hello."}
    >>> excerpt_of(values, resolve_format("auto", values), score=0.5, row=7)
    Excerpt(score=0.5, row=7, prompt='Hi', answer='Hello.', outcome=None, issue=None)
    """
    prompt, answer = _texts(values, row_format)
    return Excerpt(score, row, prompt[:MAX_CHARACTERS], answer[:MAX_CHARACTERS], outcome, issue)


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


def _texts(values: Mapping[str, Any], row_format: RowFormat | None) -> tuple[str, str]:
    try:
        conversation = row_format.convert(values) if row_format else None
    except Unscorable:
        conversation = None
    if conversation is None:
        return "", str({name: value for name, value in values.items() if not is_larf_column(name)})
    return conversation.prompt, conversation.answer
