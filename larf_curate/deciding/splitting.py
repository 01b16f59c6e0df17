"""Scored rows as Arrow tables: the source's columns as they are, and those of the score after them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ..errors import LarfError
from ..json_fields import parse_json
from ..rows.score_columns import PREFIX, ColumnNames
from ..scoring.columns import ScoreColumns, scores_of
from ..scoring.excerpts import excerpt_format
from ..scoring.public_names import public_spec
from ..scoring.spec import ScorerSpec
from ..scoring.weights import WeightRange
from ..sources.json_values import rows_of
from ..sources.parts import WHOLE, Ints, SourceParts
from ..sources.tables import by_split, conform
from .layout import metadata_key, without_directories
from .summary import OutcomeCounts, Summary
from .tally import Tally
from .thresholds import Threshold

_LARF = ColumnNames()


def scored_schema(schema: pa.Schema, spec: ScorerSpec, prefix: str = PREFIX) -> pa.Schema:
    """The source's columns without those of an earlier scorer of this prefix, then the columns of this one.

    Its metadata says which scorer it was. Columns of another prefix stay, and so does what says whose they are.

    Args:
        schema: of the source.
        spec: of the scorer, `scorer.spec`.
        prefix: of its columns, `scorer.prefix`.

    Raises:
        RowFormatError: one of these columns is the user's own; see `ColumnNames.require_free`.
    """
    kinds = replace(spec.kinds, prefix=prefix)
    kinds.names.require_free(schema.names)
    source = [field for field in schema if field.name not in kinds.names]
    added = [pa.field(*column) for column in kinds.arrow().items()]
    return pa.schema(source + added, _metadata(schema, spec, kinds))


def _metadata(schema: pa.Schema, spec: ScorerSpec, kinds: ScoreColumns) -> dict[bytes, bytes]:
    """The source's own, with the added columns among its feature types; and which scorer it was."""
    kept = {key: value for key, value in (schema.metadata or {}).items() if key != b"huggingface"}
    if b"huggingface" in (schema.metadata or {}):
        described = json.loads(schema.metadata[b"huggingface"])
        features = {n: feature for n, feature in described["info"]["features"].items() if n not in kinds.names}
        described["info"]["features"] = {**features, **kinds.features()}
        kept[b"huggingface"] = json.dumps(described).encode()
    fields = public_spec(spec).json_fields()
    scorer = {key: value for key, value in fields.items() if key not in ("chat_template", "packages")}
    return {**kept, metadata_key(kinds.prefix): json.dumps(without_directories(scorer), sort_keys=True).encode()}


def weighted_schema(schema: pa.Schema, weight: WeightRange | None, names: ColumnNames = _LARF) -> pa.Schema:
    """The columns of scored rows with the weight as the last, in place of an earlier one; as they are for None.

    Raises:
        RowFormatError: that one is the user's own; see `ColumnNames.require_free`.
    """
    if weight is None:
        return schema
    if names.weight in schema.names:
        names.require_free(schema.names)
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:
        described = json.loads(metadata[b"huggingface"])
        described["info"]["features"].pop(names.weight, None)
        described["info"]["features"][names.weight] = {"dtype": "float32", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(described).encode()
    fields = [field for field in schema if field.name != names.weight]
    return pa.schema([*fields, pa.field(names.weight, pa.float32())], metadata)


def _weighted(table: pa.Table, weight: WeightRange | None, names: ColumnNames) -> pa.Table:
    """Scored rows with their training weights, null where they have no score; as they are for None."""
    if weight is None:
        return table
    scores = scores_of(table, names.score)
    values = pa.array(weight.weights(scores), pa.float32(), from_pandas=True)  # NaN becomes null
    columns = [column for name, column in zip(table.column_names, table.columns, strict=True) if name != names.weight]
    return pa.table([*columns, pa.chunked_array([values])], schema=weighted_schema(table.schema, weight, names))


def described_scorer(schema: pa.Schema, where: str, prefix: str = PREFIX) -> ScorerSpec | None:
    """What the metadata of scored rows say of the scorer whose columns have this prefix; None if nothing.

    It lacks its chat template and its packages.
    """
    text = (schema.metadata or {}).get(metadata_key(prefix))
    if text is None:
        return None
    with contextlib.suppress(LarfError, ValueError, TypeError):
        described = {"chat_template": None, "packages": {}, **parse_json(text)}
        return ScorerSpec.from_json(json.dumps(described), f"the metadata of {where}")
    return None


def split_table(
    table: pa.Table, threshold: Threshold, first_row: int, names: ColumnNames = _LARF
) -> dict[str, tuple[pa.Table, Ints]]:
    """Scored rows, the first of them row `first_row` of the dataset, by outcome: kept, removed, unscorable.

    Returns:
        For each outcome its rows, and their numbers in the dataset.
    """
    masks = threshold.outcomes(scores_of(table, names.score), first_row)
    return {
        outcome: (conform(table.filter(pa.array(mask)), table.schema), first_row + np.flatnonzero(mask))
        for outcome, mask in masks.items()
    }


def split_tables(
    tables: Iterable[tuple[int, pa.Table]],
    threshold: Threshold,
    write: Callable[[str, str, pa.Table, Ints], None],
    format: str = "auto",  # noqa: A002 - the word users know
    splits: Sequence[tuple[str, int]] = (),
    weight: WeightRange | None = None,
    parts: SourceParts = WHOLE,
    names: ColumnNames = _LARF,
) -> Summary:
    """Hand every row of some scored tables to `write` under its outcome and split, whole and in order.

    Args:
        tables: the tables, each with the number of its first row in the dataset, from 0.
        threshold: fitted.
        write: takes an outcome (kept, removed or unscorable), a split, rows of both, one or more, and their numbers in
            the dataset.
        format: how to read the texts of the highest rows for the summary.
        splits: see `Source.splits`; where there are none, the split is "".
        weight: the scores between which the rows' training weights fall; see `weighted_schema`.
        parts: see `Source.parts`.
        names: of the columns of the score that decides.

    Returns:
        Counts and the highest rows; no quantiles, and no threshold.

    Raises:
        ThresholdError: the threshold is not fitted, or the column of the scores holds no numbers.
        RowFormatError: the columns do not fit the format that was asked for by name.
    """
    tally, counts = Tally(parts), OutcomeCounts()
    for first_row, table in tables:
        row_format = excerpt_format(format, table.column_names)
        read = row_format.columns(table.column_names) if row_format else table.column_names
        rows = rows_of(table, [*read, names.score, names.issue])
        issues = [row.get(names.issue) for row in rows]
        tally.add(rows, row_format, scores_of(table, names.score), issues, first_row)
        for split, first, piece in by_split(_weighted(table, weight, names), first_row, splits):
            by_outcome = split_table(piece, threshold, first, names)
            for outcome, (part, numbers) in by_outcome.items():
                if len(part):
                    write(outcome, split, part, numbers)
            counts += OutcomeCounts(**{outcome: len(part) for outcome, (part, _) in by_outcome.items()})
    return tally.summary(outcomes=counts)
