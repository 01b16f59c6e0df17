"""What a run leaves on disk, by name: engines write it, publishing reads it."""

from __future__ import annotations

SUMMARY = "larf_summary.json"
RECIPE = "recipe.yaml"
OUTCOMES = ("kept", "removed", "unscorable")  # directories of Parquet files
METADATA_KEY = b"larf_curate"  # in a Parquet schema's metadata: which scorer it was, as JSON
