"""The same figures by group, where the rows have a column that sorts them into a few: a category, a source, a task."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..deciding.layout import OUTCOMES
from ..deciding.quantiles import GROUP_LEVELS, LEVELS
from ..scoring.columns import SCORE
from .results import Ints, Results
from .statistics import Array

MOST_GROUPS, _MOST_COLUMNS = 30, 3
_LONGEST = 200  # characters of a name or a value
_BINS = 1000  # of the scores' range: what a group's quantiles are exact to


@dataclass(frozen=True)
class Group:
    """The rows with one value in one column.

    Attributes:
        column, value: which; None is null.
        rows: how many by outcome.
        quantiles: of the scores at 5, 25, 50, 75 and 95%, to a thousandth of the range of all scores; None without any.
    """

    column: str
    value: str | None
    rows: dict[str, int]
    quantiles: list[float] | None


def find_groups(results: Results, low: float, high: float) -> list[Group]:
    """Groups by every column of text (or truth) that takes few values; `low` and `high` are the scores' range.

    Few are 2 to 30, and at most a fifth of the rows. Columns that the row format reads are texts, not categories.
    """
    groups: list[Group] = []
    for column in _candidates(results):
        found = _group(results, column, low, high)
        if found:
            groups += found
            if len({group.column for group in groups}) == _MOST_COLUMNS:
                break
    return groups


def _candidates(results: Results) -> Iterator[str]:
    read = set(results.form.columns(results.schema.names)) if results.form else set()
    for field in results.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        simple = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)
        # A name with a dot would be taken for a path into a struct, a name that is there twice for either.
        plain = "." not in field.name and results.schema.names.count(field.name) == 1
        if simple and plain and field.name not in read and not field.name.startswith("larf_"):
            yield field.name


def _group(results: Results, column: str, low: float, high: float) -> list[Group] | None:
    most = min(MOST_GROUPS, sum(results.rows.values()) // 5)
    rows: dict[str | None, Counter[str]] = defaultdict(Counter)
    histograms: dict[str | None, Ints] = defaultdict(lambda: np.zeros(_BINS, np.int64))
    width = (high - low) or 1.0
    for outcome in OUTCOMES:
        for table in results.tables(outcome, [column, SCORE], rows=16_384):
            encoded = pc.dictionary_encode(table[column].cast(pa.large_string()).combine_chunks(), "encode")
            values, place = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
            if len(values) > most:
                return None
            scores = table[SCORE].cast(pa.float64()).to_numpy()
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
    counts = [{outcome: rows[value][outcome] for outcome in OUTCOMES} for value in order]
    return [
        Group(_cut(column), value and _cut(value), count, _of(histograms[value], edges))
        for value, count in zip(order, counts, strict=True)
    ]


def _cut(text: str) -> str:
    return text[:_LONGEST]


def _of(histogram: Ints, edges: Array) -> list[float] | None:
    if not histogram.sum():
        return None
    reached = np.concatenate([[0.0], np.cumsum(histogram) / histogram.sum()])
    return [float(np.interp(share, reached, edges)) for share in map(LEVELS.__getitem__, GROUP_LEVELS)]
