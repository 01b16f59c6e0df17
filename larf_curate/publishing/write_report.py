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
    """Put `report.json` and the pictures in `plots/` beside the results of a run.

    Raises:
        DataError: there is no finished run. OutputError: they cannot be written.
    """
    report = build_report(Results.open(directory))
    pictures = draw_plots(report)
    home = Path(directory)
    write_bytes(home / REPORT, report.to_json().encode())
    for name, picture in pictures.items():
        write_bytes(home / PLOTS / name, picture)
    for stale in (home / PLOTS).glob("*.png"):
        if stale.name not in pictures:
            stale.unlink()
    return report
