"""The rows to look at: the highest of those removed, and those that just stayed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..deciding.results import Ints, Results
from ..scoring.excerpts import Excerpt, excerpt_of


def own_columns(results: Results) -> list[str]:
    """The columns of neither the conversation nor the score: a category, a source, an identifier, another score."""
    names = results.schema.names
    read = results.row_format.columns(names) if results.row_format else names
    return [name for name in names if name not in read and name not in results.names]


def highest_rows(results: Results, outcome: str, count: int, more: Sequence[str] = ()) -> list[Excerpt]:
    """The rows of an outcome that score highest, from the highest down; rows without a score come last.

    Args:
        results: the results of a run.
        outcome: kept, removed or unscorable.
        count: the most rows to return.
        more: columns whose values are wanted beside the texts.

    Raises:
        DataError: a file cannot be read.
    """
    places = _highest_places(results, outcome, count)
    names, row_format = results.schema.names, results.row_format
    score, issue = results.names.score, results.names.issue
    extra = [name for name in (score, issue) if name in names]
    columns = [*dict.fromkeys([*(row_format.columns(names) if row_format else names), *extra, *more])]
    ordered = np.sort(places)
    source_rows = dict(zip(ordered.tolist(), results.source_rows(outcome, ordered), strict=True))
    excerpts = {
        int(place): excerpt_of(
            row,
            row_format,
            score=row[score],
            row=source_rows[int(place)].row,
            place=source_rows[int(place)].place,
            outcome=outcome,
            issue=row.get(issue),
            more=more,
        )
        for here, rows in results.at(outcome, ordered, columns)
        for place, row in zip(here, rows, strict=True)
    }
    return [excerpts[int(place)] for place in places]


def _highest_places(results: Results, outcome: str, count: int) -> Ints:
    """Places of the `count` highest scores; of equal ones the first."""
    best, places, first = np.zeros(0), np.zeros(0, np.int64), 0
    for chunk in results.values(results.names.score, [outcome])():
        best = np.concatenate([best, np.where(np.isnan(chunk), -np.inf, chunk)])
        places = np.concatenate([places, np.arange(first, first + len(chunk))])
        first += len(chunk)
        order = np.argsort(-best, kind="stable")[:count]
        best, places = best[order], places[order]
    return places
