"""Which conversations run together: those that begin alike, sorted by length, bounded by tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

Row = TypeVar("Row", list[int], tuple[int, ...])

_SET_UP = 512
"""Tokens' worth of work that a beginning has to save: it runs by itself, and the rows that have it by themselves."""
_DEPTH = 16  # beginnings within beginnings


class Batch(NamedTuple):
    """Indices of rows that run together, and how many first tokens all of them share."""

    rows: list[int]
    shared: int = 0

    def halves(self) -> tuple[Batch, Batch]:
        """A batch that did not fit in memory, in two."""
        middle = len(self.rows) // 2
        return Batch(self.rows[:middle], self.shared), Batch(self.rows[middle:], self.shared)


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[Batch]:
    """Indices of `lengths` in batches of near-equal length, longest first.

    A batch of n conversations of at most m tokens costs n * m <= `batch_tokens` with its padding; one that is longer
    than that alone is a batch of its own. Longest first, so that memory runs out at the start or not at all.

    >>> [batch.rows for batch in plan_batches([3, 9, 4, 1], batch_tokens=8)]
    [[1], [2, 0], [3]]
    """
    batches: list[Batch] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room < 1:
            batches.append(Batch([]))
            room = batch_tokens // max(1, lengths[index])
        batches[-1].rows.append(index)
        room -= 1
    return batches


def plan_packs(rows: Sequence[Row], batch_tokens: int) -> list[Batch]:
    """Indices of `rows` in batches of at most `batch_tokens` behind what their rows share; longest first.

    Batches that share a beginning follow each other.

    >>> [(batch.rows, batch.shared) for batch in plan_packs([[1] * 3, [1] * 9, [2] * 4, [1]], batch_tokens=8)]
    [([1], 0), ([2, 0, 3], 0)]
    """
    batches: list[Batch] = []
    for indices, shared in sorted(_families(rows), key=lambda family: -max(len(rows[i]) for i in family[0])):
        room, family = 0, list[Batch]()
        for index in sorted(indices, key=lambda i: (-len(rows[i]), i)):
            own = len(rows[index]) - shared
            if room < own or not family:
                family.append(Batch([], shared))
                room = batch_tokens
            family[-1].rows.append(index)
            room -= own
        batches += family
    return batches


def _families(rows: Sequence[Row]) -> list[tuple[list[int], int]]:
    """Indices of rows that begin alike, with the number of tokens shared; a family within another where that pays."""
    found: list[tuple[list[int], int]] = []

    def stay(at: list[int], outer: int, depth: int) -> list[int]:
        """Those of `at`, in the rows' order, that found no closer family than the one that shares `outer` tokens."""
        if len(at) < 3 or depth > _DEPTH:
            return at
        shared = common_prefix([rows[at[0]], rows[at[-1]]])  # what the extremes share, all between them share
        pays = (len(at) - 1) * (shared - outer) > shared + _SET_UP
        inner = shared if pays else outer
        rest = at[:1]  # it may be the common beginning and its one own token, no more
        for _, same in groupby(at[1:], key=lambda i: rows[i][shared]):
            rest += stay(list(same), inner, depth + 1)
        if pays:
            found.append((rest, shared))
        return [] if pays else rest

    rest = stay(sorted(range(len(rows)), key=rows.__getitem__), 0, 0)
    return [*found, (rest, 0)] if rest else found


def common_prefix(rows: Iterable[Row]) -> int:
    """How many first tokens all rows share; each keeps one of its own.

    >>> common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]])
    1
    """
    rows = list(rows)
    first, last = min(rows), max(rows)  # what the extremes share, all between them share
    limit = min(map(len, rows)) - 1
    return next((at for at in range(limit) if first[at] != last[at]), limit)
