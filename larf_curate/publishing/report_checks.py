"""A report's JSON is checked before records are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..json_fields import checked_text, entries, finite, mapping, plain, whole
from ..rows.score_columns import PREFIX, ColumnNames
from ..scoring.quantile_levels import GROUP_LEVELS, LEVELS

_OUTCOMES = ("kept", "removed", "unscorable")


def check_report_fields(values: Mapping[str, Any]) -> None:
    """Check what no type says: ranges, lengths that belong together, names that are known.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: something in it is wrong, or not there.
    """
    plain(values, "")
    ColumnNames(values.get("prefix", PREFIX))
    rows = values["rows"]
    total = sum(whole(rows[name], f"rows.{name}") for name in _OUTCOMES)
    whole(rows["scored"], "rows.scored", 0, total)
    for issue, count in mapping(values["issues"], "issues").items():
        whole(count, f"issues.{issue}", 0, total)
    for column, points in mapping(values["quantiles"], "quantiles").items():
        for name, figure in mapping(points, f"quantiles.{column}").items():
            finite(figure, f"quantiles.{column}.{name}")
            if name not in LEVELS:
                raise ValueError(f"quantiles.{column} has {name!r}")
    if values["histogram"]:
        _check_histogram(values["histogram"])
    for name, share in (values["form"] or {}).items():
        finite(share, f"form.{name}", 0, 2**53 if name == "median_characters" else 1)
    for group in entries(values["groups"], "groups"):
        checked_text(group["column"], "column")
        if not sum(whole(group["rows"][name], f"groups.{name}") for name in _OUTCOMES):
            raise ValueError(f"a group of {group['column']!r} has no rows")
        if group["quantiles"] is not None:
            for point in entries(group["quantiles"], "groups.quantiles", len(GROUP_LEVELS), len(GROUP_LEVELS)):
                finite(point, "groups.quantiles")
    for name, count in (values["sample"] or {}).items():
        whole(count, f"sample.{name}")
    for side, points in (values["dots"] or {}).items():
        scores, characters = (entries(points[name], f"dots.{side}.{name}") for name in ("score", "characters"))
        if len(scores) != len(characters):
            raise ValueError(f"dots.{side} has {len(scores)} scores and {len(characters)} lengths")
        for score, length in zip(scores, characters, strict=True):
            finite(score, f"dots.{side}.score")
            whole(length, f"dots.{side}.characters")


def _check_histogram(histogram: Mapping[str, Any]) -> None:
    edges = [finite(edge, "histogram.edges") for edge in entries(histogram["edges"], "histogram.edges", 2)]
    if edges != sorted(edges):
        raise ValueError("histogram.edges must ascend")
    bins = len(edges) - 1
    for outcome in _OUTCOMES:
        for count in entries(histogram[outcome], f"histogram.{outcome}", bins, bins):
            whole(count, f"histogram.{outcome}")
