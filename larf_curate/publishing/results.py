"""The results that a run left in its directory, read as streams."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..deciding.layout import METADATA_KEY, OUTCOMES, RECIPE, SUMMARY
from ..deciding.ranking import Chunks
from ..errors import DataError, RowFormatError
from ..rows.formats import RowFormat, resolve_format
from ..scoring.artifact import CONFIG
from ..scoring.columns import SCORE
from ..sources.json_values import rows_of

_ROWS_AT_ONCE = 1024  # of texts; a row may be a megabyte
_SCORES_AT_ONCE = 1 << 17

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Results:
    """What `larf-curate run` or `larf-curate filter` has written.

    Attributes:
        home: the directory.
        summary: what `larf_summary.json` holds.
        scorer: what the fitted scorer's JSON holds, or what the Parquet files say of it; None where nobody knows.
        files: Parquet files by outcome, in the order of their rows.
        rows: how many there are by outcome.
        schema: of all the files.
        recipe: the resolved recipe's text; None for `filter`.
        form: how rows become conversations; None where no format fits their columns.
    """

    home: Path
    summary: Mapping[str, Any]
    scorer: Mapping[str, Any] | None
    files: Mapping[str, tuple[Path, ...]]
    rows: Mapping[str, int]
    schema: pa.Schema
    recipe: str | None
    form: RowFormat | None

    @classmethod
    def open(cls, directory: str | Path) -> Results:
        """Look at what is there; reads no rows.

        Raises:
            DataError: no finished run lies there, or its files are not those that its summary tells of.
        """
        home = Path(directory)
        summary = _summary(home)
        files: dict[str, tuple[Path, ...]] = {}
        rows: dict[str, int] = {}
        schema: pa.Schema | None = None
        for outcome in OUTCOMES:
            files[outcome] = tuple(sorted((home / outcome).glob("*.parquet")))
            rows[outcome] = 0
            for path in files[outcome]:
                try:
                    with pq.ParquetFile(path) as file:
                        rows[outcome] += file.metadata.num_rows
                        schema = schema or file.schema_arrow
                except (OSError, pa.ArrowException) as error:
                    raise DataError(f"{path} cannot be read ({error}): run the recipe again") from error
            if rows[outcome] != summary.get(outcome):
                raise DataError(
                    f"{home / outcome} holds {rows[outcome]} rows and {SUMMARY} says {summary.get(outcome)}: the "
                    "files were changed after the run; run it again"
                )
        if schema is None or SCORE not in schema.names:
            raise DataError(f"{home} holds no scored rows")
        recipe = home / RECIPE
        return cls(
            home=home,
            summary=summary,
            scorer=_scorer(home, summary, schema),
            files=files,
            rows=rows,
            schema=schema,
            recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
            form=_form(summary, schema.names),
        )

    def tables(self, outcome: str, columns: Sequence[str], rows: int = _SCORES_AT_ONCE) -> Iterator[pa.Table]:
        """All rows of an outcome in their order, at most `rows` at a time."""
        for path in self.files[outcome]:
            with _reading(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield pa.Table.from_batches([batch])

    def values(self, column: str, outcomes: Iterable[str] = OUTCOMES) -> Chunks:
        """One column of numbers, as often as it is asked for; NaN where null."""
        chosen = tuple(outcomes)

        def chunks() -> Iterator[NDArray[np.float64]]:
            for outcome in chosen:
                for table in self.tables(outcome, [column]):
                    yield table[column].cast(pa.float64()).to_numpy()

        return chunks

    def at(self, outcome: str, places: Ints, columns: Sequence[str]) -> Iterator[tuple[Ints, list[dict[str, Any]]]]:
        """The rows at some places (ascending) of an outcome, a few at a time: the places, and the rows there."""
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
    """A file that breaks half-way is told by its name."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}): run the recipe again") from error


def _summary(home: Path) -> dict[str, Any]:
    path = home / SUMMARY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(name in found for name in ("rows", "threshold", *OUTCOMES)):
            raise ValueError("it tells of no finished run")
    except FileNotFoundError:
        raise DataError(
            f"{home} holds no finished run ({SUMMARY} is not there): give the directory that `larf-curate run` or "
            "`larf-curate filter` has written"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return found


def _scorer(home: Path, summary: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any] | None:
    """The artifact beside the rows says most; the files themselves say what any copy of them needs."""
    directory = summary.get("run", {}).get("scorer", {}).get("directory")
    texts = [(home / directory / CONFIG).read_bytes()] if directory and (home / directory / CONFIG).is_file() else []
    texts += [text for text in [(schema.metadata or {}).get(METADATA_KEY)] if text]
    for text in texts:
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict) and "model" in found:
            return found
    return None


def _form(summary: Mapping[str, Any], columns: list[str]) -> RowFormat | None:
    try:
        return resolve_format(summary.get("run", {}).get("format") or "auto", columns)
    except RowFormatError:
        return None
