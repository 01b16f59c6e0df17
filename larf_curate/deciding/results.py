"""The results in the directory of a run, read as streams: whoever needs the rows of a run reads them here."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..errors import DataError, LarfError, RowFormatError, ThresholdError
from ..json_fields import read_limited
from ..rows.conversions import Row
from ..rows.formats import RowFormat, resolve_format
from ..rows.reading import Reading, parse_columns
from ..rows.score_columns import ColumnNames
from ..scoring.artifact import read_spec
from ..scoring.columns import scores_of
from ..scoring.spec import ScorerSpec
from ..sources.json_values import rows_of
from ..written import links_below
from .layout import OUTCOMES, RECIPE, SOURCE_ROWS, SUMMARY, split_of
from .ranking import Chunks
from .source_rows import SourceRow, source_row
from .splitting import described_scorer
from .summary import OutcomeCounts, Summary
from .thresholds import Threshold

_ROWS_AT_ONCE = 1024  # of texts; a row may be a megabyte
_SCORES_AT_ONCE = 1 << 17
_LONGEST_SUMMARY = 16 << 20

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Results:
    """What `larf-curate run` or `larf-curate filter` has written.

    Attributes:
        home: the directory.
        summary: what `larf_summary.json` holds.
        rows: how many there are by outcome.
        threshold: the fitted one.
        digest: see `run_digest`.
        fitted_scorer: what the fitted scorer beside the rows says of itself; None if there is none.
        scorer: the same, or else what the Parquet files say of it (without its chat template and packages, and without
            the directory of its model); None if neither says which it was.
        files: Parquet files by outcome, in the order of their rows.
        schema: the schema that all the files have.
        recipe: the resolved recipe's text; None for `filter`.
    """

    home: Path
    summary: Summary
    rows: OutcomeCounts
    threshold: Threshold
    digest: str
    fitted_scorer: ScorerSpec | None
    scorer: ScorerSpec | None
    files: Mapping[str, tuple[Path, ...]]
    schema: pa.Schema
    recipe: str | None

    @classmethod
    def open(cls, directory: str | Path) -> Results:
        """Read the summary and the files' footers, but no rows.

        Raises:
            DataError: there is no finished run, or its files do not hold the rows that its summary counts.
        """
        home = Path(directory)
        for link in links_below(home, (SUMMARY, RECIPE, SOURCE_ROWS, *OUTCOMES)):
            raise DataError(f"{home / link} is a link or no plain file: a result of larf-curate has none")
        text = _summary_text(home)
        summary = Summary.from_json(text)
        rows, threshold = summary.outcomes, summary.threshold
        if rows is None or threshold is None:
            raise DataError(f"{home} holds rows that were scored but not split: split them with `larf-curate filter`")
        files: dict[str, tuple[Path, ...]] = {}
        schema: pa.Schema | None = None
        for outcome, expected in asdict(rows).items():
            files[outcome] = tuple(sorted((home / outcome).rglob("*.parquet")))
            there = 0
            for path in files[outcome]:
                with _reading(path), pq.ParquetFile(path) as file:
                    there += file.metadata.num_rows
                    schema = schema or file.schema_arrow
            if there != expected:
                raise DataError(
                    f"{home / outcome} holds {there} rows and {SUMMARY} says {expected}: the files were changed after "
                    "the run; run it again"
                )
        if schema is None or ColumnNames(summary.prefix).score not in schema.names:
            raise DataError(f"{home} holds no scored rows")
        fitted_scorer, recipe = _fitted_scorer(home, summary), home / RECIPE
        return cls(
            home=home,
            summary=summary,
            rows=rows,
            threshold=threshold,
            digest=run_digest(text),
            fitted_scorer=fitted_scorer,
            scorer=fitted_scorer or described_scorer(schema, str(home), summary.prefix),
            files=files,
            schema=schema,
            recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        )

    @property
    def names(self) -> ColumnNames:
        """Of the columns of the score by which the rows were split."""
        return ColumnNames(self.summary.prefix)

    @property
    def format(self) -> str:
        """How the run, or the filter, was told to read its rows, as text; see `Reading`.

        Raises:
            RowFormatError: what the filter was told of columns is no such thing: the file was changed.
        """
        if self.summary.run is not None:
            return self.summary.run.format
        filtered = self.summary.filtered
        return "auto" if filtered is None else Reading(filtered.format, parse_columns(filtered.columns)).to_text()

    @cached_property
    def row_format(self) -> RowFormat | None:
        """How rows become conversations; None if no format fits their columns."""
        try:
            return resolve_format(self.format, self.schema.names)
        except RowFormatError:
            return None

    def files_by_split(self, outcome: str) -> dict[str, list[Path]]:
        """The files of an outcome by split, in their order; `train` holds all where splits were not kept apart."""
        files: dict[str, list[Path]] = {}
        for path in self.files[outcome]:
            files.setdefault(split_of(path.relative_to(self.home / outcome).as_posix()), []).append(path)
        # Beside files of splits, one without a split is empty: it is there for its columns.
        return {"train": files[""]} if list(files) == [""] else {split: files[split] for split in files if split}

    def tables(
        self, outcome: str, columns: Sequence[str] | None = None, rows: int = _SCORES_AT_ONCE
    ) -> Iterator[pa.Table]:
        """All rows of an outcome in their order, at most `rows` at a time, with some columns or all."""
        for path in self.files[outcome]:
            with _reading(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=columns and list(columns)):
                    yield pa.Table.from_batches([batch])

    def values(self, column: str, outcomes: Iterable[str] = OUTCOMES) -> Chunks:
        """One column of numbers as float64, NaN for null: a function that reads it anew at each call, in pieces."""
        chosen = tuple(outcomes)

        def chunks() -> Iterator[NDArray[np.float64]]:
            for outcome in chosen:
                first_row = 0
                for table in self.tables(outcome, [column]):
                    try:
                        yield scores_of(table, column, first_row)
                    except ThresholdError as error:
                        raise DataError(f"{self.home / outcome}: {error}") from error
                    first_row += len(table)

        return chunks

    def at(self, outcome: str, places: Ints, columns: Sequence[str]) -> Iterator[tuple[Ints, Sequence[Row]]]:
        """Read the rows at some places of an outcome, a few at a time.

        Args:
            outcome: the outcome whose files are read.
            places: [n], ascending: numbers of rows in these files, from 0.
            columns: the columns to read.

        Yields:
            Some of the places, and the rows at them.
        """
        return _rows_at(self.files[outcome], places, columns)

    def source_rows(self, outcome: str, places: Ints) -> list[SourceRow]:
        """Where in the source the rows at some places of an outcome were; for arguments see `at`.

        Raises:
            DataError: the files that say so are not there, or not whole.
        """
        files = [self.home / SOURCE_ROWS / path.relative_to(self.home) for path in self.files[outcome]]
        source_rows = [source_row(dict(row)) for _, rows in _rows_at(files, places) for row in rows]
        if len(source_rows) != len(places):
            raise DataError(f"{self.home / SOURCE_ROWS} does not say where all rows were: run the recipe again")
        return source_rows


def _rows_at(
    files: Iterable[Path], places: Ints, columns: Sequence[str] | None = None
) -> Iterator[tuple[Ints, Sequence[Row]]]:
    """See `Results.at`; the files hold the rows one after the other. By default all columns are read."""
    first = 0
    for path in files:
        with _reading(path), pq.ParquetFile(path) as file:
            names = file.schema_arrow.names if columns is None else list(columns)
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(places, [first, stop])
                if low < high:
                    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names):
                        low, high = np.searchsorted(places, [first, first + len(batch)])
                        if low < high:
                            wanted = pa.table(batch).take(pa.array(places[low:high] - first))
                            yield places[low:high], rows_of(wanted, names)
                        first += len(batch)
                first = stop


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}): run the recipe again") from error


def run_digest(summary: str | bytes) -> str:
    """A digest of a run's summary, which tells the results of one run from the results of another."""
    return hashlib.sha256(summary if isinstance(summary, bytes) else summary.encode()).hexdigest()


def _summary_text(home: Path) -> str:
    path = home / SUMMARY
    try:
        return read_limited(path, _LONGEST_SUMMARY).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{home} holds no finished run ({SUMMARY} is not there): give the directory that `larf-curate run` or "
            "`larf-curate filter` has written"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _fitted_scorer(home: Path, summary: Summary) -> ScorerSpec | None:
    if summary.run is not None:
        with contextlib.suppress(LarfError):
            return read_spec(home / summary.run.scorer.directory)
    return None
