"""A report in words: the sentences of the card, the page and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from ..deciding.layout import without_directories
from ..deciding.rules import UnscorablePolicy
from ..deciding.thresholds import Threshold
from ..scoring.excerpts import signed
from ..scoring.layer_search.profile import LayerProfile
from ..scoring.records import Separation
from ..scoring.statistics import Estimate
from ..validation.audit_result import Audit
from ..validation.audit_words import describe_measurement
from .report import Confounds, Report

_PLACES: dict[UnscorablePolicy, str] = {"separate": "set apart", "keep": "kept", "remove": "removed"}


def dataset_name(name: str) -> str:
    """A source's name for a title: of files and directories the last part, without what says how they are stored.

    >>> dataset_name("/data/me/alpaca.jsonl.gz"), dataset_name("yahma/alpaca-cleaned"), dataset_name("rows/*.parquet")
    ('alpaca', 'yahma/alpaca-cleaned', 'rows')
    """
    named = without_directories(name)
    parts = [re.sub(r"(\.[A-Za-z]{2,8}){1,2}$", "", part) if "." in part else part for part in named.split(" + ")]
    shown = []
    for part in parts:
        pieces = [piece for piece in part.split("/") if piece and "*" not in piece]
        # Two parts without an ending are a dataset of the Hub, or look like one.
        shown.append("/".join(pieces) if len(pieces) <= 2 and part == named else (pieces or [part])[-1])
    return " + ".join(dict.fromkeys(shown))


def describe_run(report: Report) -> Iterator[tuple[str, str]]:
    """Names and values of what a person looks at first."""
    rows, scorer = report.rows, report.scorer
    counts = f"{rows.kept:,} kept, {rows.removed:,} removed, {rows.unscorable:,} unscorable"
    yield "rows", f"{rows.total:,}: {counts}"
    if report.source:
        yield "source", f"{report.source.name}, {report.source.reading or f'read as {report.source.format}'}"
    if scorer:
        where = f", layer {', '.join(map(str, scorer.layers))}" if scorer.layers else ""
        yield "scorer", f"{scorer.model}{where}, formula {scorer.formula}"
        for line in describe_search(scorer.search):
            yield "layer search", line
        if scorer.separation is not None:
            yield "separation", describe_separation(scorer.separation)
        yield from scorer.loss_facts()
    yield "removed", f"{describe_rule(report.threshold)}: {describe_cut(report.threshold)}"
    for split, threshold in report.threshold.by_split.items():
        yield f"  {split}", describe_part(threshold)
    yield "rows without a score", describe_unscored(report)
    for issue, count in report.issues.items():
        yield f"  {issue}", f"{count:,}"
    points = report.score_quantiles
    yield "score", ", ".join(f"{name} {signed(value, 4)}" for name, value in points.items()) or "no row has one"
    for number, line in enumerate(describe_confounds(report.confounds)):
        yield "" if number else "related to the score", line
    for number, line in enumerate(describe_audit(report.audit)):
        yield "" if number else "audit", line
    if report.validation is not None:
        yield "validated", report.validation.verdict


def describe_separation(separation: Separation) -> str:
    """How well the score tells apart pairs that it was not fitted on."""
    return (
        "not measured"
        if separation.auc is None
        else f"AUC {separation.auc:.3f} (0.5 is chance, 1 is perfect) on {separation.pairs} pairs it was not fitted on"
    )


def describe_search(profile: LayerProfile | None) -> list[str]:
    """How the layer was found, in sentences; none if it was given."""
    if profile is None:
        return []
    asked = f"{profile.prompts} harmless prompts that sound harmful, {profile.unscaled} of them refused as the model is"
    return [profile.verdict(), *profile.agreement(), asked, profile.effort()]


def describe_audit(audit: Audit | None) -> list[str]:
    """What an audit of the score has found, in sentences; none if there was none."""
    return [] if audit is None else [audit.verdict, *describe_measurement(audit), *audit.warnings]


def describe_rule(threshold: Threshold) -> str:
    """Which rows a threshold removes.

    >>> describe_rule(Threshold.drop_fraction(0.05))
    'the highest-scoring 5% of the rows that have a score'
    """
    amount = threshold.amount
    if threshold.by_split:
        return f"{describe_rule(replace(threshold, by_split={}))}, for each split by itself"
    match threshold.rule:
        case "max_score":
            return f"every row that scores above {amount:g}"
        case "drop_top":
            return f"the {amount:,.0f} highest-scoring rows"
        case "drop_fraction":
            return f"the highest-scoring {amount * 100:g}% of the rows that have a score"
        case "calibrated":
            return f"what scores above all but {amount:.3%} of {threshold.harmless or 0:,} harmless rows"


def describe_cut(threshold: Threshold) -> str:
    """Above which score rows were removed."""
    value = threshold.value
    if threshold.by_split and value is None:
        return "scores above a value of each split's own"
    if value is None or value == math.inf:
        return "none, since no row has a score"
    return "all rows that have a score" if value == -math.inf else f"scores above {signed(value)}"


def describe_part(threshold: Threshold) -> str:
    """What the threshold of one split has removed."""
    return f"{threshold.removed or 0:,} of {threshold.rows or 0:,} rows: {describe_cut(threshold)}"


def describe_unscored(report: Report) -> str:
    """How many rows have no score, and where they went."""
    count = report.rows.unscored
    return f"{count:,} {_PLACES[report.threshold.unscorable]}" if count else "there are none"


def describe_confounds(confounds: Confounds | None) -> list[str]:
    """What the score is correlated with in these rows: one sentence for each figure that there is."""
    if confounds is None:
        return []
    sentences = [
        _correlation(confounds.score_and_characters, "the length of the answer", "longer answers"),
        _correlation(confounds.score_and_lists, "being a list", "lists"),
        _length(confounds.removed_to_kept_characters, "Removed answers", "", "characters"),
        _length(confounds.removed_to_kept_tokens, "Removed conversations", ", prompt included,", "tokens"),
        _shares(confounds.removed_less_kept_lists, "lists"),
        _shares(confounds.removed_less_kept_refusals, "refusals or hedges"),
    ]
    return [sentence for sentence in sentences if sentence]


def _correlation(estimate: Estimate | None, what: str, more: str) -> str:
    if estimate is None:
        return ""
    if _includes(estimate, 0):
        meaning = "these rows show no clear relation"
    else:
        meaning = f"{more} tend to score {'higher' if estimate.value > 0 else 'lower'}"
    value, low, high = (signed(number, 2) for number in (estimate.value, estimate.low, estimate.high))
    figure = f"{value} (95% interval {low} to {high})"
    return f"In these rows the score's correlation (Spearman) with {what} is {figure}: {meaning}."


def _length(ratio: Estimate | None, subject: str, extra: str, unit: str) -> str:
    if ratio is None:
        return ""
    amount, comparison = _compare(ratio.value)
    same = comparison.endswith("as long")
    interval = _interval(_compare(ratio.low), _compare(ratio.high))
    doubt = ": these rows show no clear difference" if _includes(ratio, 1) else ""
    return (
        f"{subject} are {amount}{comparison}{extra} {'as' if same else 'than'} kept ones "
        f"({unit}, geometric mean; 95% interval {interval}){doubt}."
    )


def _compare(ratio: float) -> tuple[str, str]:
    """A ratio of lengths in words: an amount and a comparison.

    >>> [_compare(ratio) for ratio in (0.8, 1.0, 1.25, 2.5)]
    [('20% ', 'shorter'), ('', 'as long'), ('25% ', 'longer'), ('2.5 times ', 'as long')]
    """
    percent = round(100 * (ratio - 1))
    if ratio >= 2:
        return f"{ratio:.1f} times ", "as long"
    if percent == 0:
        return "", "as long"
    if percent == -100:
        return "over 99% ", "shorter"
    return f"{abs(percent)}% ", "longer" if percent > 0 else "shorter"


def _shares(difference: Estimate | None, what: str) -> str:
    if difference is None:
        return ""
    points = [100 * share for share in (difference.value, difference.low, difference.high)]
    value, *ends = ((f"{abs(point):.1f} percentage points ", "higher" if point > 0 else "lower") for point in points)
    interval = _interval(*ends)
    if f"{points[0]:.1f}" in ("0.0", "-0.0"):
        return f"The share of {what} is the same among removed rows as among kept ones (95% interval {interval})."
    doubt = ": these rows show no clear difference" if _includes(difference, 0) else ""
    return (
        f"The share of {what} is {value[0]}{value[1]} among removed rows than among kept ones "
        f"(95% interval {interval}){doubt}."
    )


def _interval(low: tuple[str, str], high: tuple[str, str]) -> str:
    """Both ends in words, the one nearer to no difference first.

    >>> _interval(("60% ", "shorter"), ("40% ", "shorter")), _interval(("5% ", "shorter"), ("2.5 times ", "as long"))
    ('40% to 60% shorter', '5% shorter to 2.5 times as long')
    """
    if low == high:
        return "".join(low)
    if low[1] == high[1] and low[0] and high[0]:
        first, last = (high, low) if low[1] in ("shorter", "lower") else (low, high)
        amount = first[0].removesuffix(" ").removesuffix(" times").removesuffix(" percentage points")
        return f"{amount} to {last[0]}{last[1]}"
    return f"{''.join(low)} to {''.join(high)}"


def _includes(estimate: Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high
