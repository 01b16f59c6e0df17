"""One page to look through before anything is published: it needs no network, and nothing in the rows can act in it."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..atomic import write_bytes
from ..deciding.ranking import quantiles
from ..inert import visible
from ..scoring.columns import SCORE
from .build_report import build_report
from .excerpts import highest
from .plots import draw_plots
from .report import Report
from .results import Results
from .words import caption, describe_run, groups_by_column

MOST = {"removed": 2_000, "kept": 500, "unscorable": 200}
LONGEST = 1_000  # characters of a text
_STEPS = 400


def write_page(directory: str | Path, out: str | Path, report: Report | None = None) -> None:
    """The report as one HTML file: figures, plots, the removed rows and those just under the threshold, and a slider
    that tells how many rows another threshold would remove.

    Raises:
        DataError: there is no finished run. OutputError: `out` cannot be written.
    """
    results = Results.open(directory)
    write_bytes(Path(out), render_page(results, report or build_report(results)).encode())


def render_page(results: Results, report: Report) -> str:
    """The page's text."""
    pictures = draw_plots(report)
    groups = groups_by_column(report)
    rows = [row for outcome, most in MOST.items() for row in highest(results, outcome, most)]
    return _template().render(
        library=_library(),
        source=visible(report.source["name"], 200) if report.source else None,
        facts=[(name, visible(value, 1000)) for name, value in describe_run(report)],
        groups=groups,
        plots=[(caption(name, list(groups)), base64.b64encode(data).decode()) for name, data in pictures.items()],
        said=_said(report),
        rows=rows,
        longest=LONGEST,
        stops=_stops(results, report),
    )


def _said(report: Report) -> str:
    shown = {name: min(most, report.rows[name]) for name, most in MOST.items()}
    said = f"The {shown['removed']:,} highest of {report.rows['removed']:,} removed rows"
    said += f", the {shown['kept']:,} highest that stayed"
    return said + (f", and {shown['unscorable']:,} that have no score." if shown["unscorable"] else ".")


def _stops(results: Results, report: Report) -> dict[str, Any]:
    """Where the slider can stand, and how many rows score above each stop: exactly, over all rows."""
    threshold = (report.threshold or {}).get("value")
    if not report.quantiles[SCORE] or threshold is None:
        return {"scores": [], "removed": [], "now": 0, "scored": 0}
    # The histogram's borders reach every score; quantiles are close together where the rows are.
    near = quantiles(results.values(SCORE), list(np.linspace(0.5, 1, _STEPS // 2)))
    scores = np.unique(np.concatenate([report.histogram["edges"], near, [threshold]]))
    counts = np.zeros(len(scores) + 1, np.int64)
    for chunk in results.values(SCORE)():
        counts += np.bincount(np.searchsorted(scores, chunk[~np.isnan(chunk)]), minlength=len(scores) + 1)
    above = counts.sum() - np.cumsum(counts)[:-1]
    now = int(np.searchsorted(scores, threshold))
    above[now] = (report.threshold or {}).get("removed", above[now])  # rows that tie with the last one stay
    return {"scores": scores.tolist(), "removed": above.tolist(), "now": now, "scored": report.rows["scored"]}


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
