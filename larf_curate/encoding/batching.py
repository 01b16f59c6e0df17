"""Which rows run together: sorted by length, within a number of tokens, and packed rows by shared prefix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

Row = TypeVar("Row", list[int], tuple[int, ...])

_MAX_DEPTH = 16  # prefixes within prefixes


class Batch(NamedTuple):
    """Rows that run together.

    Attributes:
        rows: their indices.
        prefix: how many first tokens all of them share, computed once for all batches that have them.
    """

    rows: list[int]
    prefix: int = 0

    def halves(self) -> tuple[Batch, Batch]:
        """The batch in two, for one that does not fit in memory."""
        middle = len(self.rows) // 2
        return Batch(self.rows[:middle], self.prefix), Batch(self.rows[middle:], self.prefix)


def plan_padded_batches(lengths: Sequence[int], batch_tokens: int) -> list[Batch]:
    """Batches of rows of similar length, longest first.

    A batch of n rows of at most m tokens costs n * m <= `batch_tokens` with its padding; a row that is longer than that
    is a batch of its own. Longest first, so that memory runs out at the start or not at all.

    Args:
        lengths: tokens of each row.
        batch_tokens: the most tokens of a batch, pads counted.

    >>> [batch.rows for batch in plan_padded_batches([3, 9, 4, 1], batch_tokens=8)]
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


def plan_packed_batches(
    rows: Sequence[Row], batch_tokens: int, *, prefix_overhead: int, limits: Sequence[int] | None = None
) -> list[Batch]:
    """Batches of at most `batch_tokens` tokens behind the prefix that their rows share; longest first.

    Batches that share a prefix follow each other.

    Args:
        rows: token ids, none empty.
        batch_tokens: the most tokens of a batch, without the prefix. A row that is longer is a batch of its own.
        prefix_overhead: a prefix is split off only if that saves at least this many tokens of work.
        limits: for each row, how many first tokens may be in a prefix; all but the last by default.

    >>> rows = [[1] * 3, [1] * 9, [2] * 4, [1]]
    >>> [(batch.rows, batch.prefix) for batch in plan_packed_batches(rows, batch_tokens=8, prefix_overhead=512)]
    [([1], 0), ([2, 0, 3], 0)]
    """
    batches: list[Batch] = []
    groups = _prefix_groups(rows, prefix_overhead, limits or [len(row) - 1 for row in rows])
    for indices, prefix in sorted(groups, key=lambda group: -max(len(rows[i]) for i in group[0])):
        room, batches_of_group = 0, list[Batch]()
        for index in sorted(indices, key=lambda i: (-len(rows[i]), i)):
            tokens = len(rows[index]) - prefix
            if room < tokens or not batches_of_group:
                batches_of_group.append(Batch([], prefix))
                room = batch_tokens
            batches_of_group[-1].rows.append(index)
            room -= tokens
        batches += batches_of_group
    return batches


def _prefix_groups(rows: Sequence[Row], prefix_overhead: int, limits: Sequence[int]) -> list[tuple[list[int], int]]:
    """Groups of rows that share a prefix worth splitting off: their indices, and the tokens of the prefix.

    A group may lie within another: rows that share a longer prefix form a group of their own where that pays.
    """
    groups: list[tuple[list[int], int]] = []

    def split_off(indices: list[int], outer: int, depth: int) -> list[int]:
        """Find groups among rows that share `outer` tokens; returns those that are in none. All in the rows' order."""
        if len(indices) < 3 or depth > _MAX_DEPTH:
            return indices
        shared = common_prefix([rows[indices[0]], rows[indices[-1]]])  # rows are sorted: all between share it too
        shared = max(outer, min(shared, *(limits[i] for i in indices)))
        pays = (len(indices) - 1) * (shared - outer) > shared + prefix_overhead
        inner = shared if pays else outer
        ungrouped = indices[:1]  # this row may end with the prefix and one token of its own: it has no next token
        for _, same in groupby(indices[1:], key=lambda i: rows[i][shared]):
            ungrouped += split_off(list(same), inner, depth + 1)
        if pays:
            groups.append((ungrouped, shared))
        return [] if pays else ungrouped

    ungrouped = split_off(sorted(range(len(rows)), key=rows.__getitem__), 0, 0)
    return [*groups, (ungrouped, 0)] if ungrouped else groups


def common_prefix(rows: Iterable[Row]) -> int:
    """How many first tokens all rows share, where each keeps at least one token of its own.

    >>> common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]])
    1
    """
    rows = list(rows)
    first, last = min(rows), max(rows)  # what the first and last in order share, all between them share
    limit = min(map(len, rows)) - 1
    return next((at for at in range(limit) if first[at] != last[at]), limit)
