"""The quantiles that artifacts, summaries and reports hold, in one table."""

from __future__ import annotations

from collections.abc import Mapping

LEVELS: Mapping[str, float] = {
    "lowest": 0.0,
    "1%": 0.01,
    "5%": 0.05,
    "25%": 0.25,
    "median": 0.5,
    "75%": 0.75,
    "95%": 0.95,
    "99%": 0.99,
    "highest": 1.0,
}
"""Every quantile that is shown anywhere, by its name: the share of the scores below it, 0 to 1."""
SUMMARY_LEVELS = ("lowest", "5%", "25%", "median", "75%", "95%", "highest")
"""Those of a run's summary, which has to fit a terminal."""
GROUP_LEVELS = ("5%", "25%", "median", "75%", "95%")
"""Those of a group of rows in a report; the extremes of a small group say little."""
REFERENCE_LEVELS: tuple[float, ...] = tuple(step / 20 for step in range(21))
"""Those of the references in a fitted scorer, as shares: close enough to draw their curve, and to place a row in it."""
