"""Scored rows as Arrow tables: the source's columns as they are, and the larf columns after them."""

from __future__ import annotations

import json

import pyarrow as pa

from ..scoring.columns import larf_dtypes, larf_schema, scores_of
from ..scoring.spec import ScorerSpec
from ..sources.tables import conform
from .layout import METADATA_KEY, without_directories
from .thresholds import Threshold


def scored_schema(schema: pa.Schema, spec: ScorerSpec) -> pa.Schema:
    """The source's columns, but for larf columns that it already has; the larf columns; and which scorer it was."""
    added = larf_schema(spec.layers)
    fields = [field for field in schema if field.name not in added] + [pa.field(*column) for column in added.items()]
    return pa.schema(fields, _metadata(schema, spec))


def _metadata(schema: pa.Schema, spec: ScorerSpec) -> dict[bytes, bytes]:
    """The source's own, with the larf columns among its feature types; and which scorer it was."""
    kept = {key: value for key, value in (schema.metadata or {}).items() if key not in (b"huggingface", b"pandas")}
    if b"huggingface" in (schema.metadata or {}):
        features = json.loads(schema.metadata[b"huggingface"])
        for name, dtype in larf_dtypes(spec.layers).items():
            features["info"]["features"].pop(name, None)
            features["info"]["features"][name] = {"dtype": dtype, "_type": "Value"}
        kept[b"huggingface"] = json.dumps(features).encode()
    described = {key: value for key, value in spec.json_fields().items() if key not in ("chat_template", "packages")}
    return {**kept, METADATA_KEY: json.dumps(without_directories(described), sort_keys=True).encode()}


def split_table(table: pa.Table, threshold: Threshold, first_row: int) -> dict[str, pa.Table]:
    """Scored rows, the first of them row `first_row` of the dataset, by outcome: kept, removed, unscorable."""
    masks = threshold.outcomes(scores_of(table), first_row)
    return {outcome: conform(table.filter(pa.array(mask)), table.schema) for outcome, mask in masks.items()}
