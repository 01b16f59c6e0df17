"""Exact numbers of the highest scores: the value that divides them from the rest, and how ties are decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ThresholdError
from .ranking import Chunks, as_scores, batches, refuse_change, select
from .rules import check_amount


@dataclass(frozen=True)
class Cut:
    """What divides the highest scores from the rest. Its attributes are also attributes of a fitted `Threshold`."""

    value: float
    rows: int
    removed: int
    unscorable_rows: int
    tied: int = 0
    spared_score: float | None = None
    spared_from: int | None = None


def cut_highest(chunks: Chunks, count: Callable[[int], int]) -> Cut:
    """Cut off exactly as many of the highest scores as asked for; of rows that tie at the cut, the first ones.

    Args:
        chunks: see `ranking.Chunks`.
        count: a function from the number of rows with a score to the number of rows to cut off, which is not larger.

    Raises:
        DataError: two passes saw other scores.
    """
    selected = select(chunks, lambda scored: [scored - max(1, count(scored))] if scored else [])
    missing = selected.rows - selected.scored
    if not selected.scored:
        return Cut(math.inf, selected.rows, 0, missing)
    to_remove, last = count(selected.scored), float(selected.values[0])
    if to_remove == 0:  # `last` is the highest score: nothing lies above it
        return Cut(last, selected.rows, 0, missing)
    equal = int(selected.equal[0])
    higher = selected.scored - int(selected.below[0]) - equal
    if last == -math.inf:  # no value lies below it
        return Cut(last, selected.rows, higher, missing)
    # The value is a score that stays: "greater than" divides the rows exactly, in float32 as in float64.
    value, spared_from, ties = _neighbours(chunks, last, to_remove - higher)
    refuse_change(ties == equal)
    spared_score = None if spared_from is None else last
    return Cut(value, selected.rows, to_remove, missing, higher + equal - to_remove, spared_score, spared_from)


def rows_to_cut(amount: float, scorable: int, *, share: bool) -> int:
    """How many of the rows that have a score go: `amount` of them, or that share of them, rounded down.

    >>> rows_to_cut(0.07, 100, share=True), rows_to_cut(9, 5, share=False)
    (7, 5)
    """
    # 0.07 * 100 is 7.000000000000001: rounding first keeps the floor what a person expects.
    count = math.floor(round(amount * scorable, 6)) if share else int(amount)
    return min(count, scorable)


def cut_harmless(share: float, harmless: Iterable[float | None]) -> tuple[float, int]:
    """The score above which at most `share` of new harmless rows lie, and how many scores say so.

    Args:
        share, harmless: see `Threshold.calibrated`.

    Raises:
        ThresholdError: the share is none, or takes more harmless rows.
    """
    check_amount("calibrated", share)
    scores = as_scores(harmless)
    scores = np.sort(scores[~np.isnan(scores)])
    place = math.ceil(round((len(scores) + 1) * (1 - share), 9)) - 1  # 1 - 0.7 is 0.30000000000000004
    if place >= len(scores):
        raise ThresholdError(
            f"a share of {share} needs at least {math.ceil(1 / share) - 1} harmless rows; there are {len(scores)}"
        )
    return float(scores[place]), len(scores)


def _neighbours(chunks: Chunks, score: float, tie: int) -> tuple[float, int | None, int]:
    """What stands next to `score` in one pass over the scores.

    Returns:
        The next lower score (-inf where there is none); the row number of the row that is number `tie`, from 0, among
        those of exactly this score (None where there are not so many); and how many rows have this score.
    """
    below, first_row, ties = -math.inf, 0, 0
    tie_row: int | None = None
    for batch in batches(chunks):
        below = max(below, float(np.where(batch < score, batch, -np.inf).max()))
        equal = np.flatnonzero(batch == score)
        if tie_row is None and tie < ties + len(equal):
            tie_row = first_row + int(equal[tie - ties])
        ties += len(equal)
        first_row += len(batch)
    return below + 0.0, tie_row, ties  # -0.0 or 0.0, whichever came first, is 0.0
