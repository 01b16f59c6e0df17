"""Which conversations run together: sorted by length, bounded by tokens."""

from __future__ import annotations

from collections.abc import Sequence


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


def halves(batch: list[int]) -> tuple[list[int], list[int]]:
    """A batch that did not fit in memory, in two."""
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]
