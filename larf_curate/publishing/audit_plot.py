"""The picture of an audit: what each score says of a row against the damage that the row does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..inert import visible
from ..validation.audit_result import Audit, ScoreAudit
from .drawing import KEPT, LINE, REMOVED, pictures, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 4  # scores
_BINS = 10


def draw_audit(audit: Audit) -> bytes:
    """PNG of the audited rows: for each score, the measured damage of a row against it, with the threshold."""
    shown = audit.scores[:_SHOWN]
    with pictures(len(shown)) as (figure, panels):
        for axes, score in zip(panels, shown, strict=True):
            _draw_score(axes, audit, score)
        handles = {
            label: handle
            for axes in panels
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
            if not label.startswith("threshold") or len(shown) == 1
        }
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=2, fontsize=12, markerscale=1.6
        )
        return png_of(figure)


def _draw_score(axes: Axes, audit: Audit, score: ScoreAudit) -> None:
    values = np.array([np.nan if value is None else value for value in audit.audited.scores[score.name]])
    damage = np.array(audit.audited.per_token)
    there = ~np.isnan(values)
    removed = np.array(_flags(audit.audited.removed, score.name, len(values)))
    axes.axhline(0, color=LINE, linewidth=1)
    for chosen, colour, shape, label in (
        (there & ~removed, KEPT, "o", "kept" if removed.any() else "row"),
        (there & removed, REMOVED, "^", "removed"),
    ):
        if chosen.any():
            axes.scatter(
                values[chosen], damage[chosen], s=14, c=colour, marker=shape, alpha=0.55, linewidths=0, label=label
            )
    _draw_medians(axes, values[there], damage[there])
    if score.threshold is not None and values[there].min() <= score.threshold <= values[there].max():
        axes.axvline(
            score.threshold, color=LINE, linestyle="--", linewidth=1.6, label=f"threshold {score.threshold:+.4g}"
        )
    low, high = np.percentile(damage[there], [0.5, 99.5])  # a single row must not squeeze all others
    room = 0.08 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.set_xlabel(f"{visible(score.name, 40)}: rank correlation {score.correlation}", fontsize=12)
    axes.set_ylabel("damage per trained token\n(log-odds of refusing lost\nper unit of learning rate)", fontsize=11)


def _draw_medians(axes: Axes, values: np.ndarray, damage: np.ndarray) -> None:
    """The median damage of each tenth of the scores: a line that rises if the score tells."""
    tenths = np.array_split(np.argsort(values, kind="stable"), _BINS)
    middles = [(np.median(values[rows]), np.median(damage[rows])) for rows in tenths if len(rows)]
    axes.plot(*zip(*middles, strict=True), "-", color=LINE, linewidth=2.2, label="median of each tenth")


def _flags(removed: Mapping[str, tuple[bool, ...]], name: str, count: int) -> tuple[bool, ...]:
    return removed.get(name, (False,) * count)
