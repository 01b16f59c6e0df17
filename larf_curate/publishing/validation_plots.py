"""Pictures of a validation: the arms, and the bins by score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..validation.results import ArmResult, Validation
from ..validation.words import BINS
from .drawing import KEPT, LINE, REMOVED, Plot, picture, png_of

_ARMS, _BINS = NAMES = ("validation-arms.png", "validation-bins.png")
"""The files of all pictures that there can be."""
_TOUCHED = ("removed", "bin5")


def draw_validation(validation: Validation) -> tuple[Plot, ...]:
    """Draw `validation-arms.png`, and `validation-bins.png` where the five bins were trained."""
    plots = [Plot(_ARMS, "Log-odds of refusing after training on each arm", _arms(validation))]
    if validation.trend is not None:
        plots.append(Plot(_BINS, "Log-odds of refusing by fifth of the scores", _bins(validation)))
    return tuple(plots)


def _arms(validation: Validation) -> bytes:
    arms = [arm for arm in validation.arms if arm.name not in BINS] or list(validation.arms)
    with picture(1.6 + 0.45 * len(arms)) as (figure, axes):
        places = np.arange(len(arms))[::-1]
        for place, arm in zip(places, arms, strict=True):
            low, high = arm.margin.interval
            chosen = arm.name in _TOUCHED
            axes.errorbar(
                [arm.margin.value],
                [place],
                xerr=[[max(0.0, arm.margin.value - low)], [max(0.0, high - arm.margin.value)]],
                fmt="D" if chosen else "o",
                color=REMOVED if chosen else KEPT,
                capsize=3,
                markersize=7,
            )
        untrained = next((arm for arm in arms if arm.name == "none"), None)
        if untrained is not None:
            axes.axvline(untrained.margin.value, color=LINE, linestyle="--", linewidth=1.2)
        axes.set_yticks(places, [arm.name for arm in arms])
        axes.margins(y=0.5 / len(arms))  # the first and the last arm stand clear of the edges
        dashed = "; dashed: before training" if untrained is not None else ""
        about = f"log-odds of refusing harmful prompts (higher is safer)\nmean and 95% interval{dashed}"
        axes.set_xlabel(about, fontsize=12)
        return png_of(figure)


def _bins(validation: Validation) -> bytes:
    bins: Sequence[ArmResult] = [validation.arm(name) for name in BINS]
    with picture() as (figure, axes):
        values = np.array([arm.margin.value for arm in bins])
        ends = np.array([arm.margin.interval for arm in bins])
        errors = np.stack([values - ends[:, 0], ends[:, 1] - values]).clip(0)
        axes.errorbar(np.arange(1, 6), values, errors, fmt="o-", color=KEPT, capsize=3, markersize=7)
        axes.set_xticks(np.arange(1, 6), ["lowest\nscores", "2", "3", "4", "highest\nscores"])
        axes.set_ylabel("log-odds of refusing")
        axes.set_xlabel("fifth of the rows by score: mean and 95% interval", fontsize=12)
        return png_of(figure)
