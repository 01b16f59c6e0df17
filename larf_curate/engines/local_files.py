"""Files in one process: score one into another, split a scored one by a threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..deciding.filtering import FilterRecord
from ..deciding.layout import SUMMARY, part_name
from ..deciding.quantiles import named_quantiles
from ..deciding.splitting import described_scorer, scored_schema, split_tables, weighted_schema
from ..deciding.summary import Summary
from ..deciding.tally import Tally
from ..deciding.thresholds import Threshold
from ..errors import DataError, OutputError
from ..progress import progress, say
from ..rows.notices import reading_note
from ..rows.score_columns import PREFIX, ColumnNames, score_columns
from ..scoring.columns import scores_of
from ..scoring.quantile_levels import SUMMARY_LEVELS
from ..scoring.scorer import LARFScorer
from ..scoring.weights import WeightRange
from ..sources.files import open_source
from ..sources.json_values import rows_of, text_columns
from ..sources.tables import ROWS_AT_ONCE, Source, by_split, require_splits
from ..sources.writing import TableWriter, refuse_own_source, write_directory, write_file
from ..written import refuse_other
from .outcome_files import OutcomeFiles


def score_file(source: Source, scorer: LARFScorer, out: str | Path) -> Summary:
    """Write the rows of `source` with their scores to `out`.

    Args:
        source: columns of the scorer's prefix that it already has are replaced.
        scorer: a fitted scorer.
        out: a `.parquet` or `.jsonl` file; a directory where the source keeps splits apart, which it has then too.

    Returns:
        Counts, quantiles of the scores, and the highest rows.

    Raises:
        RowFormatError: the source's columns fit no format, or one that would be replaced is the user's own.
        ModelError: the scorer's model cannot be loaded or used.
        DataError: the source cannot be read.
        OutputError: `out` cannot be written, or is a file that holds no scored rows. Whatever is raised, `out` is left
            as it was before.
    """
    refuse_own_source(source, Path(out))
    if not source.splits:
        refuse_other(Path(out), _holds_scores)
    row_format = scorer.row_format(source.schema.names)
    if note := reading_note(row_format, source.schema.names, text_columns(source.schema)):
        say(note)
    schema, names = scored_schema(source.schema, scorer.spec, scorer.prefix), scorer.kinds.names
    kept = [name for name in schema.names if name not in names]
    columns_read = row_format.columns(kept)
    tally = Tally(source.parts)
    chunks: list[NDArray[np.float32]] = []
    execution = ""
    with _scored_output(source, Path(out), schema) as write, progress(source.rows, "scoring") as update:
        for first_row, table in _with_first_rows(source.tables(ROWS_AT_ONCE)):
            rows = rows_of(table, columns_read)
            scores = scorer.annotate(rows, kept, progress=update)
            columns_out = [table[name] for name in kept] + list(scores.arrow().values())
            write(pa.table(columns_out, schema=schema), first_row)
            tally.add(rows, row_format, scores.score, scores.issues)
            chunks.append(scores.score)
            execution = scores.execution or execution
    summary = tally.summary(
        quantiles=named_quantiles(lambda: chunks, SUMMARY_LEVELS),
        execution=execution,
        references=scorer.spec.quantiles,
    )
    return replace(summary, prefix=scorer.prefix)


def _holds_scores(path: Path) -> bool:
    """Whether a file holds scored rows, which may be replaced; a file that cannot be read holds something else."""
    try:
        return bool(score_columns(open_source(str(path)).schema.names))
    except DataError:
        return False


@contextmanager
def _scored_output(source: Source, out: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table, int], None]]:
    """A function that takes scored rows and the number of the first of them.

    It writes one file, or a directory with files of each split where the source keeps splits apart.

    Raises:
        OutputError: `out` cannot be written.
    """
    if not source.splits:
        with write_file(out, schema) as file:
            yield lambda table, _: file.write(table)
        return
    if out.suffix in (".parquet", ".jsonl", ".csv") or str(out) == "-":
        raise OutputError(f"{out.name} is one file, and --split all keeps splits apart: give the name of a directory")
    with write_directory(out) as home, ExitStack() as stack:
        writers: dict[str, TableWriter] = {}
        for split, _ in source.splits:
            path = home / part_name(split)
            path.parent.mkdir(exist_ok=True)
            writers[split] = stack.enter_context(closing(TableWriter(path, schema)))

        def write(table: pa.Table, first_row: int) -> None:
            for split, _, rows in by_split(table, first_row, source.splits):
                writers[split].write(rows)

        yield write
        stack.close()  # files are whole once they are closed


def split_file(
    source: Source,
    threshold: Threshold,
    out: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the word users know
    weight: WeightRange | None = None,
    per_split: bool = False,
    record: FilterRecord | None = None,
    prefix: str = PREFIX,
) -> Summary:
    """Split scored rows into `kept/`, `removed/` and `unscorable/` in the directory `out`, with a summary beside them.

    Every row of `source` goes to exactly one of the three, with all its columns.

    Args:
        source: rows with scores.
        threshold: any rule, fitted or not; it is fitted here on all the scores. It also says where rows without a
            score go.
        out: a directory that does not exist, is empty, or holds an earlier result and nothing else, which is replaced.
        format: how to read the texts of the highest rows for the summary.
        weight: the scores between which training weights fall: rows get the column `larf_weight`, with this prefix.
        per_split: fit the threshold to each split by itself; see `require_splits`.
        record: what was asked for, kept in the summary.
        prefix: of the columns of the score that decides.

    Raises:
        DataError: there is no score column, the source changed while it was read, or it keeps no splits apart and
            `per_split` asks for them.
        OutputError: `out` cannot be written, holds files of somebody else, or holds the source.
        ThresholdError: see `Threshold`.
    """
    refuse_own_source(source, Path(out))
    names = ColumnNames(prefix)
    chunks = score_chunks(source, names)
    fitted = threshold.fit_splits(chunks, require_splits(source)) if per_split else threshold.fit_chunks(chunks)
    schema, parts = weighted_schema(source.schema, weight, names), source.parts

    def file_name(split: str) -> str:
        return part_name(split) if split else "data.parquet"

    with write_directory(Path(out)) as home:
        with OutcomeFiles(home, schema, parts, file_name) as files:
            tables = _with_first_rows(source.tables(ROWS_AT_ONCE))
            summary = split_tables(tables, fitted, files.write, format, source.splits, weight, parts, names)
            for outcome, count in vars(summary.outcomes).items():
                if not count:
                    files.write_empty(outcome)
        if summary.rows != source.rows:
            raise DataError(f"{source.name} changed while it was read: {source.rows} rows before, {summary.rows} now")
        quantiles = named_quantiles(chunks, SUMMARY_LEVELS)
        scorer = described_scorer(source.schema, source.name, prefix)
        references = scorer.quantiles if scorer else None
        found = replace(summary, threshold=fitted, quantiles=quantiles, references=references)
        summary = replace(found, filtered=record, prefix=prefix)
        (home / SUMMARY).write_text(summary.to_json() + "\n", encoding="utf-8")
    return summary


def _with_first_rows(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Consecutive tables of one dataset, each with the number of its first row."""
    first_row = 0
    for table in tables:
        yield first_row, table
        first_row += len(table)


def read_scores(source: Source, prefix: str = PREFIX) -> NDArray[np.float64]:
    """The scores of a scored dataset, in the column of this prefix, NaN where null: float64 [rows].

    Raises:
        DataError: there is no such column.
    """
    return np.concatenate([np.zeros(0), *score_chunks(source, ColumnNames(prefix))()])


def score_chunks(source: Source, names: ColumnNames) -> Callable[[], Iterator[NDArray[np.float64]]]:
    """A function that reads the same scores again at each call, a table at a time.

    Raises:
        DataError: there is no such column.
    """
    if names.score not in source.schema.names:
        option = f" --prefix {names.prefix}" if names.prefix != PREFIX else ""
        raise DataError(
            f"{source.name} has no column {names.score!r}: score it first (larf-curate score{option}). "
            f"It has: {', '.join(source.schema.names)}"
        )

    def chunks() -> Iterator[NDArray[np.float64]]:
        for first_row, table in _with_first_rows(source.tables(ROWS_AT_ONCE)):
            yield scores_of(table, names.score, first_row)

    return chunks
