"""Exact quantiles of the scores of a dataset, by name."""

from __future__ import annotations

from collections.abc import Iterable

from ..scoring.quantile_levels import LEVELS
from .ranking import Chunks, quantiles


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
