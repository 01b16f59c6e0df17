"""What a run leaves on disk, by name: engines write it, publishing reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

SUMMARY = "larf_summary.json"
RECIPE = "recipe.yaml"
Outcome = Literal["kept", "removed", "unscorable"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)  # directories of Parquet files
METADATA_KEY = b"larf_curate"  # in a Parquet schema's metadata: which scorer it was, as JSON


def without_directories(value: Any) -> Any:
    """Fit to be published: names of files in place of this machine's paths, in all that mappings and lists hold."""
    if isinstance(value, Mapping):
        return {key: without_directories(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_directories(item) for item in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "../")) or re.match(r"[A-Za-z]:\\", value)):
        # The name of a source of several files is "a + b".
        return " + ".join(re.split(r"[/\\]", part)[-1] for part in value.split(" + "))
    return value
