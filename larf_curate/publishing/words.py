"""A report in words: what the card, the page and the terminal say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..deciding.layout import OUTCOMES
from ..scoring.columns import SCORE
from ..scoring.layer_search.profile import LayerProfile
from .report import Report

_CAPTIONS = {
    "scores.png": "Histogram of the scores of kept and removed rows, with the threshold",
    "length.png": "Score against length of the answer, removed rows marked, with the threshold",
    "layers.png": "Quantiles of the scores at each layer",
    "search.png": "The search for the layer: how much refusals move when a block is scaled, with 95% intervals",
}


def describe_run(report: Report) -> Iterator[tuple[str, str]]:
    """Names and values of what a person looks at first."""
    rows, threshold = report.rows, report.threshold or {}
    yield "rows", f"{rows['rows']:,}: " + ", ".join(f"{rows[name]:,} {name}" for name in OUTCOMES)
    if report.source:
        yield "source", f"{report.source['name']}, read as {report.source['format']}"
    if found := report.scorer:
        yield "scorer", f"{found['model']}, layer {', '.join(map(str, found['layers']))}, formula {found['formula']}"
        yield from (("layer search", line) for line in describe_search(found))
        said = found["separation"]
        yield "separation", "not measured" if said["auc"] is None else f"AUC {said['auc']:.3f} on {said['pairs']} pairs"
    yield "removed", f"{describe_rule(threshold)}: above {threshold.get('value') or 0:+.5f}"
    yield "rows without a score", describe_unscored(report)
    for issue, count in report.issues.items():
        yield f"  {issue}", f"{count:,}"
    points = report.quantiles.get(SCORE, {})
    yield "score", ", ".join(f"{name} {value:+.4f}" for name, value in points.items()) or "no row has one"
    for number, line in enumerate(describe_confounds(report)):
        yield "" if number else "the score leans on", line


def describe_search(scorer: Mapping[str, Any]) -> list[str]:
    """How the layer was found, in sentences; none where it was given."""
    if not scorer.get("search"):
        return []
    profile = LayerProfile.of(scorer["search"])
    asked = f"{profile.prompts} harmless prompts that sound harmful, {profile.unscaled} of them refused as the model is"
    return [profile.verdict(), *profile.agreement(), asked]


def groups_by_column(report: Report) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for group in report.groups:
        groups.setdefault(group["column"], []).append(group)
    return groups


def caption(name: str, columns: Sequence[str]) -> str:
    """What a picture shows, in words."""
    if name in _CAPTIONS:
        return _CAPTIONS[name]
    return f"Scores by {columns[int(name.removeprefix('groups-').removesuffix('.png'))]}"


def describe_rule(threshold: Mapping[str, Any]) -> str:
    """The threshold's rule in words."""
    amount = threshold.get("amount", 0)
    return {
        "max_score": f"every row that scores above {amount:g}",
        "drop_top": f"the {amount:,.0f} highest-scoring rows",
        "drop_fraction": f"the highest-scoring {amount * 100:g}% of the rows that have a score",
        "calibrated": f"what scores above all but {amount:.3%} of {threshold.get('harmless') or 0:,} harmless rows",
    }.get(str(threshold.get("rule")), "unknown")


def describe_unscored(report: Report) -> str:
    """Where the rows without a score went, in words."""
    without = report.rows["rows"] - report.rows["scored"]
    removed = report.rows["removed"] - ((report.threshold or {}).get("removed") or 0)
    places = {"set apart": report.rows["unscorable"], "removed": removed}
    places["kept"] = without - sum(places.values())
    said = [f"{count:,} {where}" for where, count in places.items() if count]
    return ", ".join(said) or "there are none"


def describe_confounds(report: Report) -> list[str]:
    """What else the score leans on in these rows, in words: one line for each figure that could be had."""
    found = report.confounds or {}
    lines = []
    for key, what, more in (
        ("score_and_characters", "the length of the answer", "longer answers"),
        ("score_and_lists", "being a list", "lists"),
    ):
        if figure := found.get(key):
            if figure["low"] <= 0 <= figure["high"]:
                said = "no lean that these rows could show"
            else:
                said = f"{more} tend to score {'higher' if figure['value'] > 0 else 'lower'}"
            lines.append(f"In these rows the score's correlation (Spearman) with {what} is {_between(figure)}: {said}.")
    for key, what in (
        ("removed_to_kept_characters", "characters"),
        ("removed_to_kept_tokens", "tokens, with the prompt"),
    ):
        if figure := found.get(key):
            of = "Answers" if "characters" in key else "Conversations"
            lines.append(
                f"{of} of removed rows have {_between(figure, '.2f')} times the {what} of kept ones (geometric mean)."
            )
    for key, what in (("removed_less_kept_lists", "lists"), ("removed_less_kept_refusals", "refusals or hedges")):
        if figure := found.get(key):
            points = {name: 100 * figure[name] for name in ("value", "low", "high")}
            lines.append(
                f"Share of {what} among removed rows less that among kept ones: {_between(points, '+.1f')} points."
            )
    return lines


def _between(figure: Mapping[str, float], form: str = "+.2f") -> str:
    return f"{figure['value']:{form}} [{figure['low']:{form}}, {figure['high']:{form}}]"
