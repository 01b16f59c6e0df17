"""Pictures of a report: legible at the width of a card and of a phone, on light pages and on dark ones."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..inert import visible
from ..scoring.columns import SCORE, layer_column
from ..scoring.layer_search.profile import LayerProfile
from .report import Report
from .words import groups_by_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; the shapes differ too.
KEPT, REMOVED, LINE = "#0072B2", "#D55E00", "#333333"
_GROUPS_SHOWN = 12
_STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs, and bytes, everywhere
    "font.size": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",  # not transparent: dark pages would swallow the labels
    "text.parse_math": False,  # a dollar in a name is a dollar
}
_SCORE_LABEL = "score (no unit; higher is closer to the unsafe references)"


def draw_plots(report: Report) -> dict[str, bytes]:
    """PNG files by name: `scores.png`, `length.png`, `layers.png`, `groups-{n}.png`, where they have something to show.

    Equal reports give equal bytes. Texts out of the data are drawn as they are, cut short.
    """
    pictures: dict[str, Callable[[Axes, Report], None]] = {}
    if report.histogram:
        pictures["scores.png"] = _scores
    if report.dots.get("kept", {}).get("score") or report.dots.get("removed", {}).get("score"):
        pictures["length.png"] = _length
    if len((report.scorer or {}).get("layers", [])) > 1:
        pictures["layers.png"] = _layers
    if (report.scorer or {}).get("search"):
        pictures["search.png"] = _search
    found = {}
    for name, draw in pictures.items():
        with _picture() as (figure, axes):
            draw(axes, report)
            figure.legend(loc="outside upper center", ncols=2, fontsize=12, markerscale=1.6)  # hides no data
            found[name] = _png(figure)
    for number, (column, groups) in enumerate(groups_by_column(report).items()):
        with _picture(1.6 + 0.42 * min(len(groups), _GROUPS_SHOWN)) as (figure, axes):
            _groups(axes, column, groups, report)
            found[f"groups-{number}.png"] = _png(figure)
    return found


def draw_search(profile: LayerProfile) -> bytes:
    """PNG of a search for the safety-sensitive layer: kappa by block with its interval, other methods beside it."""
    with _picture() as (figure, axes):
        _profile(axes, profile)
        figure.legend(loc="outside upper center", ncols=2, fontsize=12)
        return _png(figure)


@contextmanager
def _picture(height: float = 4.2) -> Iterator[tuple[Figure, Axes]]:
    """A figure of its own: pyplot would keep it, and the user's style would change it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(6.4, height), dpi=150, layout="constrained")
        yield figure, figure.subplots()


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    out = io.BytesIO()
    warnings.filterwarnings("ignore", "Glyph")  # a name in a script that the font lacks shows as boxes
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(out, metadata={"Software": None})  # print_figure would lay it out once more
    return out.getvalue()


def _scores(axes: Axes, report: Report) -> None:
    edges = np.array(report.histogram["edges"])
    below = np.zeros(len(edges) - 1)
    for outcome, colour, hatch in (("kept", KEPT, None), ("removed", REMOVED, "////")):
        counts = np.array(report.histogram[outcome], dtype=float)
        label = f"{outcome} ({report.rows[outcome]:,})"
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
    _mark_threshold(axes.axvline, report)
    axes.set_xlabel(_SCORE_LABEL)
    axes.set_ylabel("rows per bin")


def _length(axes: Axes, report: Report) -> None:
    for outcome, colour, shape, size in (("kept", KEPT, "o", 10), ("removed", REMOVED, "^", 18)):
        dots = report.dots[outcome]
        label = f"{outcome} ({len(dots['score']):,} shown)"
        axes.scatter(
            dots["characters"], dots["score"], s=size, c=colour, marker=shape, alpha=0.55, linewidths=0, label=label
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _mark_threshold(axes.axhline, report)
    axes.set_xlabel("length of the answer (characters, logarithmic)")
    axes.set_ylabel("score (no unit)")


def _mark_threshold(draw: Callable[..., Any], report: Report) -> None:
    value = (report.threshold or {}).get("value")
    scores = report.quantiles[SCORE]
    if value is None:
        return
    reach = scores["highest"] - scores["lowest"]
    if scores["lowest"] - reach <= value <= scores["highest"] + reach:  # further off, all scores would be one line
        draw(value, color=LINE, linestyle="--", linewidth=1.6, label=f"threshold {value:+.4f}")


def _layers(axes: Axes, report: Report) -> None:
    assert report.scorer is not None
    layers = sorted(report.scorer["layers"])
    found = [report.quantiles.get(layer_column(layer), {}) for layer in layers]
    drawn = [(layer, points) for layer, points in zip(layers, found, strict=True) if points]
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


def _search(axes: Axes, report: Report) -> None:
    assert report.scorer is not None
    _profile(axes, LayerProfile.of(report.scorer["search"]))


def _profile(axes: Axes, profile: LayerProfile) -> None:
    blocks = [found.block for found in profile.blocks]
    kappa = np.array([found.kappa for found in profile.blocks])
    reach = np.array([(found.kappa - found.low, found.high - found.kappa) for found in profile.blocks]).clip(0)
    chosen = [block == profile.best for block in blocks]
    for mine, colour, shape, label in ((False, KEPT, "o", "kappa, 95% interval"), (True, REMOVED, "D", "best block")):
        at = np.array([one == mine for one in chosen])
        if at.any():
            axes.errorbar(
                np.array(blocks)[at],
                kappa[at],
                reach[at].T,
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
        shown = (figures - figures.min()) / max(float(np.ptp(figures)), 1e-12)  # each on a scale of its own
        label = f"{name.partition(' (')[0]}, own scale"
        other.plot(range(len(figures)), shown, style, color=LINE, linewidth=1.4, alpha=0.7, label=label)
    other.set_ylim(-0.05, 1.05)


def _groups(axes: Axes, column: str, groups: list[dict[str, Any]], report: Report) -> None:
    shown = groups[:_GROUPS_SHOWN]
    boxes, labels = [], []
    for group in reversed(shown):
        rows = sum(group["rows"].values())
        share = group["rows"]["removed"] / rows
        name = "(null)" if group["value"] is None else visible(group["value"], 22)
        labels.append(f"{name}\n{rows:,} rows, {share:.1%} removed")
        points = group["quantiles"] or [float("nan")] * 5
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
    _mark_threshold(axes.axvline, report)
    left = f"\n{len(groups) - len(shown)} smaller groups are in the report" if len(groups) > len(shown) else ""
    axes.set_xlabel(f"score by {visible(column, 30)}\nmedian, middle half, 5% to 95%{left}", fontsize=12)
