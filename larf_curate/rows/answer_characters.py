"""Which characters of the row's own turns each token of its answers stands for, whatever the chat template did."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BROKEN = "\ufffd"  # what a tokenizer prints of a character of which some bytes are missing


@dataclass(frozen=True)
class Characters:
    """A range of characters in one of the row's turns.

    Attributes:
        turn: the number of the turn in the row, from 0.
        start, end: the first character, and the one after the last, in Python's count (code points).
    """

    turn: int
    start: int
    end: int


@dataclass(frozen=True)
class OwnText:
    """The text of one of the row's turns, and the turn's number in the row, from 0."""

    turn: int
    text: str


def answer_characters(
    tokenizer: Any, ids: Sequence[int], start: int, stop: int, texts: Sequence[OwnText]
) -> list[Characters | None]:
    """The characters that the tokens of one answer stand for.

    A token of some bytes of a character stands for the whole character.

    Args:
        tokenizer: the tokenizer that made the ids.
        ids: the token ids of the conversation.
        start, stop: the answer's tokens.
        texts: what the answer is made of: one turn of the row, or several neighbours that were joined.

    Returns:
        For each token; None for those that stand for no character of the row, such as the one that ends the turn, and
        where the template printed another text than the row holds.
    """
    printed, ranges = _decoded(tokenizer, ids, start, stop)
    closing = set(tokenizer.added_tokens_decoder)
    body = max(
        (end for (_, end), token in zip(ranges, ids[start:stop], strict=True) if token not in closing), default=0
    )
    characters: list[Characters | None] = [None] * len(ranges)
    after = 0
    for number, own in enumerate(texts, 1):
        located = _located(own.text, printed[:body], after, last=number == len(texts))
        if located is None:
            continue
        first, origins = located
        after = first + len(origins)
        for place, (begin, end) in enumerate(ranges):
            covered = origins[max(begin - first, 0) : max(end - first, 0)]
            if covered:
                characters[place] = Characters(own.turn, covered[0][0], covered[-1][1])
    return characters


def _decoded(tokenizer: Any, ids: Sequence[int], start: int, stop: int) -> tuple[str, list[tuple[int, int]]]:
    """The text of some tokens, and the range of characters in it that each of them prints.

    A few tokens are decoded at a time, from the last one that ends with a character: the token before them stands in
    front, since the first token of a text may lose a space. Where a text itself holds the character that stands for a
    broken one, the token after it is taken to stand for it too.
    """

    def text(first: int, last: int) -> str:
        before = list(ids[max(first - 1, 0) : first])
        alone = str(tokenizer.decode(before, clean_up_tokenization_spaces=False)) if before else ""
        whole = str(tokenizer.decode([*before, *ids[first:last]], clean_up_tokenization_spaces=False))
        return whole[len(alone) :]

    printed = ""
    ranges: list[tuple[int, int]] = []
    first = start
    for last in range(start + 1, stop + 1):
        piece = text(first, last)
        so_far = ranges[-1][1] if ranges else 0
        end = len(printed) + len(piece.rstrip(_BROKEN))
        ranges.append((so_far, max(end, so_far)))
        if not piece.endswith(_BROKEN) or last == stop:
            printed += piece
            ranges[-1] = (so_far, len(printed))
            first = last
    # A token without a character of its own is a part of the next one to come.
    return printed, [(begin, end if end > begin else min(begin + 1, len(printed))) for begin, end in ranges]


def _located(text: str, printed: str, after: int, *, last: bool) -> tuple[int, list[tuple[int, int]]] | None:
    """Where a text was printed, and for each printed character the range of the text that it stands for.

    Templates trim texts, print thoughts before them, and tokenizers compose characters (a letter and its accent become
    one).

    Args:
        text: a text of the row.
        printed: what the template printed, without the tokens that end the turn.
        after: where to look from.
        last: whether nothing of the row is printed after it.
    """
    begin = len(text) - len(text.lstrip())
    candidates = [(text, [(at, at + 1) for at in range(len(text))])]
    candidates.append((text.strip(), [(begin + at, begin + at + 1) for at in range(len(text.strip()))]))
    candidates.append(_composed(text.strip(), begin))
    for candidate, origins in candidates:
        if not candidate:
            continue
        at_the_end = len(printed.rstrip()) - len(candidate.rstrip())
        if last and at_the_end >= after and printed.startswith(candidate, at_the_end):
            return at_the_end, origins
        place = printed.find(candidate, after)
        if place >= 0:
            return place, origins
    return None


def _composed(text: str, offset: int) -> tuple[str, list[tuple[int, int]]]:
    """The text in normal form C, and for each character of that the range of characters that it was made of."""
    composed, origins = "", []
    first = 0
    for last in range(1, len(text) + 1):
        if last < len(text) and unicodedata.combining(text[last]):
            continue
        made = unicodedata.normalize("NFC", text[first:last])
        composed += made
        origins += [(offset + first, offset + last)] * len(made)
        first = last
    return composed, origins
