"""Plots of a report, and of a search for the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..cache import register
from ..inert import visible
from ..scoring.excerpts import signed
from ..scoring.formula_names import MEANINGS
from ..scoring.layer_search.profile import LayerProfile
from ..scoring.quantile_levels import GROUP_LEVELS, REFERENCE_LEVELS
from ..scoring.records import ReferenceQuantiles
from ..validation.audit_result import Audit
from ..validation.results import Validation
from .audit_plot import draw_audit
from .drawing import KEPT, LINE, REMOVED, SAFE, UNSAFE, Plot, picture, png_of
from .report import Group, Histogram, LengthPoints, Points, Report, RowCounts
from .validation_plots import draw_validation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUPS_SHOWN = 12


@dataclass(frozen=True)
class _Content:
    """All that the pictures of a report show: equal contents give equal pictures."""

    rows: RowCounts
    threshold: float | None
    histogram: Histogram | None
    scores: Mapping[str, float]
    by_layer: Mapping[int, Mapping[str, float]]
    length_points: LengthPoints | None
    groups: Mapping[str, tuple[Group, ...]]
    formula: str
    references: ReferenceQuantiles | None
    search: LayerProfile | None
    audit: Audit | None
    validation: Validation | None


_MOST_KEPT = 4
_drawn: list[tuple[_Content, tuple[Plot, ...]]] = []
"""The pictures that this process drew last. A run draws them for its directory, for its page, and for the Hub."""
register(_drawn.clear)


def draw_plots(report: Report) -> tuple[Plot, ...]:
    """Draw `scores.png`, `length.png`, `layers.png`, `search.png`, `groups-{n}.png`, and those of audit and validation.

    Pictures that have nothing to show are left out.

    Equal reports give equal bytes. Texts out of the data are drawn as they are, cut short.
    """
    content = _content(report)
    for known, plots in tuple(_drawn):  # another thread may draw too
        if known == content:
            return plots
    plots = _draw(content)
    _drawn.append((content, plots))
    del _drawn[:-_MOST_KEPT]
    return plots


def _content(report: Report) -> _Content:
    scorer = report.scorer
    layers = scorer.layers if scorer else ()
    return _Content(
        rows=report.rows,
        threshold=report.threshold.value,
        histogram=report.histogram,
        scores=report.score_quantiles,
        by_layer={layer: report.quantiles.get(report.names.layer(layer), {}) for layer in layers},
        length_points=report.length_points,
        groups=report.groups_by_column(),
        formula=scorer.formula if scorer else "larf",
        references=scorer.quantiles if scorer else None,
        search=scorer.search if scorer else None,
        audit=report.audit,
        validation=report.validation,
    )


def _draw(content: _Content) -> tuple[Plot, ...]:
    plots = []
    for name, caption, has_data, draw in _PLOTS:
        if has_data(content):
            with picture() as (figure, axes):
                draw(axes, content)
                figure.legend(loc="outside upper center", ncols=2, fontsize=12, markerscale=1.6)  # hides no data
                plots.append(Plot(name, caption, png_of(figure)))
    for number, (column, groups) in enumerate(content.groups.items()):
        with picture(1.6 + 0.42 * min(len(groups), _GROUPS_SHOWN)) as (figure, axes):
            _draw_groups(axes, column, groups, content)
            plots.append(Plot(f"groups-{number}.png", f"Scores by {column}", png_of(figure)))
    if content.audit is not None:
        plots.append(Plot("audit.png", "Measured damage of rows against their score", draw_audit(content.audit)))
    if content.validation is not None:
        plots += draw_validation(content.validation)
    return tuple(plots)


def draw_search(profile: LayerProfile) -> bytes:
    """PNG of a search for the safety-sensitive layer: kappa by block with its interval, other methods beside it."""
    with picture() as (figure, axes):
        _draw_profile(axes, profile)
        figure.legend(loc="outside upper center", ncols=2, fontsize=12)
        return png_of(figure)


def _draw_scores(axes: Axes, content: _Content) -> None:
    histogram, rows = content.histogram, content.rows
    assert histogram is not None
    edges = _equal_bins(histogram.edges)
    below = np.zeros(len(edges) - 1)
    for label, bins, colour, hatch in (
        (f"kept ({rows.kept:,})", histogram.kept, KEPT, None),
        (f"removed ({rows.removed:,})", histogram.removed, REMOVED, "////"),
    ):
        counts = np.array(bins, dtype=float)
        axes.bar(
            edges[:-1],
            counts,
            np.diff(edges),
            below,
            align="edge",
            color=colour,
            hatch=hatch,
            edgecolor="white" if hatch else colour,
            linewidth=0,
            label=label,
        )
        below += counts
    _draw_references(axes, content, float(below.max()))
    axes.set_ylim(0, 1.05 * float(below.max()))  # the highest bar and the curves end below the edge
    _mark_threshold(axes.axvline, content)
    meaning = MEANINGS[content.formula]
    axes.set_xlabel(f"score (no unit; higher: {meaning})")
    axes.set_ylabel("rows per bin")


def _equal_bins(edges: Sequence[float]) -> NDArray[np.float64]:
    """The edges of a histogram with the first and the last bin as wide as the others.

    Those end at the lowest and the highest score. A narrower bar would look like fewer rows.

    >>> _equal_bins([0.75, 1.0, 2.0, 3.0, 3.125]).tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    equal = np.array(edges)
    if len(equal) > 3:
        width = equal[2] - equal[1]
        equal[0], equal[-1] = equal[1] - width, equal[-2] + width
    return equal


def _draw_references(axes: Axes, content: _Content, height: float) -> None:
    """Where the scorer's reference answers score: two curves of the height of the highest bar."""
    quantiles = content.references
    if quantiles is None:
        return
    sides = (("unsafe", quantiles.unsafe, UNSAFE, "-"), ("safe", quantiles.safe, SAFE, "-."))
    for side, known, colour, style in sides:
        # As many scores as the quantiles tell of, evenly between them; smoothed by Silverman's rule.
        scores = np.interp(np.linspace(0, 1, 200), REFERENCE_LEVELS, known)
        width = max(1.06 * float(scores.std()) * len(scores) ** -0.2, 1e-9)
        places = np.linspace(scores[0] - 2 * width, scores[-1] + 2 * width, 200)
        density = np.exp(-0.5 * ((places[:, None] - scores) / width) ** 2).sum(axis=1)
        curve = density * height / max(float(density.max()), 1e-12)
        axes.plot(places, curve, style, color=colour, linewidth=2, label=f"{side} references (own scale)")


def _draw_length(axes: Axes, content: _Content) -> None:
    assert content.length_points is not None
    _draw_points(axes, content.length_points.kept, "kept", KEPT, "o", 10)
    _draw_points(axes, content.length_points.removed, "removed", REMOVED, "^", 18)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _mark_threshold(axes.axhline, content)
    axes.set_xlabel("length of the answer (characters, logarithmic)")
    axes.set_ylabel("score (no unit)")


def _draw_points(axes: Axes, points: Points, outcome: str, colour: str, shape: str, size: int) -> None:
    label = f"{outcome} ({len(points.score):,} shown)"
    axes.scatter(points.characters, points.score, s=size, c=colour, marker=shape, alpha=0.55, linewidths=0, label=label)


def _mark_threshold(draw: Callable[..., Any], content: _Content) -> bool:
    """Draw the threshold where it is near the scores, and say whether it is."""
    value, scores = content.threshold, content.scores
    if value is None:
        return False
    margin = scores["highest"] - scores["lowest"]
    near = scores["lowest"] - margin <= value <= scores["highest"] + margin  # further off, all scores would be one line
    if near:
        draw(value, color=LINE, linestyle="--", linewidth=1.6, label=f"threshold {signed(value)}")
    return near


def _draw_layers(axes: Axes, content: _Content) -> None:
    drawn = [(layer, points) for layer, points in sorted(content.by_layer.items()) if points]
    for low, high, alpha in (("5%", "95%", 0.18), ("25%", "75%", 0.35)):
        axes.fill_between(
            [layer for layer, _ in drawn],
            [points[low] for _, points in drawn],
            [points[high] for _, points in drawn],
            color=KEPT,
            alpha=alpha,
            linewidth=0,
            label=f"{low} to {high} of the rows",
        )
    axes.plot(
        *zip(*((layer, points["median"]) for layer, points in drawn), strict=True), "o-", color=LINE, label="median"
    )
    axes.set_xticks([layer for layer, _ in drawn])
    axes.set_xlabel("layer (block, counted from 0)")
    axes.set_ylabel("score at that layer (no unit)")


def _draw_search(axes: Axes, content: _Content) -> None:
    assert content.search is not None
    _draw_profile(axes, content.search)


def _draw_profile(axes: Axes, profile: LayerProfile) -> None:
    blocks = np.array([block.block for block in profile.blocks])
    kappa = np.array([block.kappa for block in profile.blocks])
    errors = np.array([(block.kappa - block.low, block.high - block.kappa) for block in profile.blocks]).clip(0)
    best = np.array([block.block == profile.best for block in profile.blocks])
    for shown, colour, shape, label in ((~best, KEPT, "o", "kappa, 95% interval"), (best, REMOVED, "D", "best block")):
        if shown.any():
            axes.errorbar(
                blocks[shown],
                kappa[shown],
                errors[shown].T,
                fmt=shape,
                color=colour,
                capsize=3,
                markersize=6,
                label=label,
            )
    axes.axhline(0, color=LINE, linewidth=1)
    axes.set_xlabel("block that is scaled (counted from 0)")
    axes.set_ylabel(f"kappa (refusals of {profile.prompts}\nper unit of scale)")
    other = axes.twinx()
    other.grid(visible=False)
    other.set_yticks([])
    for (name, values), style in zip(profile.locators.items(), ("--", ":", "-."), strict=False):
        figures = np.array(values)
        scaled = (figures - figures.min()) / max(float(np.ptp(figures)), 1e-12)  # each on a scale of its own
        label = f"{name.partition(' (')[0]}, own scale"
        other.plot(range(len(figures)), scaled, style, color=LINE, linewidth=1.4, alpha=0.7, label=label)
    other.set_ylim(-0.05, 1.05)


def _draw_groups(axes: Axes, column: str, groups: Sequence[Group], content: _Content) -> None:
    shown = groups[:_GROUPS_SHOWN]
    boxes, labels = [], []
    for group in reversed(shown):
        name = "(null)" if group.value is None else visible(group.value, 22)
        labels.append(f"{name}\n{group.rows.total:,} rows, {group.share_removed:.1%} removed")
        points = group.quantiles or [float("nan")] * len(GROUP_LEVELS)
        boxes.append(dict(zip(("whislo", "q1", "med", "q3", "whishi"), points, strict=True)))
    axes.bxp(
        boxes,
        orientation="horizontal",
        showfliers=False,
        patch_artist=True,
        widths=0.6,
        boxprops={"facecolor": KEPT, "alpha": 0.5},
        medianprops={"color": LINE, "linewidth": 2},
    )
    axes.set_yticklabels(labels, fontsize=11)
    dashed = "; dashed: threshold" if _mark_threshold(axes.axvline, content) else ""
    left = f"\n{len(groups) - len(shown)} smaller groups are in the report" if len(groups) > len(shown) else ""
    axes.set_xlabel(f"score by {visible(column, 30)}\nmedian, middle half, 5% to 95%{dashed}{left}", fontsize=12)


def _has_points(content: _Content) -> bool:
    points = content.length_points
    return points is not None and bool(points.kept.score or points.removed.score)


def _has_layers(content: _Content) -> bool:
    return len(content.by_layer) > 1


def _has_search(content: _Content) -> bool:
    return content.search is not None


_PLOTS: tuple[tuple[str, str, Callable[[_Content], bool], Callable[[Axes, _Content], None]], ...] = (
    (
        "scores.png",
        "Histogram of the scores of kept and removed rows, with the threshold, and where the reference answers score",
        lambda content: content.histogram is not None,
        _draw_scores,
    ),
    (
        "length.png",
        "Score against length of the answer, removed rows marked, with the threshold",
        _has_points,
        _draw_length,
    ),
    ("layers.png", "Quantiles of the scores at each layer", _has_layers, _draw_layers),
    (
        "search.png",
        "The search for the layer: how much refusals move when a block is scaled, with 95% intervals",
        _has_search,
        _draw_search,
    ),
)
