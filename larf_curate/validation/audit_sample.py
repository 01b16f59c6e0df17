"""The rows that an audit looks at: which there are, how they score, and the sample, whatever they are kept in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ..deciding.layout import SUMMARY
from ..deciding.ranking import as_scores
from ..deciding.results import Results
from ..deciding.splitting import described_scorer
from ..deciding.thresholds import Threshold
from ..errors import DataError, ThresholdError
from ..rows.conversions import Row
from ..rows.formats import columns_of
from ..rows.score_columns import prefix_of
from ..scoring.columns import SCORE, scores_of
from ..scoring.spec import ScorerSpec
from ..sources.files import open_source
from ..sources.json_values import rows_of
from ..sources.tables import Source

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE = 4096

Rows: TypeAlias = "str | Path | Source | Dataset | Iterable[Row]"
"""What holds rows: the name of a file or directory, an opened source, a dataset, or rows."""
Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """The rows of a dataset, before a sample is drawn.

    Attributes:
        columns: the columns of the dataset.
        rows: how many there are.
        scores: the values of each column of scores, float64 [rows], NaN where there is none.
        fetch: the rows at some places, ascending.
        threshold: the threshold of the run that they come from, and `removed`, bool [rows]; both are None for other
            rows.
        format: the row format of that run; `auto` for other rows.
        scorer: the scorer of that run, if it lies there.
        described: the same, or what the metadata of scored files say of their scorer; None if nothing does.
        of_columns: what they say of the scorer of each column in `scores`, where they do.
        split_by: the column of scores that decided in that run.
        summary: digest of that run's summary.
    """

    columns: tuple[str, ...]
    rows: int
    scores: Mapping[str, Array]
    fetch: Callable[[Places], list[Row]]
    threshold: Threshold | None = None
    removed: NDArray[np.bool_] | None = None
    format: str = "auto"
    scorer: ScorerSpec | None = None
    described: ScorerSpec | None = None
    of_columns: Mapping[str, ScorerSpec] = field(default_factory=dict)
    split_by: str = SCORE
    summary: str | None = None


def is_run(path: str | Path) -> bool:
    """Whether a run has left its results there."""
    return (Path(path).expanduser() / SUMMARY).is_file()


def usual_column(data: Rows) -> str:
    """The column of scores that is meant where none is named: the one that decided in a run.

    Raises:
        DataError: its results cannot be read.
    """
    if isinstance(data, str | Path) and is_run(data):
        return Results.open(Path(data).expanduser()).names.score
    return SCORE


def candidates_of(data: Rows, names: Sequence[str]) -> Candidates:
    """The rows of anything that holds rows.

    Args:
        data: the directory of a run, or whatever else `open_source` opens, or has opened; a `Dataset`; or rows.
        names: columns of scores to read.

    Raises:
        DataError: it cannot be read, holds no rows, or has no such column, or a column does not hold numbers.
    """
    if isinstance(data, str | Path) and is_run(data):
        return _of_run(Path(data).expanduser(), names)
    if isinstance(data, str | Path):
        data = open_source(str(data))
    if isinstance(data, Mapping):
        raise DataError(f"give one split of the dataset: {', '.join(map(repr, data))}")
    if isinstance(data, Source):
        return _of_source(data, names)
    if hasattr(data, "select_columns"):
        return _of_dataset(data, names)
    return _of_rows(list(data), names)


def _require(names: Sequence[str], columns: Iterable[str]) -> None:
    known = list(columns)
    for name in names:
        if name not in known:
            raise DataError(
                f"there is no column {name!r} to audit; the dataset has: {', '.join(known) or 'none'}. Score it first, "
                "or name the column of the scores"
            )


def _of_source(source: Source, names: Sequence[str]) -> Candidates:
    _require(names, source.schema.names)

    def fetch(places: Places) -> list[Row]:
        return list(_rows_at(source.tables(_ROWS_AT_ONCE), places))

    scores = _scores(source.tables(_ROWS_AT_ONCE) if names else (), names)
    described, of_columns = described_scorer(source.schema, source.name), _scorers(source.schema, source.name, names)
    columns = tuple(source.schema.names)
    return Candidates(columns, source.rows, scores, fetch, described=described, of_columns=of_columns)


def _scorers(schema: pa.Schema, where: str, names: Sequence[str]) -> dict[str, ScorerSpec]:
    """See `Candidates.of_columns`."""
    prefixes = {name: prefix_of(name) for name in names}
    found = {name: described_scorer(schema, where, prefix) for name, prefix in prefixes.items() if prefix is not None}
    return {name: scorer for name, scorer in found.items() if scorer is not None}


def _rows_at(tables: Iterable[pa.Table], places: Places) -> Iterator[Row]:
    first = 0
    for table in tables:
        low, high = np.searchsorted(places, [first, first + len(table)])
        if low < high:
            yield from rows_of(table.take(pa.array(places[low:high] - first)), table.column_names)
        first += len(table)


def _scores(tables: Iterable[pa.Table], names: Sequence[str]) -> dict[str, Array]:
    parts: dict[str, list[Array]] = {name: [np.zeros(0)] for name in names}
    first_row = 0
    for table in tables:
        for name in names:
            try:
                parts[name].append(scores_of(_with_numbers(table, name), name, first_row))
            except ThresholdError as error:
                raise DataError(str(error)) from None
        first_row += len(table)
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}


def _with_numbers(table: pa.Table, name: str) -> pa.Table:
    """The table with a column of texts that are numbers as numbers, which is how a CSV file holds them."""
    column = table[name]
    if not pa.types.is_string(column.type):
        return table
    blank = pa.compute.equal(pa.compute.utf8_trim_whitespace(column), "")
    with contextlib.suppress(pa.ArrowInvalid):
        numbers = pa.compute.if_else(blank, None, column).cast(pa.float64())
        return table.set_column(table.column_names.index(name), name, numbers)
    return table


def _of_run(home: Path, names: Sequence[str]) -> Candidates:
    results = Results.open(home)
    columns = tuple(results.schema.names)
    _require(names, columns)
    counts = asdict(results.rows)  # by outcome, in their order
    stops = dict(zip(counts, np.cumsum(list(counts.values())), strict=True))

    def fetch(places: Places) -> list[Row]:
        rows: list[Row] = []
        for outcome, stop in stops.items():
            first = stop - counts[outcome]
            here = places[(places >= first) & (places < stop)] - first
            rows += [row for _, chunk in results.at(outcome, here, columns) for row in chunk]
        return rows

    return Candidates(
        columns=columns,
        rows=sum(counts.values()),
        scores={name: np.concatenate([np.zeros(0), *results.values(name)()]) for name in names},
        fetch=fetch,
        threshold=results.threshold,
        removed=np.repeat([outcome == "removed" for outcome in counts], list(counts.values())),
        format=results.format,
        scorer=results.fitted_scorer,
        described=results.scorer,
        of_columns={
            **_scorers(results.schema, str(home), names),
            **{name: results.scorer for name in names if name in results.names and results.scorer is not None},
        },
        split_by=results.names.score,
        summary=results.digest,
    )


def _of_dataset(dataset: Any, names: Sequence[str]) -> Candidates:
    if not hasattr(dataset, "select"):
        raise DataError(
            "an audit draws its sample from all rows: give a Dataset, not a stream of rows (or list some: "
            "list(dataset.take(5000)))"
        )
    columns = tuple(dataset.column_names)
    _require(names, columns)
    tables = dataset.select_columns(list(names)).with_format("arrow").iter(_ROWS_AT_ONCE) if names else ()

    def fetch(places: Places) -> list[Row]:
        window = dataset.with_format(None)[places.tolist()]
        return [dict(zip(window, values, strict=True)) for values in zip(*window.values(), strict=True)]

    return Candidates(columns, len(dataset), _scores(tables, names), fetch)


def _of_rows(rows: list[Row], names: Sequence[str]) -> Candidates:
    if wrong := next((row for row in rows if not isinstance(row, Mapping)), None):
        raise DataError(f"a row is a mapping of column to value, not {type(wrong).__name__}")
    columns = tuple(columns_of(rows))
    _require(names, columns)
    scores = {}
    for name in names:
        try:
            scores[name] = as_scores([row.get(name) for row in rows]).astype(np.float64)
        except ThresholdError:
            raise DataError(f"the column {name!r} holds something other than numbers") from None
        if np.isinf(scores[name]).any():
            place = int(np.argmax(np.isinf(scores[name])))
            raise DataError(f"the column {name!r} holds {scores[name][place]} in row {place}: a score is finite")
    return Candidates(columns, len(rows), scores, lambda places: [rows[place] for place in places.tolist()])
