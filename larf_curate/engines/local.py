"""Files on one machine: score one into another, split a scored one by a threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..deciding.excerpts import excerpt_format
from ..deciding.layout import OUTCOMES, SUMMARY
from ..deciding.quantiles import SUMMARY_LEVELS, named_quantiles
from ..deciding.splitting import scored_schema, split_table
from ..deciding.summary import OutcomeCounts, Summary, Tally
from ..deciding.thresholds import Threshold
from ..errors import DataError
from ..progress import progress, say
from ..rows.notices import reading_note
from ..scoring.columns import ISSUE, SCORE, larf_dtypes, scores_of
from ..scoring.scorer import LARFScorer
from ..sources.json_values import rows_of, text_columns
from ..sources.tables import ROWS_AT_ONCE, Source
from ..sources.writing import TableWriter, write_directory, write_file


def score_file(source: Source, scorer: LARFScorer, out: str | Path) -> Summary:
    """Write `source` with its larf columns to `out` (`.parquet` or `.jsonl`); larf columns it already has are replaced.

    Raises:
        RowFormatError, ModelError, DataError, OutputError: `out` is then as it was before.
    """
    form = scorer.row_format(source.schema.names)
    if note := reading_note(form, source.schema.names, text_columns(source.schema)):
        say(note)
    schema = scored_schema(source.schema, scorer.spec)
    kept = [name for name in schema.names if name not in larf_dtypes(scorer.layers)]
    columns = form.columns(kept)
    tally = Tally()
    chunks: list[NDArray[np.float32]] = []
    execution = ""
    with write_file(Path(out), schema) as writer, progress(source.rows, "scoring") as update:
        for table in source.tables(ROWS_AT_ONCE):
            rows = rows_of(table, columns)
            scores = scorer.annotate(rows, kept, progress=update)
            new = [table[name] for name in kept] + list(scores.arrow().values())
            writer.write(pa.table(new, schema=schema))
            tally.add(rows, form, scores.score, scores.issues)
            chunks.append(scores.score)
            execution = scores.execution or execution
    return tally.summary(quantiles=named_quantiles(lambda: chunks, SUMMARY_LEVELS), execution=execution)


def split_file(
    source: Source,
    threshold: Threshold,
    out: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - the word users know
) -> Summary:
    """Split scored rows into `kept/`, `removed/` and `unscorable/` under the directory `out`.

    Every row of `source` ends in exactly one of them, with all its columns; a summary lies beside them.

    Args:
        source: rows with the column `larf_score`.
        threshold: any rule; it is fitted here, on all the scores, and says where rows without one go.
        out: a directory that does not exist, is empty, or holds an earlier result, which is replaced.
        format: how to read the texts of the highest rows for the summary.

    Raises:
        DataError: there is no score column. OutputError: `out` cannot be written. ThresholdError: see `Threshold`.
    """
    fitted = threshold.fit_chunks(score_chunks(source))
    form = excerpt_format(format, source.schema.names)
    columns = [*(form.columns(source.schema.names) if form else source.schema.names), SCORE, ISSUE]
    tally = Tally()
    counts = dict.fromkeys(OUTCOMES, 0)
    with write_directory(Path(out), SUMMARY) as home:
        writers: dict[str, TableWriter] = {}
        for outcome in OUTCOMES:
            (home / outcome).mkdir()
            writers[outcome] = TableWriter(home / outcome / "data.parquet", source.schema)
        try:
            for table in source.tables(ROWS_AT_ONCE):
                for outcome, part in split_table(table, fitted, tally.rows).items():
                    writers[outcome].write(part)
                    counts[outcome] += len(part)
                rows = rows_of(table, columns)
                tally.add(rows, form, scores_of(table), [row.get(ISSUE) for row in rows])
        finally:
            for writer in writers.values():
                writer.close()
        if sum(counts.values()) != source.rows:
            raise DataError(
                f"{source.name} changed while it was read: {source.rows} rows before, {sum(counts.values())} now"
            )
        summary = tally.summary(
            quantiles=named_quantiles(score_chunks(source), SUMMARY_LEVELS),
            outcomes=OutcomeCounts(**counts),
            threshold=fitted,
        )
        (home / SUMMARY).write_text(summary.to_json() + "\n", encoding="utf-8")
    return summary


def read_scores(source: Source) -> NDArray[np.float64]:
    """The column `larf_score` of a scored dataset, NaN where null: float64 [rows].

    Raises:
        DataError: there is no such column.
    """
    return np.concatenate([np.zeros(0), *score_chunks(source)()])


def score_chunks(source: Source) -> Callable[[], Iterator[NDArray[np.float64]]]:
    """The same a piece at a time, as often as it is called.

    Raises:
        DataError: there is no such column.
    """
    if SCORE not in source.schema.names:
        raise DataError(
            f"{source.name} has no column {SCORE!r}: score it first (larf-curate score). "
            f"It has: {', '.join(source.schema.names)}"
        )
    return lambda: map(scores_of, source.tables(ROWS_AT_ONCE))
