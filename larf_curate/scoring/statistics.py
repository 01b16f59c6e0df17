"""Rank correlations, ratios and differences, each with a 95% interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_Z = 1.959963984540054  # standard normal quantile at 97.5%


@dataclass(frozen=True)
class Estimate:
    """A figure, the ends of its 95% interval, and the number of rows that it was measured on."""

    value: float
    low: float
    high: float
    rows: int


def spearman(x: Array, y: Array, weights: Array | None = None) -> Estimate | None:
    """Spearman's rank correlation, with equal values at their mean rank; rows may have weights (a stratified sample).

    The interval is Bonett and Wright's (Psychometrika 65, 2000) on Fisher's z: its standard error is
    sqrt((1 + r^2 / 2) / (n - 3)), n being Kish's effective number of rows, sum(w)^2 / sum(w^2).

    Args:
        x, y: float64 [n].
        weights: float64 [n], positive: how many rows each one stands for.

    Returns:
        None if there are fewer than 10 rows, or one side is constant.

    >>> import numpy as np
    >>> spearman(np.arange(12.0), np.arange(12.0) ** 2).value
    1.0
    """
    w = np.ones(len(x)) if weights is None else weights
    if len(x) < 10:
        return None
    ranks = [_midranks(values, w) for values in (x, y)]
    centred = [rank - np.average(rank, weights=w) for rank in ranks]
    spread = math.sqrt(float((w * centred[0] ** 2).sum()) * float((w * centred[1] ** 2).sum()))
    if not spread:
        return None
    value = min(1.0, max(-1.0, float((w * centred[0] * centred[1]).sum()) / spread))
    effective = float(w.sum() ** 2 / (w**2).sum())
    if effective <= 4:
        return None
    z = math.atanh(min(max(value, -0.999999), 0.999999))
    width = _Z * math.sqrt((1 + value**2 / 2) / (effective - 3))
    return Estimate(value, math.tanh(z - width), math.tanh(z + width), len(x))


def _midranks(values: Array, weights: Array) -> Array:
    """Weighted ranks; equal values get their mean rank."""
    _, group = np.unique(values, return_inverse=True)
    total = np.bincount(group, weights=weights)
    ranks: Array = (np.cumsum(total) - total / 2)[group]
    return ranks


def ratio_of_means(a: Array, b: Array) -> Estimate | None:
    """The geometric mean of `a` divided by that of `b`, with Welch's interval on the logarithms (normal quantile).

    Lengths are skewed: their logarithms are not, and a single row of a megabyte does not decide the figure.

    Args:
        a, b: positive, [any number of rows].

    Returns:
        None if either side has fewer than 5 rows.
    """
    if min(len(a), len(b)) < 5:
        return None
    logs = [np.log(values) for values in (a, b)]
    difference = float(logs[0].mean() - logs[1].mean())
    width = _Z * math.sqrt(sum(float(values.var(ddof=1)) / len(values) for values in logs))
    return Estimate(math.exp(difference), math.exp(difference - width), math.exp(difference + width), len(a) + len(b))


def difference_of_shares(a: Array, b: Array) -> Estimate | None:
    """Share of ones in `a` less that in `b`, with Newcombe's hybrid interval (Statistics in Medicine 17, 1998).

    Args:
        a, b: 0 or 1, [any number of rows].

    Returns:
        None if either side has fewer than 5 rows.
    """
    if min(len(a), len(b)) < 5:
        return None
    (p, p_low, p_high), (q, q_low, q_high) = (_share(values) for values in (a, b))
    low = (p - q) - math.hypot(p - p_low, q_high - q)
    high = (p - q) + math.hypot(p_high - p, q - q_low)
    return Estimate(p - q, low, high, len(a) + len(b))


def _share(values: Array) -> tuple[float, float, float]:
    share = float(values.mean())
    return share, *wilson_interval(share, len(values))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The ends of the 95% Wilson interval of a share.

    Args:
        share: 0 to 1.
        count: how many values it is a share of.

    >>> [round(end, 3) for end in wilson_interval(0.5, 10)]
    [0.237, 0.763]
    """
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    width = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count * count)) / (1 + _Z**2 / count)
    return centre - width, centre + width
