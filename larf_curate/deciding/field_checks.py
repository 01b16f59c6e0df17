"""The fields of thresholds and summaries are checked when these are read: the file may be a stranger's."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ..json_fields import checked_text, entries, finite, mapping, plain, whole
from ..rows.score_columns import PREFIX, ColumnNames
from ..scoring.quantile_levels import LEVELS, REFERENCE_LEVELS
from .filtering import STANDARD_INPUT
from .rules import check_amount

_LARGEST = sys.float_info.max
_COUNTS = ("rows", "removed", "unscorable_rows", "harmless", "spared_from")


def score_to_json(score: float | None) -> float | None:
    """A score as JSON holds it: an infinite one (all rows go, or none) as the largest number that there is.

    >>> score_to_json(float("inf")), score_to_json(0.5)
    (1.7976931348623157e+308, 0.5)
    """
    return score if score is None else max(-_LARGEST, min(_LARGEST, score))


def score_from_json(value: Any, name: str) -> float | None:
    """What `score_to_json` has written.

    Raises:
        ValueError: something else.
    """
    if value is None:
        return None
    score = finite(value, name)
    return math.copysign(math.inf, score) if abs(score) == _LARGEST else score


def check_threshold_fields(fields: Mapping[str, Any]) -> None:
    """Check the attributes of a threshold, as its JSON holds them.

    Raises:
        ValueError: names the field and what it holds.
    """
    plain(fields, "")
    check_amount(fields["rule"], finite(fields["amount"], "amount"))
    for name in _COUNTS:
        if fields.get(name) is not None:
            whole(fields[name], name)
    whole(fields.get("tied", 0), "tied")
    if (fields.get("spared_score") is None) != (fields.get("spared_from") is None):
        raise ValueError("spared_score and spared_from belong together")


def check_summary_fields(values: Mapping[str, Any]) -> None:
    """Check a summary's JSON: counts that add up, numbers that are finite, paths that lead nowhere else.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: something in it is wrong, or not there.
    """
    plain(values, "")
    rows = whole(values["rows"], "rows")
    whole(values["scored"], "scored", 0, rows)
    counts = [whole(values[name], name, 0, rows) for name in ("kept", "removed", "unscorable") if name in values]
    if counts and sum(counts) != rows:
        raise ValueError(f"kept, removed and unscorable rows are {sum(counts)}, not {rows}")
    for issue, count in mapping(values["issues"], "issues").items():
        whole(count, f"issues.{issue}", 0, rows)
    quantiles = mapping(values["score_quantiles"], "score_quantiles")
    for name, score in quantiles.items():
        finite(score, f"score_quantiles.{name}")
    if unknown := set(quantiles) - set(LEVELS):
        raise ValueError(f"score_quantiles has {', '.join(sorted(unknown))}")
    last = max(0, rows - 1) if values["threshold"] else 2**53  # a worker's part counts rows of the whole source
    for excerpt in entries(values["highest"], "highest", maximum=100):
        if excerpt["score"] is not None:
            finite(excerpt["score"], "score")
        whole(excerpt["row"], "row", 0, last)
        checked_text(excerpt.get("place", ""), "place")
        checked_text(excerpt["prompt"], "prompt")
        checked_text(excerpt["answer"], "answer")
    for fault in entries(values.get("faults", []), "faults", maximum=100):
        whole(fault["row"], "row", 0, last)
    if values.get("references") is not None:
        for side, points in mapping(values["references"], "references").items():
            count = len(REFERENCE_LEVELS)
            for score in entries(points, f"references.{side}", count, count):
                finite(score, f"references.{side}")
    if values.get("filtered") is not None:
        source = checked_text(values["filtered"]["source"], "filtered.source")
        if source.startswith("-") and source != STANDARD_INPUT:
            raise ValueError(f"filtered.source must name rows, not an option: {source!r}")
    ColumnNames(values.get("prefix", PREFIX))
    if values.get("run") is not None:
        _check_run(values["run"], rows)


def _check_run(run: Mapping[str, Any], rows: int) -> None:
    if whole(run["source"]["rows"], "source.rows") != rows:
        raise ValueError(f"the source has {run['source']['rows']} rows, and {rows} were split")
    whole(run["source"]["shards"], "source.shards")
    whole(run["executor"]["tasks"], "executor.tasks", 1)
    for layer in entries(run["layers"], "layers"):
        whole(layer, "layers", 0, 100_000)
    for name, path in (("scorer.directory", run["scorer"]["directory"]), ("scored", run["scored"])):
        parts = PurePosixPath(checked_text(path, name))
        if parts.is_absolute() or ".." in parts.parts or "\\" in path:
            raise ValueError(f"{name} must be a path below the run directory, not {path!r}")
