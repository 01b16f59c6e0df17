"""Scored rows as Arrow tables: the source's columns as they are, and the larf columns after them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from ..errors import LarfError
from ..json_fields import parse_json
from ..scoring.columns import ISSUE, SCORE, WEIGHT, is_larf_column, scores_of
from ..scoring.excerpts import excerpt_format
from ..scoring.public_names import public_spec
from ..scoring.spec import ScorerSpec
from ..scoring.weights import WeightRange
from ..sources.json_values import rows_of
from ..sources.parts import WHOLE, Ints, SourceParts
from ..sources.tables import by_split, conform
from .layout import METADATA_KEY, without_directories
from .summary import OutcomeCounts, Summary
from .tally import Tally
from .thresholds import Threshold


def scored_schema(schema: pa.Schema, spec: ScorerSpec) -> pa.Schema:
    """The source's columns without the larf columns of an earlier scorer, then the larf columns of this one.

    Its metadata says which scorer it was.
    """
    source = [field for field in schema if not is_larf_column(field.name)]
    added = [pa.field(*column) for column in spec.kinds.arrow().items()]
    return pa.schema(source + added, _metadata(schema, spec))


def _metadata(schema: pa.Schema, spec: ScorerSpec) -> dict[bytes, bytes]:
    """The source's own, with the larf columns among its feature types; and which scorer it was."""
    kept = {key: value for key, value in (schema.metadata or {}).items() if key != b"huggingface"}
    if b"huggingface" in (schema.metadata or {}):
        described = json.loads(schema.metadata[b"huggingface"])
        features = {n: feature for n, feature in described["info"]["features"].items() if not is_larf_column(n)}
        described["info"]["features"] = {**features, **spec.kinds.features()}
        kept[b"huggingface"] = json.dumps(described).encode()
    fields = public_spec(spec).json_fields()
    scorer = {key: value for key, value in fields.items() if key not in ("chat_template", "packages")}
    return {**kept, METADATA_KEY: json.dumps(without_directories(scorer), sort_keys=True).encode()}


def weighted_schema(schema: pa.Schema, weight: WeightRange | None) -> pa.Schema:
    """The columns of scored rows with `larf_weight` as the last, in place of an earlier one; as they are for None."""
    if weight is None:
        return schema
    metadata = dict(schema.metadata or {})
    if b"huggingface" in metadata:
        described = json.loads(metadata[b"huggingface"])
        described["info"]["features"].pop(WEIGHT, None)
        described["info"]["features"][WEIGHT] = {"dtype": "float32", "_type": "Value"}
        metadata[b"huggingface"] = json.dumps(described).encode()
    fields = [field for field in schema if field.name != WEIGHT]
    return pa.schema([*fields, pa.field(WEIGHT, pa.float32())], metadata)


def _weighted(table: pa.Table, weight: WeightRange | None) -> pa.Table:
    """Scored rows with their training weights, null where they have no score; as they are for None."""
    if weight is None:
        return table
    values = pa.array(weight.weights(scores_of(table)), pa.float32(), from_pandas=True)  # NaN becomes null
    columns = [column for name, column in zip(table.column_names, table.columns, strict=True) if name != WEIGHT]
    return pa.table([*columns, pa.chunked_array([values])], schema=weighted_schema(table.schema, weight))


def described_scorer(schema: pa.Schema, where: str) -> ScorerSpec | None:
    """What the metadata of scored rows say of their scorer, without its chat template and packages; None if nothing."""
    text = (schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        return None
    with contextlib.suppress(LarfError, ValueError, TypeError):
        described = {"chat_template": None, "packages": {}, **parse_json(text)}
        return ScorerSpec.from_json(json.dumps(described), f"the metadata of {where}")
    return None


def split_table(table: pa.Table, threshold: Threshold, first_row: int) -> dict[str, tuple[pa.Table, Ints]]:
    """Scored rows, the first of them row `first_row` of the dataset, by outcome: kept, removed, unscorable.

    Returns:
        For each outcome its rows, and their numbers in the dataset.
    """
    masks = threshold.outcomes(scores_of(table), first_row)
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

    Returns:
        Counts and the highest rows; no quantiles, and no threshold.

    Raises:
        ThresholdError: the threshold is not fitted, or the column `larf_score` holds no numbers.
        RowFormatError: the columns do not fit the format that was asked for by name.
    """
    tally, counts = Tally(parts), OutcomeCounts()
    for first_row, table in tables:
        row_format = excerpt_format(format, table.column_names)
        read = row_format.columns(table.column_names) if row_format else table.column_names
        rows = rows_of(table, [*read, SCORE, ISSUE])
        tally.add(rows, row_format, scores_of(table), [row.get(ISSUE) for row in rows], first_row)
        for split, first, piece in by_split(_weighted(table, weight), first_row, splits):
            by_outcome = split_table(piece, threshold, first)
            for outcome, (part, numbers) in by_outcome.items():
                if len(part):
                    write(outcome, split, part, numbers)
            counts += OutcomeCounts(**{outcome: len(part) for outcome, (part, _) in by_outcome.items()})
    return tally.summary(outcomes=counts)
