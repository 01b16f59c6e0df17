"""One page to look through before anything is published: it needs no network, and nothing in the rows can act in it."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from ..atomic import write_bytes
from ..deciding.ranking import quantiles
from ..inert import visible
from ..scoring.columns import SCORE
from ..written import claim
from .build_report import build_report
from .excerpts import highest_rows
from .plots import draw_plots
from .report import Report
from .results import Results
from .words import describe_run

_REMOVED, _KEPT, _UNSCORABLE = 2_000, 500, 200  # rows shown at most
_MAX_CHARACTERS = 1_000  # of a text
_STOPS = 400  # of the slider, about


@dataclass(frozen=True)
class Slider:
    """The thresholds that the page's slider can stand at, and what each would do.

    Attributes:
        scores: [stops], ascending; empty if there is nothing to choose from.
        removed: [stops], rows that score above each.
        now: the stop of the threshold that was used.
        scored: rows that have a score.
    """

    scores: tuple[float, ...] = ()
    removed: tuple[int, ...] = ()
    now: int = 0
    scored: int = 0


def write_page(directory: str | Path, out: str | Path, report: Report | None = None) -> None:
    """Write one HTML file: figures, plots, the removed rows and those just under the threshold, and a slider that shows
    how many rows another threshold would remove.

    Args:
        directory: of the run.
        out: the file.
        report: of the run, if it has been built already.

    Raises:
        DataError: there is no finished run. OutputError: `out` cannot be written.
    """
    results, home = Results.open(directory), Path(directory).resolve()
    target = Path(out).resolve()
    if home in target.parents:  # with its results, it is replaced by those of another threshold
        claim(home, [target.relative_to(home).as_posix()])
    write_bytes(Path(out), render_page(results, report or build_report(results)).encode())


def render_page(results: Results, report: Report) -> str:
    """The page's text.

    Raises:
        DataError: a file cannot be read.
    """
    rows = [
        *highest_rows(results, "removed", _REMOVED),
        *highest_rows(results, "kept", _KEPT),
        *highest_rows(results, "unscorable", _UNSCORABLE),
    ]
    slider = _slider(results, report)
    return _template().render(
        library=_library(),
        source=visible(report.source.name, 200) if report.source else None,
        facts=[(name, visible(value, 1000)) for name, value in describe_run(report)],
        groups=report.groups_by_column(),
        plots=[(plot.caption, base64.b64encode(plot.png).decode()) for plot in draw_plots(report)],
        which_rows=_which_rows(report),
        rows=rows,
        max_characters=_MAX_CHARACTERS,
        slider=slider,
        slider_fields=asdict(slider),
    )


def _which_rows(report: Report) -> str:
    """Which rows the page shows, in a sentence."""
    rows = report.rows
    shown = f"The {min(_REMOVED, rows.removed):,} highest of {rows.removed:,} removed rows"
    shown += f", the {min(_KEPT, rows.kept):,} highest that stayed"
    unscorable = min(_UNSCORABLE, rows.unscorable)
    return shown + (f", and {unscorable:,} that have no score." if unscorable else ".")


def _slider(results: Results, report: Report) -> Slider:
    """Where the slider can stand, and how many rows score above each stop: exactly, over all rows."""
    threshold = report.threshold.value
    if report.histogram is None or threshold is None:
        return Slider()
    # The histogram's edges reach every score; quantiles are close together where the rows are.
    near = quantiles(results.values(SCORE), list(np.linspace(0.5, 1, _STOPS // 2)))
    scores = np.unique(np.concatenate([report.histogram.edges, near, [threshold]]))
    counts = np.zeros(len(scores) + 1, np.int64)
    for chunk in results.values(SCORE)():
        counts += np.bincount(np.searchsorted(scores, chunk[~np.isnan(chunk)]), minlength=len(scores) + 1)
    above = counts.sum() - np.cumsum(counts)[:-1]
    now = int(np.searchsorted(scores, threshold))
    if report.threshold.removed is not None:
        above[now] = report.threshold.removed  # rows that tie with the last one stay
    return Slider(tuple(scores.tolist()), tuple(above.tolist()), now, report.rows.scored)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = lambda text, width: visible(text, width, lines=True)
    return environment.from_string(resources.files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"))


def _library() -> Markup:
    """DataTables with its styles, as the package itables carries it, for a page that may load nothing."""
    bundle = resources.files("itables").joinpath("html")
    code = base64.b64encode(bundle.joinpath("dt_bundle.js").read_bytes()).decode()
    style = bundle.joinpath("dt_bundle.css").read_text(encoding="utf-8").replace("</", "<\\/")
    load = f"""window.larfTable = (async () => {{
  const code = await new Blob([Uint8Array.from(atob("{code}"), (c) => c.charCodeAt(0))], {{type: "text/javascript"}});
  return import(URL.createObjectURL(code));
}})();"""
    return Markup(f"<style>{style}</style>\n<script>{load}</script>")  # noqa: S704 - not from the data
