"""Character ranges of answers that a row leaves out of the loss, as places of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..errors import DataError
from ..rows.rendering import Renderer
from ..rows.trained_tokens import answer_places
from ..rows.turns import Conversation


@dataclass(frozen=True)
class Span:
    """A part of an answer.

    Attributes:
        turn: number of the message in the conversation, from 0; an assistant's.
        start, end: its characters, as in a slice.
    """

    turn: int
    start: int
    end: int


def spans_of(value: object) -> list[Span]:
    """What a row's `larf_spans` holds; none where it is null.

    Raises:
        DataError: it is no list of spans.

    >>> spans_of([{"turn": 1, "start": 0, "end": 5, "score": 0.25}])
    [Span(turn=1, start=0, end=5)]
    """
    if value is None:
        return []
    try:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError
        spans = [Span(*(_whole(item[name]) for name in ("turn", "start", "end"))) for item in value]
    except (TypeError, KeyError, ValueError):
        raise DataError(f"larf_spans holds {str(value)[:80]!r}, not a list of {{turn, start, end}}") from None
    return [span for span in spans if span.start < span.end]


def _whole(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def untrained_places(renderer: Renderer, conversation: Conversation, spans: Sequence[Span]) -> list[int]:
    """Places of the tokens that hold a character of some spans, in the conversation as `trained_tokens` gives it.

    Raises:
        DataError: a span names no assistant turn, or the chat template prints the turn otherwise.
        Unscorable: as for `trained_tokens`.
    """
    turns = [number for number, message in enumerate(conversation.messages) if message["role"] == "assistant"]
    places = answer_places(renderer, conversation)
    ids, *_ = renderer.encode_whole(conversation)
    if len(places) != len(turns):
        raise DataError("larf_spans: the chat template joins turns, so that characters of a turn cannot be found")
    untrained = [False] * len(ids)
    for span in spans:
        if span.turn not in turns:
            raise DataError(f"larf_spans: turn {span.turn} is no assistant turn of the row (those are {turns})")
        start, stop = places[turns.index(span.turn)]
        for place, (first, last) in enumerate(
            _characters(renderer.tokenizer, ids[start:stop], conversation.messages[span.turn]), start
        ):
            end = min(span.end, len(str(conversation.messages[span.turn]["content"])))  # what ends the turn stays
            if first < end and (last > span.start or (first == last and first >= span.start)):
                untrained[place] = True
    return [place for place, mark in enumerate(renderer.fit_in(untrained)) if mark]


def _characters(tokenizer: Any, ids: Sequence[int], message: Mapping[str, Any]) -> list[tuple[int, int]]:
    """For each token of an answer, the characters of the message that it holds, as a slice."""

    def text(count: int) -> str:
        decoded: str = tokenizer.decode(list(ids[:count]), clean_up_tokenization_spaces=False)
        return decoded.rstrip("\ufffd")  # a character that some more tokens finish

    lengths = [len(text(count)) for count in range(len(ids) + 1)]
    content = str(message["content"])
    bare = content.strip()
    found = text(len(ids)).find(bare)
    if found < 0:
        raise DataError("larf_spans: the chat template prints an answer otherwise than the row has it")
    shift = content.find(bare) - found
    return [(first + shift, last + shift) for first, last in pairwise(lengths)]
