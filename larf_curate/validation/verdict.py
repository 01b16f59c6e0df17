"""What a validation found, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence

from .bootstrap import Figure
from .results import ArmResult, Trend
from .words import REMEDIES, UNTRAINED

_CONTROLS = {
    "matched": "training on kept rows of the same length and form",
    "random": "training on random rows",
    "none": "no training",
    "all": "training on as many rows drawn from all",
}


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
        *(_of_removed(by_name["removed"], shown) if "removed" in by_name else ()),
        *(_of_kept(by_name["kept"], shown) if "kept" in by_name else ()),
        *(_of_trend(trend, shown) if trend is not None else ()),
        *_of_remedies(by_name),
    ]
    if not sentences:
        return f"No arm here says whether the filter helps: train on removed, kept or the bins ({shown})."
    if seeds == 1:
        sentences.append("One seed was trained: another may change more than these intervals know.")
    return " ".join(sentences)


def _amount(figure: Figure) -> str:
    low, high = figure.interval
    return f"{abs(figure.value):.2f} (95% interval {low:+.2f} to {high:+.2f})"


def _of_removed(arm: ArmResult, shown: str) -> list[str]:
    if arm.against is None or arm.control is None:
        return []
    control = _CONTROLS[arm.control]
    if not arm.against.is_apart_from_zero:
        sentence = (
            f"No difference that this could show: training on the removed rows changes the log-odds of refusing by "
            f"{arm.against.value:+.2f} against {control} (95% interval {arm.against.interval[0]:+.2f} to "
            f"{arm.against.interval[1]:+.2f}); {shown}, a difference of {arm.against.detectable:.2f} would have shown "
            "four times out of five."
        )
        return [sentence]
    if arm.control == UNTRAINED:
        way = "lowers" if arm.against.value < 0 else "raises"
        sentence = (
            f"Training on the removed rows {way} the log-odds of refusing by {_amount(arm.against)}; whether other "
        )
        return [sentence + "rows do the same, and so whether the filter helps, says only the arm matched or random."]
    if arm.against.value < 0:
        sentence = f"Training on the removed rows lowers the log-odds of refusing by {_amount(arm.against)} more than "
        return [sentence + f"{control}: the filter removes rows that erode refusals."]
    sentence = f"Training on the removed rows leaves the log-odds of refusing {_amount(arm.against)} higher than "
    return [sentence + f"{control}: the filter removes the wrong rows."]


def _of_kept(arm: ArmResult, shown: str) -> list[str]:
    if arm.against is None or arm.control is None:
        return []
    control = _CONTROLS[arm.control]
    if not arm.against.is_apart_from_zero:
        sentence = (
            f"Training on the kept rows makes no difference that this could show against {control} "
            f"({arm.against.value:+.2f}; {shown}, {arm.against.detectable:.2f} would have shown)."
        )
        return [sentence]
    way = "higher" if arm.against.value > 0 else "lower"
    return [
        f"After training on the kept rows the log-odds of refusing are {_amount(arm.against)} {way} than {control}."
    ]


def _of_trend(trend: Trend, shown: str) -> list[str]:
    of_bins = f"from one fifth of the rows to the next higher by score the log-odds change by {trend.slope.value:+.2f}"
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
    return [sentence + f" and a loss on ordinary rows of {best.usefulness.value:.2f}."]
