"""The quantiles that summaries and reports name, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .ranking import Chunks, quantiles

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


def named_quantiles(chunks: Chunks, names: Iterable[str] = LEVELS) -> dict[str, float]:
    """Exact quantiles of some scores by their name; empty where no row has a score.

    Args:
        chunks: see `Chunks`; NaN means no score.
        names: keys of `LEVELS`.

    Raises:
        DataError: two passes saw other scores.

    >>> import numpy as np
    >>> named_quantiles(lambda: [np.array([0.1, 0.3, np.nan, 0.2])], ["lowest", "median"])
    {'lowest': 0.1, 'median': 0.2}
    """
    chosen = list(names)
    values = quantiles(chunks, [LEVELS[name] for name in chosen])
    return dict(zip(chosen, map(float, values), strict=True)) if len(values) else {}
