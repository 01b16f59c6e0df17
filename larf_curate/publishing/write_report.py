"""Write a report and its plots beside the results of a run."""

from __future__ import annotations

from pathlib import Path

from ..atomic import write_bytes
from ..deciding.results import Results
from ..written import claim, forget_missing, recorded
from .build_report import build_report
from .plots import draw_plots
from .report import REPORT, Report

PLOTS = "plots"


def write_report(directory: str | Path) -> Report:
    """Write `report.json` and the plots in `plots/` beside the results of a run; plots of an earlier report go.

    Raises:
        DataError: there is no finished run.
        OutputError: they cannot be written, or a file that was not written here has one of their names.
    """
    report = build_report(Results.open(directory))
    plots = draw_plots(report)
    home = Path(directory)
    names = {f"{PLOTS}/{plot.name}" for plot in plots}
    claim(home, {REPORT, *names})
    write_bytes(home / REPORT, report.to_json().encode())
    for plot in plots:
        write_bytes(home / PLOTS / plot.name, plot.png)
    for old in recorded(home) - names:
        if Path(old).parent == Path(PLOTS):
            (home / old).unlink(missing_ok=True)
    forget_missing(home)
    return report
