"""The results in the directory of a run, read as streams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..deciding.layout import OUTCOMES, RECIPE, SUMMARY, split_of
from ..deciding.ranking import Chunks
from ..deciding.splitting import described_scorer
from ..deciding.summary import OutcomeCounts, Summary
from ..deciding.thresholds import Threshold
from ..errors import DataError, LarfError, RowFormatError, ThresholdError
from ..json_fields import read_limited
from ..rows.conversions import Row
from ..rows.formats import RowFormat, resolve_format
from ..scoring.artifact import read_spec
from ..scoring.columns import SCORE, scores_of
from ..scoring.spec import ScorerSpec
from ..sources.json_values import rows_of
from ..written import links_below

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
        scorer: of the fitted scorer that lies beside the rows, or what the Parquet files say of it (without its chat
            template and packages); None if neither says which it was.
        files: Parquet files by outcome, in the order of their rows.
        schema: of all the files.
        recipe: the resolved recipe's text; None for `filter`.
        row_format: how rows become conversations; None if no format fits their columns.
    """

    home: Path
    summary: Summary
    rows: OutcomeCounts
    threshold: Threshold
    scorer: ScorerSpec | None
    files: Mapping[str, tuple[Path, ...]]
    schema: pa.Schema
    recipe: str | None
    row_format: RowFormat | None

    @classmethod
    def open(cls, directory: str | Path) -> Results:
        """Read the summary and the files' footers, but no rows.

        Raises:
            DataError: there is no finished run, or its files do not hold the rows that its summary counts.
        """
        home = Path(directory)
        for link in links_below(home, (SUMMARY, RECIPE, *OUTCOMES)):
            raise DataError(f"{home / link} is a link or no plain file: a result of larf-curate has none")
        summary = _summary(home)
        rows, threshold = summary.outcomes, summary.threshold
        if rows is None or threshold is None:
            raise DataError(f"{home} holds rows that were scored but not split: there is nothing to report yet")
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
        if schema is None or SCORE not in schema.names:
            raise DataError(f"{home} holds no scored rows")
        recipe = home / RECIPE
        return cls(
            home=home,
            summary=summary,
            rows=rows,
            threshold=threshold,
            scorer=_scorer(home, summary, schema),
            files=files,
            schema=schema,
            recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
            row_format=_row_format(summary, schema.names),
        )

    def files_by_split(self, outcome: str) -> dict[str, list[Path]]:
        """The files of an outcome by split, in their order; `train` holds all where splits were not kept apart."""
        found: dict[str, list[Path]] = {}
        for path in self.files[outcome]:
            found.setdefault(split_of(path.relative_to(self.home / outcome).as_posix()), []).append(path)
        # Beside files of splits, one without a split is empty: it is there for its columns.
        return {"train": found[""]} if list(found) == [""] else {split: found[split] for split in found if split}

    def tables(self, outcome: str, columns: Sequence[str], rows: int = _SCORES_AT_ONCE) -> Iterator[pa.Table]:
        """All rows of an outcome in their order, at most `rows` at a time."""
        for path in self.files[outcome]:
            with _reading(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=list(columns)):
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
            outcome: whose files to read.
            places: [n], ascending: numbers of rows in these files, from 0.
            columns: to read.

        Yields:
            Some of the places, and the rows at them.
        """
        first = 0
        for path in self.files[outcome]:
            with _reading(path), pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    stop = first + file.metadata.row_group(group).num_rows
                    low, high = np.searchsorted(places, [first, stop])
                    if low < high:
                        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=list(columns)):
                            low, high = np.searchsorted(places, [first, first + len(batch)])
                            if low < high:
                                wanted = pa.table(batch).take(pa.array(places[low:high] - first))
                                yield places[low:high], rows_of(wanted, columns)
                            first += len(batch)
                    first = stop


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the file that cannot be read."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}): run the recipe again") from error


def _summary(home: Path) -> Summary:
    path = home / SUMMARY
    try:
        return Summary.from_json(read_limited(path, _LONGEST_SUMMARY).decode("utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{home} holds no finished run ({SUMMARY} is not there): give the directory that `larf-curate run` or "
            "`larf-curate filter` has written"
        ) from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _scorer(home: Path, summary: Summary, schema: pa.Schema) -> ScorerSpec | None:
    """The artifact beside the rows says most; the files themselves say what any copy of them needs."""
    if summary.run is not None:
        with contextlib.suppress(LarfError):
            return read_spec(home / summary.run.scorer.directory)
    return described_scorer(schema, str(home))


def _row_format(summary: Summary, columns: Sequence[str]) -> RowFormat | None:
    try:
        return resolve_format(summary.run.format if summary.run else "auto", columns)
    except RowFormatError:
        return None
