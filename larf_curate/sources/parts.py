"""The splits or files of a source, by which people find one of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SourceParts:
    """Where the parts of a source begin and end; of a source that is one file or one split there are none.

    Attributes:
        names: of the splits or, where splits are not kept apart, of the files.
        rows: how many the source takes of each.
        first: the number, in its part, of the first row that it takes.

    >>> parts = SourceParts(("a.jsonl", "b.jsonl"), (3, 5), (0, 0))
    >>> parts.place(4), WHOLE.place(4)
    ('1 of b.jsonl', '')
    """

    names: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    first: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names)

    @cached_property
    def _ends(self) -> Ints:
        return np.cumsum(np.array(self.rows, np.int64))

    def locate(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Rows by their numbers in the source [n]: the place of their part in `names`, and their numbers in it."""
        part = np.searchsorted(self._ends, numbers, "right")
        begins = self._ends - np.array(self.rows, np.int64)
        return part.astype(np.int64), numbers - begins[part] + np.array(self.first, np.int64)[part]

    def place(self, number: int) -> str:
        """Where a person finds the row of this number in the source; empty where the number says it all."""
        if not self:
            return ""
        (part,), (row,) = self.locate(np.array([number], np.int64))
        return row_of_part(int(row), self.names[part])


WHOLE = SourceParts()
"""Of a source that is one file or one split."""


def row_of_part(row: int, part: str) -> str:
    """A row of a split or file, in words.

    >>> row_of_part(17, "test")
    '17 of test'
    """
    return f"{row} of {part}"
