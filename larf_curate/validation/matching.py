"""Rows that are like others in length and in list format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Ints = NDArray[np.int64]
Shapes = NDArray[np.float64]
"""[rows, 2]: the number of trained tokens, and 1 where the answer is a list."""


def match_rows(wanted: Shapes, offered: Shapes, rows: Ints) -> Ints:
    """For each wanted shape one of the offered rows, none twice, with the lengths as near as they come.

    Rows are matched by the logarithm of their length within lists and within others, the longest first, since long
    rows are rare; where one kind runs out, the other kind is taken.

    Args:
        wanted: the shapes of the rows to match.
        offered: the shapes of the rows to choose from.
        rows: the numbers of the offered rows.

    Returns:
        A number out of `rows` for each of the wanted.

    Raises:
        DataError: fewer rows are offered than wanted.

    >>> match_rows(np.array([[10, 0], [90, 1.0]]), np.array([[11, 0], [80, 1.0], [90, 0]]), np.array([5, 6, 7]))
    array([5, 6])
    """
    if len(offered) < len(wanted):
        raise DataError(f"{len(offered)} rows are too few to match {len(wanted)}")
    free = np.ones(len(offered), bool)
    matched = np.zeros(len(wanted), np.int64)
    lengths = np.log(np.maximum(offered[:, 0], 1))
    for number in np.argsort(-wanted[:, 0], kind="stable"):
        length, is_list = wanted[number]
        usable = free & (offered[:, 1] == is_list)
        if not usable.any():
            usable = free
        distance = np.where(usable, np.abs(lengths - np.log(max(length, 1))), np.inf)
        nearest = int(np.argmin(distance))
        free[nearest] = False
        matched[number] = rows[nearest]
    return matched
