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
from ..deciding.filtering import STANDARD_INPUT
from ..deciding.ranking import quantiles
from ..deciding.results import Results
from ..inert import visible
from ..scoring.excerpts import signed
from ..written import claim_file
from .build_report import build_report
from .excerpts import highest_rows, own_columns
from .plots import draw_plots
from .report import Report
from .rerun import command_for
from .validation_words import validation_in_words
from .words import dataset_name, describe_run

_REMOVED, _KEPT, _UNSCORABLE = 2_000, 500, 200  # rows shown at most
_MAX_CHARACTERS, _MAX_CELL = 1_000, 120  # of a text of the conversation, and of a value of another column
_MOST_COLUMNS = 12  # of the user's own
_STOPS = 400  # of the slider, about
_MOST_DIGITS = 10  # of a threshold that is shown with fewer digits than it has
_NEAR = 0.05  # of the middle nine tenths of the scores: a kept row that close to the threshold is just under it


@dataclass(frozen=True)
class Slider:
    """The thresholds that the page's slider can stand at, and what each would do.

    Attributes:
        scores: [stops], ascending; empty if there is nothing to choose from.
        removed: [stops], rows that score above each.
        unsafe_above: [stops], share of the unsafe references that score above each; empty if they are not known.
        now: the stop of the threshold that was used.
        scored: rows that have a score.
        near: how far below the threshold a kept row may score to be just under it.
        digits: after the decimal point, with which every score is told apart from the next stop.
        command: that runs with another threshold, up to its value; empty where nothing says what was split.
        unchanged: the whole command that removes what was removed, where no threshold does: rows tie with the last one
            to go, and some of them stay. Empty else.
    """

    scores: tuple[float, ...] = ()
    removed: tuple[int, ...] = ()
    unsafe_above: tuple[float, ...] = ()
    now: int = 0
    scored: int = 0
    near: float = 0.0
    digits: int = 5
    command: str = ""
    unchanged: str = ""


def write_page(directory: str | Path, out: str | Path, report: Report | None = None) -> None:
    """Write one HTML file: figures, plots, the removed rows and the highest that stayed, and a slider that shows how
    many rows another threshold would remove.

    Args:
        directory: the directory of the run.
        out: the file.
        report: the report of the run, if it has been built already.

    Raises:
        DataError: there is no finished run. OutputError: `out` cannot be written, or is a file of somebody else.
    """
    results = Results.open(directory)
    claim_file(Path(out), _is_page)
    write_bytes(Path(out), render_page(results, report or build_report(results)).encode())


def _is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<title>What larf-curate removed" in file.read(1024)
    except OSError:
        return False


def render_page(results: Results, report: Report) -> str:
    """The page's text.

    Raises:
        DataError: a file cannot be read.
    """
    columns = own_columns(results)[:_MOST_COLUMNS]
    groups = report.groups_by_column()
    rows = [
        *highest_rows(results, "removed", _REMOVED, columns),
        *highest_rows(results, "kept", _KEPT, columns),
        *highest_rows(results, "unscorable", _UNSCORABLE, columns),
    ]
    slider = _slider(results, report)
    return _template().render(
        script=Markup(_resource("page.js")),  # noqa: S704 - not from the data
        source=_source(results, report),
        facts=[(name, visible(value, 1000)) for name, value in describe_run(report)],
        groups=groups,
        validation=validation_in_words(report.validation),
        plots=[(plot.caption, base64.b64encode(plot.png).decode()) for plot in draw_plots(report)],
        which_rows=_which_rows(report),
        rows=rows,
        in_parts=any(row.place for row in rows),
        columns=[(name, name in groups) for name in columns],
        max_characters=_MAX_CHARACTERS,
        max_cell=_MAX_CELL,
        slider=slider,
        slider_fields=asdict(slider),
        on_standard_input=results.summary.filtered is not None and results.summary.filtered.source == STANDARD_INPUT,
    )


def _source(results: Results, report: Report) -> str | None:
    """The name of the dataset; None where nobody knows it."""
    filtered = results.summary.filtered
    if report.source is not None:
        return visible(dataset_name(report.source.name), 100)
    return visible(dataset_name(filtered.source), 100) if filtered and filtered.source != STANDARD_INPUT else None


def _which_rows(report: Report) -> str:
    """Which rows the page shows, in a sentence."""
    rows = report.rows
    removed, kept = _how_many(rows.removed, _REMOVED, "removed"), _how_many(rows.kept, _KEPT, "kept")
    unscorable = min(_UNSCORABLE, rows.unscorable)
    shown = f"{removed}, then {kept}" + (f", then {unscorable:,} that have no score" if unscorable else "")
    return f"{shown[:1].upper()}{shown[1:]}."


def _how_many(rows: int, limit: int, outcome: str) -> str:
    """How many rows of an outcome are shown."""
    if rows > limit:
        return f"the {limit:,} highest of {rows:,} {outcome} rows"
    return f"all {rows:,} {outcome} rows" if rows else f"no {outcome} row"


def _slider(results: Results, report: Report) -> Slider:
    """Where the slider can stand, and how many rows score above each stop: exactly, over all rows."""
    threshold, spread = report.threshold.value, report.score_quantiles
    if report.histogram is None or threshold is None:
        return Slider()
    middle = spread["95%"] - spread["5%"] or spread["highest"] - spread["lowest"] or 1.0
    digits = int(np.clip(3 - np.floor(np.log10(middle)), 2, 9))
    # The histogram's edges reach every score; quantiles are close together where the rows are. All are rounded, so that
    # a threshold that is copied from the page removes as many rows as the page says.
    near = quantiles(results.values(results.names.score), list(np.linspace(0.5, 1, _STOPS // 2)))
    stops = np.round(np.concatenate([report.histogram.edges, near]), digits)
    # The threshold itself with as few digits as remove the same rows: a command is copied, and read.
    shorter = [round(threshold, more) for more in range(digits, _MOST_DIGITS)]
    scores = np.unique(np.concatenate([stops, shorter, [threshold]]))
    counts = np.zeros(len(scores) + 1, np.int64)
    for chunk in results.values(results.names.score)():
        counts += np.bincount(np.searchsorted(scores, chunk[~np.isnan(chunk)]), minlength=len(scores) + 1)
    above = counts.sum() - np.cumsum(counts)[:-1]
    removed = report.threshold.removed
    same = (one for one in shorter if above[np.searchsorted(scores, one)] == removed)
    chosen = next(same, threshold)
    wanted = np.isin(scores, stops) | (scores == chosen)
    scores, above = scores[wanted], above[wanted]
    now = int(np.searchsorted(scores, chosen))
    unchanged = ""
    if removed is not None and above[now] != removed:
        above[now] = removed
        command = command_for(results, "drop_top")
        unchanged = f"{command}{removed}" if command else ""
    unsafe = report.scorer.quantiles if report.scorer else None
    return Slider(
        scores=tuple(scores.tolist()),
        removed=tuple(above.tolist()),
        unsafe_above=tuple(1 - unsafe.unsafe_below(score) for score in scores) if unsafe else (),
        now=now,
        scored=report.rows.scored,
        near=_NEAR * middle,
        digits=digits,
        command=command_for(results, "max_score"),
        unchanged=unchanged,
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": lambda text, width: visible(text, width, lines=True), "signed": signed}
    return environment.from_string(_resource("page.html.jinja"))
