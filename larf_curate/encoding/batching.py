"""Which conversations run together: those that begin alike, sorted by length, bounded by tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_BEGINNING = 16
"""Tokens by which conversations are sorted into those that begin alike: a system turn differs within so many."""


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Indices of `lengths` in batches of near-equal length, longest first.

    A batch of n conversations of at most m tokens costs n * m <= `batch_tokens` with its padding; one that is longer
    than that alone is a batch of its own. Longest first, so that memory runs out at the start or not at all.

    >>> plan_batches([3, 9, 4, 1], batch_tokens=8)
    [[1], [2, 0], [3]]
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if room < 1:
            batches.append([])
            room = batch_tokens // max(1, lengths[index])
        batches[-1].append(index)
        room -= 1
    return batches


def plan_packs(rows: Sequence[Sequence[int]], batch_tokens: int) -> list[list[int]]:
    """Indices of `rows` in batches of at most `batch_tokens` in all, without padding; longest first.

    Rows that begin with the same tokens as many others stand together, so that their batches share that beginning;
    all others stand in batches of their own.

    >>> plan_packs([[1] * 3, [1] * 9, [1] * 4, [1]], batch_tokens=8)
    [[1], [2, 0, 3]]
    """
    beginnings = [tuple(row[:_BEGINNING]) for row in rows]
    common = Counter(beginnings)
    few = max(2, len(rows) // 64)
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, beginning in enumerate(beginnings):
        alike.setdefault(beginning if common[beginning] >= few else (), []).append(index)
    batches: list[list[int]] = []
    for indices in alike.values():
        room = 0
        for index in sorted(indices, key=lambda i: (-len(rows[i]), i)):
            if room < len(rows[index]):
                batches.append([])
                room = batch_tokens
            batches[-1].append(index)
            room -= len(rows[index])
    return sorted(batches, key=lambda batch: -len(rows[batch[0]]))


def common_prefix(rows: Sequence[list[int]]) -> int:
    """How many first tokens all rows share; each keeps one of its own.

    >>> common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]])
    1
    """
    first, last = min(rows), max(rows)  # what the extremes share, all between them share
    limit = min(map(len, rows)) - 1
    return next((at for at in range(limit) if first[at] != last[at]), limit)


def halves(batch: list[int]) -> tuple[list[int], list[int]]:
    """A batch that did not fit in memory, in two."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]
