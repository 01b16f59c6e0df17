"""Figures by group, if the rows have a column that sorts them into a few: a category, a source, a task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..deciding.layout import OUTCOMES
from ..deciding.results import Ints, Results
from ..deciding.summary import OutcomeCounts
from ..rows.score_columns import score_columns
from ..scoring.quantile_levels import GROUP_LEVELS, LEVELS
from ..scoring.statistics import Array
from .report import Group

MOST_GROUPS, _MOST_COLUMNS = 30, 3
_LONGEST = 200  # characters of a name or a value
_BINS = 1000  # of the scores' range: what a group's quantiles are exact to


def find_groups(results: Results, low: float, high: float) -> list[Group]:
    """Return the groups of the first three columns of text (or booleans) that have few different values.

    Few are 2 to 30, and at most a fifth of the rows. Columns that the row format reads are texts, not categories.

    Args:
        results: the results of the run.
        low, high: the lowest and the highest score.

    Raises:
        DataError: a file cannot be read.
    """
    groups: list[Group] = []
    for column in _candidates(results):
        groups_of_column = _groups_of(results, column, low, high)
        if groups_of_column:
            groups += groups_of_column
            if len({group.column for group in groups}) == _MOST_COLUMNS:
                break
    return groups


def _candidates(results: Results) -> Iterator[str]:
    names, row_format = results.schema.names, results.row_format
    texts = set(row_format.columns(names)) if row_format else set()
    scored = score_columns(names)
    for field in results.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        simple = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
        # A name with a dot would be taken for a path into a struct, a name that is there twice for either.
        plain = "." not in field.name and names.count(field.name) == 1
        if simple and plain and field.name not in texts | scored:
            yield field.name


def _groups_of(results: Results, column: str, low: float, high: float) -> list[Group] | None:
    """The groups of one column, the largest first; None if it has too many different values, or only one."""
    most = min(MOST_GROUPS, results.rows.total // 5)
    rows: dict[str | None, Counter[str]] = defaultdict(Counter)
    histograms: dict[str | None, Ints] = defaultdict(lambda: np.zeros(_BINS, np.int64))
    width, score = (high - low) or 1.0, results.names.score
    for outcome in OUTCOMES:
        for table in results.tables(outcome, [column, score], rows=16_384):
            encoded = pc.dictionary_encode(table[column].cast(pa.large_string()).combine_chunks(), "encode")
            values, place = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
            if len(values) > most:
                return None
            scores = table[score].cast(pa.float64()).to_numpy()
            scored = ~np.isnan(scores)
            bins = np.clip((scores[scored] - low) / width * _BINS, 0, _BINS - 1).astype(np.int64)
            for number, value in enumerate(values):
                rows[value][outcome] += int((place == number).sum())
                histograms[value] += np.bincount(bins[place[scored] == number], minlength=_BINS)
            if len(rows) > most:
                return None
    if len(rows) < 2:
        return None
    edges = np.linspace(low, high, _BINS + 1)
    order = sorted(rows, key=lambda value: (-rows[value].total(), value is None, value or ""))
    return [
        Group(
            column=column[:_LONGEST],
            value=value if value is None else value[:_LONGEST],
            rows=OutcomeCounts(**{outcome: rows[value][outcome] for outcome in OUTCOMES}),
            quantiles=_quantiles(histograms[value], edges),
        )
        for value in order
    ]


def _quantiles(histogram: Ints, edges: Array) -> tuple[float, ...] | None:
    if not histogram.sum():
        return None
    reached = np.concatenate([[0.0], np.cumsum(histogram) / histogram.sum()])
    return tuple(float(np.interp(LEVELS[name], reached, edges)) for name in GROUP_LEVELS)
