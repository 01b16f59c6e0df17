"""Character ranges of answers that a row leaves out of the loss, as places of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError
from ..rows.rendering import Renderer
from ..rows.trained_tokens import trained_tokens
from ..rows.turns import Conversation


@dataclass(frozen=True)
class MaskedSpan:
    """A part of an answer.

    Attributes:
        turn: number of the turn in the row, from 0; an assistant's.
        start, end: its characters, as in a slice.
    """

    turn: int
    start: int
    end: int


def spans_of(value: object) -> list[MaskedSpan]:
    """What a row's `larf_spans` holds; none where it is null.

    Raises:
        DataError: it is no list of spans.

    >>> spans_of([{"turn": 1, "start": 0, "end": 5, "score": 0.25}])
    [MaskedSpan(turn=1, start=0, end=5)]
    """
    if value is None:
        return []
    try:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError
        spans = [MaskedSpan(*(_whole(item[name]) for name in ("turn", "start", "end"))) for item in value]
    except (TypeError, KeyError, ValueError):
        raise DataError(f"larf_spans holds {str(value)[:80]!r}, not a list of {{turn, start, end}}") from None
    return [span for span in spans if span.start < span.end]


def _whole(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def untrained_places(renderer: Renderer, conversation: Conversation, spans: Sequence[MaskedSpan]) -> list[int]:
    """Places of the tokens that hold a character of some spans, in the conversation as `trained_tokens` gives it.

    Raises:
        DataError: a span names no assistant turn, or the chat template prints the turn otherwise.
        Unscorable: as for `trained_tokens`.
    """
    messages = enumerate(conversation.messages, -conversation.inserted)
    turns = {number: message for number, message in messages if message["role"] == "assistant"}
    tokens = trained_tokens(renderer, conversation, characters=True)
    characters = tokens.characters or []
    known = {at.turn for at in characters if at is not None}
    for span in spans:
        if span.turn not in turns:
            raise DataError(f"larf_spans: turn {span.turn} is no assistant turn of the row (those are {list(turns)})")
        if span.turn in tokens.texts and span.turn not in known and tokens.issue is None:
            raise DataError("larf_spans: the chat template prints another text than the row's answer")
    return [
        place
        for place, at in enumerate(characters)
        if at is not None and any(at.turn == one.turn and at.start < one.end and one.start < at.end for one in spans)
    ]
