"""Files on one machine: score one into another, split a scored one by a threshold."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import DataError, RowFormatError, ThresholdError, Unscorable
from ..progress import progress
from ..rows.formats import RowFormat, resolve_format
from ..scoring.artifact import ScorerSpec
from ..scoring.columns import ISSUE, SCORE, larf_dtypes, larf_schema
from ..scoring.scorer import LARFScorer
from ..scoring.thresholds import Threshold
from .tables import ROWS_AT_ONCE, Source, rows_of
from .writing import TableWriter, write_directory, write_file

METADATA_KEY = b"larf_curate"
SUMMARY = "larf_summary.json"
Unscored = Literal["separate", "keep", "remove"]
OUTCOMES = ("kept", "removed", "unscorable")
_HIGHEST = 10


@dataclass(frozen=True)
class Excerpt:
    """One row among the highest: its score, its place in the source from 0, and its texts."""

    score: float
    row: int
    prompt: str
    answer: str


@dataclass
class Summary:
    """What came of a pass over a dataset."""

    rows: int = 0
    issues: Counter[str] = field(default_factory=Counter)
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    highest: list[Excerpt] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    threshold: Threshold | None = None

    @property
    def scored(self) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.scores[~np.isnan(self.scores)]
        return found

    @property
    def quantiles(self) -> dict[str, float]:
        """Of the scores, by their name; empty where no row has one."""
        points = {"lowest": 0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "highest": 1}
        return {name: float(np.quantile(self.scored, at)) for name, at in points.items()} if len(self.scored) else {}

    def to_json(self) -> str:
        return json.dumps(
            {
                "rows": self.rows,
                **self.outcomes,
                "issues": dict(sorted(self.issues.items())),
                "score_quantiles": self.quantiles,
                "threshold": json.loads(self.threshold.to_json()) if self.threshold else None,
            },
            indent=2,
        )


def score_file(source: Source, scorer: LARFScorer, out: str | Path) -> Summary:
    """Write `source` with its larf columns to `out` (`.parquet` or `.jsonl`); larf columns it already has are replaced.

    Raises:
        RowFormatError, ModelError, DataError, OutputError: `out` is then as it was before.
    """
    form = resolve_format(scorer.format, source.schema.names)
    added = larf_schema(scorer.layers)
    kept = [name for name in source.schema.names if name not in added]
    schema = pa.schema([source.schema.field(name) for name in kept] + [pa.field(*column) for column in added.items()])
    schema = schema.with_metadata(_metadata(source.schema, scorer.spec))
    columns = form.columns(kept)
    seen = _Seen()
    with write_file(Path(out), schema) as writer, progress(source.rows, "scoring") as update:
        for table in source.tables(ROWS_AT_ONCE):
            rows = rows_of(table, columns)
            scores = scorer.annotate(rows, kept, progress=update)
            new = [table[name] for name in kept] + list(scores.arrow().values())
            writer.write(pa.table(new, schema=schema))
            seen.add(rows, form, scores.score, [issue.value if issue else None for issue in scores.issues])
    return seen.summary()


def split_file(
    source: Source,
    threshold: Threshold,
    out: str | Path,
    *,
    unscorable: Unscored = "separate",
    format: str = "auto",  # noqa: A002 - the word users know
) -> Summary:
    """Split scored rows into `kept/`, `removed/` and `unscorable/` under the directory `out`.

    Every row of `source` ends in exactly one of them, with all its columns; a summary lies beside them.

    Args:
        source: rows with the column `larf_score`.
        threshold: any rule; it is fitted here, on all the scores.
        out: a directory that does not exist, is empty, or holds an earlier result, which is replaced.
        unscorable: where rows without a score go: their own part, or `kept/`, or `removed/`.
        format: how to read the texts of the highest rows for the summary.

    Raises:
        DataError: there is no score column. OutputError: `out` cannot be written. ThresholdError: see `Threshold`.
    """
    fitted = threshold.fit(read_scores(source))
    assert fitted.value is not None
    missing = {"separate": "unscorable", "keep": "kept", "remove": "removed"}[unscorable]
    form = _text_format(format, source.schema.names)
    columns = [*(form.columns(source.schema.names) if form else source.schema.names), SCORE, ISSUE]
    seen = _Seen()
    counts = dict.fromkeys(OUTCOMES, 0)
    with write_directory(Path(out), SUMMARY) as home:
        writers: dict[str, TableWriter] = {}
        for outcome in OUTCOMES:
            (home / outcome).mkdir()
            writers[outcome] = TableWriter(home / outcome / "data.parquet", source.schema)
        try:
            for table in source.tables(ROWS_AT_ONCE):
                values = _score_array(table)
                unscored = np.isnan(values)
                removed = ~unscored & (values > fitted.value)
                parts = dict(zip(OUTCOMES, (~unscored & ~removed, removed, np.zeros_like(unscored)), strict=True))
                parts[missing] = parts[missing] | unscored
                for outcome, mask in parts.items():
                    writers[outcome].write(table.filter(pa.array(mask)).cast(source.schema))
                    counts[outcome] += int(mask.sum())
                rows = rows_of(table, columns)
                seen.add(rows, form, values.astype(np.float32), [row.get(ISSUE) for row in rows])
        finally:
            for writer in writers.values():
                writer.close()
        summary = seen.summary()
        summary.outcomes, summary.threshold = counts, fitted
        if sum(counts.values()) != source.rows:
            raise DataError(
                f"{source.name} changed while it was read: {source.rows} rows before, {sum(counts.values())} now"
            )
        (home / SUMMARY).write_text(summary.to_json() + "\n", encoding="utf-8")
    return summary


def read_scores(source: Source) -> NDArray[np.float64]:
    """The column `larf_score` of a scored dataset, NaN where null: float64 [rows].

    Raises:
        DataError: there is no such column.
    """
    if SCORE not in source.schema.names:
        raise DataError(
            f"{source.name} has no column {SCORE!r}: score it first (larf-curate score). "
            f"It has: {', '.join(source.schema.names)}"
        )
    return np.concatenate([np.zeros(0), *(_score_array(table) for table in source.tables(ROWS_AT_ONCE))])


def _score_array(table: pa.Table) -> NDArray[np.float64]:
    try:
        column = table[SCORE].cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ThresholdError(f"the column {SCORE!r} holds {table[SCORE].type}, not numbers") from None
    values: NDArray[np.float64] = column.to_numpy()
    return values


def _metadata(schema: pa.Schema, spec: ScorerSpec) -> dict[bytes, bytes]:
    """The source's own, with the larf columns among its feature types; and which scorer it was."""
    kept = {key: value for key, value in (schema.metadata or {}).items() if key not in (b"huggingface", b"pandas")}
    if b"huggingface" in (schema.metadata or {}):
        features = json.loads(schema.metadata[b"huggingface"])
        for name, dtype in larf_dtypes(spec.layers).items():
            features["info"]["features"].pop(name, None)
            features["info"]["features"][name] = {"dtype": dtype, "_type": "Value"}
        kept[b"huggingface"] = json.dumps(features).encode()
    told = {key: value for key, value in asdict(spec).items() if key not in ("chat_template", "packages")}
    return {**kept, METADATA_KEY: json.dumps(told, sort_keys=True).encode()}


class _Seen:
    """Gathers a summary while rows stream by; keeps a number a row, and the texts of the highest few."""

    def __init__(self) -> None:
        self._scores: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]
        self._issues: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Excerpt]] = []
        self._rows = 0

    def add(
        self, rows: list[dict[str, Any]], form: RowFormat | None, scores: NDArray[np.float32], issues: list[str | None]
    ) -> None:
        self._scores.append(scores)
        self._issues.update(issue for issue in issues if issue)
        for place in np.argsort(-scores, kind="stable")[:_HIGHEST]:
            score, number = float(scores[place]), self._rows + int(place)
            if np.isnan(score) or (len(self._heap) == _HIGHEST and score <= self._heap[0][0]):
                continue
            prompt, answer = _texts(rows[place], form)
            entry = (score, -number, Excerpt(score, number, prompt, answer))
            heapq.heappushpop(self._heap, entry) if len(self._heap) == _HIGHEST else heapq.heappush(self._heap, entry)
        self._rows += len(rows)

    def summary(self) -> Summary:
        highest = [excerpt for _, _, excerpt in sorted(self._heap, reverse=True)]
        return Summary(self._rows, self._issues, np.concatenate(self._scores), highest)


def _text_format(format: str, columns: list[str]) -> RowFormat | None:  # noqa: A002
    """The format to read texts for the summary by; rows that a user's own function scored fit none, and need none."""
    try:
        return resolve_format(format, columns)
    except RowFormatError:
        if format != "auto":
            raise
        return None


def _texts(row: dict[str, Any], form: RowFormat | None) -> tuple[str, str]:
    try:
        conversation = form.convert(row) if form else None
    except Unscorable:
        conversation = None
    if conversation is None:
        return "", str({name: value for name, value in row.items() if not name.startswith("larf_")})
    return conversation.prompt, conversation.answer
