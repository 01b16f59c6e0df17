"""Write a report and its plots beside the results of a run."""

from __future__ import annotations

from pathlib import Path

from ..atomic import write_bytes
from .build_report import build_report
from .plots import draw_plots
from .report import REPORT, Report
from .results import Results

PLOTS = "plots"


def write_report(directory: str | Path) -> Report:
    """Write `report.json` and the plots in `plots/` beside the results of a run; plots that it no longer has go.

    Raises:
        DataError: there is no finished run. OutputError: they cannot be written.
    """
    report = build_report(Results.open(directory))
    plots = draw_plots(report)
    home = Path(directory)
    write_bytes(home / REPORT, report.to_json().encode())
    for plot in plots:
        write_bytes(home / PLOTS / plot.name, plot.png)
    for old in (home / PLOTS).glob("*.png"):
        if old.name not in {plot.name for plot in plots}:
            old.unlink()
    return report
