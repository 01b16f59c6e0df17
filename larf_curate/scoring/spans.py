"""The words of a row that do most of its damage: what to leave out of the loss instead of the whole row."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from ..rows.answer_characters import Characters

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = 0.5
"""Of a row's eroding effect that its spans take away: the sum of the influences of its tokens that are positive."""
_JOINERS = "\u00ad\u200c\u200d\u2060"
_NO_SPACES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0xA4CF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts that put no space between words (Thai, Lao, Burmese, Khmer, Chinese, Japanese): each character is a word."""


@dataclass(frozen=True)
class Span:
    """A range of characters of a turn to leave out of the loss.

    Attributes:
        turn: the number of the turn in the row, from 0.
        start, end: the first character, and the one after the last.
        score: the sum of the influences of the tokens in it.
    """

    turn: int
    start: int
    end: int
    score: float


def find_spans(
    values: NDArray[np.float32],
    places: Sequence[Characters | None],
    texts: Mapping[int, str],
    share: float = SHARE,
) -> list[Span]:
    """The ranges of characters without which a share of a row's eroding effect is gone, of as few tokens as possible.

    The tokens with the highest influence are taken until they make up the share, each with the words that it touches: a
    word is left out as a whole or not at all, and so are the tokens that touch it. Neighbouring words become one range.

    Args:
        values: the influence of each trained token; positive is damage.
        places: the characters that each stands for; a token that stands for none is never taken, and counts.
        texts: the texts of the turns by number.
        share: 0 to 1; where fewer characters than that do damage, all that do are taken.

    Returns:
        The ranges in order; none where no token does damage.
    """
    target = share * float(values[values > 0].sum(dtype=np.float64))
    ranges, of_tokens = _word_ranges(places, texts)
    tokens_of: list[list[int]] = [[] for _ in ranges]
    for token, touched in enumerate(of_tokens):
        for word in touched:
            tokens_of[word].append(token)
    taken: set[int] = set()
    chosen: set[int] = set()
    gone = 0.0
    for token in np.argsort(-values, kind="stable").tolist():
        if values[token] <= 0 or gone >= target:
            break
        if token in taken:
            continue
        chosen.update(of_tokens[token])
        more = {other for word in of_tokens[token] for other in tokens_of[word]} - taken
        taken |= more
        gone += sum(max(float(values[other]), 0.0) for other in more)
    return _summed(_merged([ranges[word] for word in chosen], texts), values, places)


def _word_ranges(
    places: Sequence[Characters | None], texts: Mapping[int, str]
) -> tuple[list[Characters], list[range | list[int]]]:
    """The words of all turns, and for each token the numbers of those that it touches.

    A token of white space alone touches none: it counts as a word of its own.
    """
    ranges: list[Characters] = []
    first: dict[int, int] = {}
    ends: dict[int, list[int]] = {}
    starts: dict[int, list[int]] = {}
    for turn, text in texts.items():
        words_of_turn = words(text)
        first[turn], starts[turn], ends[turn] = (
            len(ranges),
            [a for a, _ in words_of_turn],
            [b for _, b in words_of_turn],
        )
        ranges += [Characters(turn, a, b) for a, b in words_of_turn]
    of_tokens: list[range | list[int]] = []
    for at in places:
        if at is None:
            of_tokens.append([])
            continue
        low, high = bisect_right(ends[at.turn], at.start), bisect_left(starts[at.turn], at.end)
        if low < high:
            of_tokens.append(range(first[at.turn] + low, first[at.turn] + high))
        else:
            of_tokens.append([len(ranges)])
            ranges.append(at)
    return ranges, of_tokens


def _merged(ranges: Sequence[Characters], texts: Mapping[int, str]) -> list[Characters]:
    """Ranges that overlap, or have only white space between them, as one; in order."""
    merged: list[Characters] = []
    for one in sorted(ranges, key=lambda one: (one.turn, one.start)):
        last = merged[-1] if merged else None
        if last is not None and last.turn == one.turn and not texts[one.turn][last.end : one.start].strip():
            merged[-1] = Characters(one.turn, last.start, max(last.end, one.end))
        else:
            merged.append(one)
    return merged


def _summed(
    ranges: Sequence[Characters], values: NDArray[np.float32], places: Sequence[Characters | None]
) -> list[Span]:
    """The ranges with the influence of the tokens that touch each."""
    turns, starts, ends = (
        np.array([-1 if at is None else getattr(at, name) for at in places]) for name in ("turn", "start", "end")
    )
    spans = []
    for one in ranges:
        inside = (turns == one.turn) & (starts < one.end) & (ends > one.start)
        spans.append(Span(one.turn, one.start, one.end, float(values[inside].sum(dtype=np.float64))))
    return spans


def words(text: str) -> list[tuple[int, int]]:
    r"""Where the words of a text begin and end: runs of letters and digits, and runs of signs; no white space.

    What is seen as one character is never divided: an emoji of several, a letter and its accents.

    >>> [("It's 2\u00b0C, \u4f60\u597d!")[a:b] for a, b in words("It's 2\u00b0C, \u4f60\u597d!")]
    ["It's", '2', '\xb0', 'C', ',', '\u4f60', '\u597d', '!']
    """
    kinds = [_kind(text, place) for place in range(len(text))]
    for place, kind in enumerate(kinds):
        if kind == "goes on" or (place and text[place - 1] == "\u200d"):
            kinds[place] = kinds[place - 1] if place else "sign"
    ranges: list[tuple[int, int]] = []
    for kind, run in groupby(range(len(text)), key=lambda place: kinds[place]):
        run_places = list(run)
        if kind == "alone":
            starts = [p for p in run_places if _kind(text, p) == "alone"] or run_places[:1]
            ranges += zip(starts, [*starts[1:], run_places[-1] + 1], strict=True)
        elif kind != "space":
            ranges.append((run_places[0], run_places[-1] + 1))
    return ranges


def _kind(text: str, place: int) -> str:
    character = text[place]
    if character.isspace():
        return "space"
    if character in _JOINERS or unicodedata.category(character).startswith("M"):
        return "goes on"
    if any(first <= ord(character) <= last for first, last in _NO_SPACES):
        return "alone"
    within = 0 < place < len(text) - 1 and text[place - 1].isalnum() and text[place + 1].isalnum()
    letter = character.isalnum() or character == "_" or (character in "'\u2019" and within)
    return "letter" if letter else "sign"
