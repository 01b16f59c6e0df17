"""What a validation found, in a sentence or two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .bootstrap import Figure
from .figure_words import amount_with_interval, change_with_interval, size
from .results import ArmResult, Trend
from .words import REMEDIES, UNTRAINED

_CONTROLS = {
    "matched": "training on kept rows of the same length and form",
    "random": "training on random rows",
    "none": "no training",
    "all": "training on as many rows drawn from all",
}
_SLIGHT = 0.1
"""A difference of log-odds below which hardly an answer changes: a chance of 50% would become 52.5%."""


def verdict_of(arms: Sequence[ArmResult], trend: Trend | None, seeds: int, prompts: int) -> str:
    """What the figures say of the filter, then of the remedies.

    Args:
        arms: all of them.
        trend: over the bins.
        seeds, prompts: how many there were.
    """
    by_name = {arm.name: arm for arm in arms}
    shown = f"with {prompts} prompts and {seeds} {'seed' if seeds == 1 else 'seeds'}"
    sentences = [
        *(_of_removed(by_name, shown, seeds) if "removed" in by_name else ()),
        *(_of_kept(by_name["kept"], shown) if "kept" in by_name else ()),
        *(_of_trend(trend, shown) if trend is not None else ()),
        *_of_remedies(by_name),
    ]
    if not sentences:
        return f"No arm here says whether the filter helps: train on removed, kept or the bins ({shown})."
    if seeds == 1:
        sentences.append(
            "One seed was trained, so the intervals are over prompts alone: another seed may change more than they say."
        )
    return " ".join(sentences)


def _of_removed(arms: Mapping[str, ArmResult], shown: str, seeds: int) -> list[str]:
    arm = arms["removed"]
    if arm.against is None or arm.control is None:
        return []
    control, against = _CONTROLS[arm.control], arm.against
    if not against.is_apart_from_zero:
        sentence = (
            f"No difference that this could show: training on the removed rows changes the log-odds of refusing by "
            f"{change_with_interval(against)} against {control}; {shown}, a difference of {size(against.detectable)} "
            "would have shown four times out of five."
        )
        return [sentence]
    amount = amount_with_interval(against)
    if arm.control == UNTRAINED:
        sentence = (
            f"Training on the removed rows {'lowers' if against.value < 0 else 'raises'} the log-odds of refusing "
        )
        sentence += f"by {amount}. Other rows may do the same: "
        return [sentence + "whether the filter helps is seen only beside the arm matched or random."]
    sentence = "Training on the removed rows "
    if against.value < 0:
        sentence += f"lowers the log-odds of refusing by {amount} more than {control}"
    else:
        sentence += f"leaves the log-odds of refusing {amount} higher than {control}"
    sentences = [f"{sentence}: {_conclusion(against, seeds)}."]
    beside = arms.get(arm.control)
    if abs(against.value) >= _SLIGHT and beside is not None and arm.equal != "rows and trained tokens":
        tokens = f"{arm.trained_tokens:,.0f} and {beside.trained_tokens:,.0f} trained tokens"
        sentences.append(f"The two differ in length too ({tokens}), which may explain a part of that.")
    return sentences


def _conclusion(against: Figure, seeds: int) -> str:
    """What follows for the filter from a difference to rows like the removed ones: of one seed, or slight, nothing."""
    if abs(against.value) < _SLIGHT:
        chance = 1 / (1 + math.exp(-against.value))
        return (
            f"too little to tell whether the filter helps, since a chance of refusing of 50% would become {chance:.1%}"
        )
    helps = against.value < 0
    if seeds == 1:
        return f"a sign {'for' if helps else 'against'} the filter, which more seeds have to confirm"
    return "the filter removes rows that erode refusals" if helps else "the filter removes the wrong rows"


def _of_kept(arm: ArmResult, shown: str) -> list[str]:
    if arm.against is None or arm.control is None:
        return []
    control = _CONTROLS[arm.control]
    if not arm.against.is_apart_from_zero:
        sentence = (
            f"Training on the kept rows makes no difference that this could show against {control} "
            f"({change_with_interval(arm.against)}; {shown}, {size(arm.against.detectable)} would have shown)."
        )
        return [sentence]
    way = "higher" if arm.against.value > 0 else "lower"
    amount = amount_with_interval(arm.against)
    return [f"Training on the kept rows leaves the log-odds of refusing {amount} {way} than {control}."]


def _of_trend(trend: Trend, shown: str) -> list[str]:
    change = change_with_interval(trend.slope)
    of_bins = f"from one fifth of the rows to the next higher by score the log-odds change by {change}"
    test = f"permutation p = {trend.probability:.3f}"
    if trend.probability < 0.05 and trend.slope.is_apart_from_zero:
        way = "erode refusals more" if trend.slope.value < 0 else "erode refusals less"
        return [f"Rows with higher scores {way}: {of_bins} ({test})."]
    return [f"The five bins show no trend: {of_bins} ({test}; {shown})."]


def _of_remedies(arms: dict[str, ArmResult]) -> list[str]:
    """The best remedy, beside what filtering gives."""
    remedies = [arms[name] for name in REMEDIES if name in arms]
    if not remedies:
        return []
    best = max(remedies, key=lambda arm: arm.margin.value)
    sentence = f"Of the remedies {best.name} leaves the highest log-odds of refusing, {best.margin.value:+.2f}"
    if "kept" in arms:
        sentence += f", where filtering leaves {arms['kept'].margin.value:+.2f}"
    loss = best.usefulness.value
    return [sentence + ("." if math.isnan(loss) else f" and a loss on ordinary rows of {loss:.2f}.")]
