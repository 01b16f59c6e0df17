"""A threshold for each split: finds the scores of one split among all scores, and the split that rows belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ThresholdError
from .ranking import Chunks

Fitted = TypeVar("Fitted")
OfSplit = TypeVar("OfSplit", bound="HasRows")


class HasRows(Protocol):
    """What is asked of a fitted threshold; `Threshold` imports this module, so it is not named here."""

    @property
    def rows(self) -> int | None: ...


def fit_each(fit: Callable[[Chunks], Fitted], chunks: Chunks, splits: Sequence[tuple[str, int]]) -> dict[str, Fitted]:
    """What `fit` makes of the scores of each split.

    Args:
        fit: takes the scores of one split.
        chunks: the scores of all splits, one split after the other.
        splits: the name of each, and its number of rows.
    """
    fitted, begin = {}, 0
    for name, rows in splits:
        fitted[name] = fit(_between(chunks, begin, begin + rows))
        begin += rows
    return fitted


def _between(chunks: Chunks, start: int, stop: int) -> Chunks:
    """The scores of the rows `start` to `stop` alone."""

    def pieces() -> Iterator[NDArray[np.floating]]:
        first = 0
        for chunk in chunks():
            if first >= stop:
                break
            part = chunk[max(start - first, 0) : stop - first]
            first += len(chunk)
            if len(part):
                yield part

    return pieces


def pieces_of(by_split: Mapping[str, OfSplit], first_row: int, count: int) -> Iterator[tuple[OfSplit, int, slice]]:
    """The splits that `count` consecutive rows belong to.

    Args:
        by_split: the fitted threshold of each split, in the order of their rows.
        first_row: the number of the first of the rows in the dataset, from 0.
        count: how many rows.

    Yields:
        The threshold of a split, the number within the split of the first of its rows, and the places of its rows among
        all of these rows.

    Raises:
        ThresholdError: not all of them are rows of these splits.
    """
    ends = list(accumulate(part.rows or 0 for part in by_split.values()))
    if not 0 <= first_row <= first_row + count <= ends[-1]:
        raise ThresholdError(
            f"each split has a threshold of its own: give row numbers, 0 to {ends[-1] - 1}, in the order of the splits"
        )
    for part, end in zip(by_split.values(), ends, strict=True):
        begin = end - (part.rows or 0)
        low, high = max(first_row, begin), min(first_row + count, end)
        if low < high:
            yield part, low - begin, slice(low - first_row, high - first_row)
