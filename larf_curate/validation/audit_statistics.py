"""Rank correlations with bootstrap intervals, and shares with theirs: the statistics of an audit, as pure array maths.

A resample of n rows is held as how often it has each row, int [n]: ranks and correlations of all resamples are then a
few operations on arrays [resamples, n].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..cache import register
from ..scoring.statistics import wilson_interval

Array = NDArray[np.float64]

RESAMPLES = 2_000
_LEVELS = (2.5, 97.5)  # percentiles: a 95% interval
_CELLS = 60_000  # resamples x rows at work at a time: they fit in a core's cache, which halves the time
_MOST_KEPT = 4_000_000  # resamples x rows that are kept between correlations


@dataclass(frozen=True)
class Statistic:
    """A figure, and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high

    def __str__(self) -> str:
        """As text: `0.02 [-0.09, 0.13]`.

        >>> print(Statistic(0.021, -0.0901, 0.1299))
        0.02 [-0.09, 0.13]
        """
        return f"{_text(self.value)} [{_text(self.low)}, {_text(self.high)}]"


def _text(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def midranks(values: Array, counts: NDArray[np.integer]) -> Array:
    """The ranks of the rows in each resample, equal values at their mean rank: float64 [resamples, n].

    Args:
        values: float64 [n].
        counts: [resamples, n], how often each resample has each row. Rows that it lacks have a rank too, which means
            nothing.

    >>> midranks(np.array([5.0, 7.0, 5.0]), np.array([[1, 1, 1], [2, 1, 0]])).tolist()
    [[1.5, 3.0, 1.5], [1.5, 3.0, 1.5]]
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) != 0]))
    in_group = np.add.reduceat(counts[:, order], starts, axis=1)
    ranks = np.cumsum(in_group, axis=1) - (in_group - 1) / 2
    group = np.empty(len(values), np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(values)]))
    result: Array = ranks[:, group]
    return result


def spearman(x: Array, y: Array, controls: Sequence[Array] = (), *, seed: int = 0) -> Statistic | None:
    """Spearman's rank correlation, of all variables or with the ranks of some taken out, with a bootstrap interval.

    With controls it is the partial rank correlation: the correlation of what is left of the ranks of `x` and `y` after
    a linear fit on the ranks of the controls. The interval is the percentile bootstrap's, over rows.

    Args:
        x, y: float64 [n], finite.
        controls: variables to take out, [n] each. One that is constant takes nothing out.
        seed: the seed of the resamples.

    Returns:
        None where it is not defined: `x` or `y` is constant, or the controls explain all of it.

    >>> rows = np.arange(30.0)
    >>> spearman(rows, rows**2).value
    1.0
    """
    count = len(x)
    own = np.ones((1, count), np.int64)
    value = _correlations([x, y, *controls], own)[0]
    if math.isnan(value):
        return None
    few = RESAMPLES * count <= _MOST_KEPT
    resamples = (_kept_resamples if few else _resamples)(count, RESAMPLES, seed)
    correlations = [_correlations([x, y, *controls], counts) for counts in resamples]
    # A resample that leaves nothing to compare shows no correlation. Left out, a score that differs in one row alone
    # would seem to tell: the row is in every resample that is left.
    low, high = np.percentile(np.nan_to_num(np.concatenate(correlations)), _LEVELS)
    return Statistic(float(value), float(low), float(high))


def _resamples(rows: int, count: int, seed: int) -> Iterable[NDArray[np.integer]]:
    """How often each of `count` resamples has each row: [resamples, rows], as many at a time as `_CELLS` allows."""
    generator = np.random.default_rng(seed)
    for start in range(0, count, size := max(1, _CELLS // rows)):
        yield generator.multinomial(rows, np.full(rows, 1 / rows), size=min(size, count - start))


@lru_cache(maxsize=1)
def _kept_resamples(rows: int, count: int, seed: int) -> list[NDArray[np.integer]]:
    """The same, for all correlations of an audit: they are of the same rows, and drawn by the same seed."""
    return [counts.astype(np.int32) for counts in _resamples(rows, count, seed)]


register(_kept_resamples.cache_clear)


def by_chance(y: Array, controls: Sequence[Array] = (), *, seed: int = 0) -> Statistic | None:
    """The rank correlation that random scores have: its mean, and the range in which 95% of them lie.

    Args:
        y: float64 [n], finite.
        controls: as for `spearman`.
        seed: the seed of the random scores.

    Returns:
        None where it is not defined: `y` is constant, or the controls explain all of it.

    >>> by_chance(np.arange(400.0)).high < 0.12
    True
    """
    count = len(y)
    once = np.ones((1, count), np.int64)
    target, *others = (midranks(values, once)[0] for values in (y, *controls))
    taken_out = np.linalg.svd(np.stack([np.ones(count), *others], axis=1), full_matrices=False)
    basis = taken_out.U[:, 1e-9 * taken_out.S[0] < taken_out.S]
    left = target - basis @ (basis.T @ target)
    if np.linalg.norm(left) < 1e-6 * np.linalg.norm(target):
        return None
    left /= np.linalg.norm(left)
    generator = np.random.default_rng(seed)
    chunks = []
    for start in range(0, RESAMPLES, size := max(1, _CELLS // count)):
        ranks = np.tile(np.arange(count, dtype=np.float64), (min(size, RESAMPLES - start), 1))
        ranks = generator.permuted(ranks, axis=1)
        ranks -= ranks @ basis @ basis.T
        chunks.append(ranks @ left / np.linalg.norm(ranks, axis=1))
    correlations = np.concatenate(chunks)
    low, high = np.percentile(correlations, _LEVELS)
    return Statistic(float(correlations.mean()), float(low), float(high))


def _correlations(variables: Sequence[Array], counts: NDArray[np.integer]) -> Array:
    """Of the first two variables, given the others; float64 [resamples], NaN where it is not defined."""
    rows = counts.sum(axis=1, keepdims=True)
    centred = []
    for values in variables:
        ranks = midranks(values, counts)
        centred.append(ranks - (counts * ranks).sum(axis=1, keepdims=True) / rows)
    stacked = np.stack(centred)  # [variables, resamples, n]
    products = np.einsum("bn,kbn,lbn->bkl", counts.astype(np.float64), stacked, stacked, optimize=True)
    spread = np.sqrt(np.einsum("bkk->bk", products))
    spread[spread < 1e-9] = np.nan
    matrix = products / (spread[:, :, None] * spread[:, None, :])
    plain = matrix[:, 0, 1]
    if len(variables) == 2:
        return _clipped(plain)
    among = np.nan_to_num(matrix[:, 2:, 2:])
    with_controls = np.nan_to_num(matrix[:, :2, 2:])
    solved = with_controls @ np.linalg.pinv(among, hermitian=True)
    explained = solved @ with_controls.swapaxes(1, 2)  # [resamples, 2, 2]
    left = np.sqrt(np.clip(1 - explained[:, 0, 0], 0, None) * np.clip(1 - explained[:, 1, 1], 0, None))
    left[left < 1e-6] = np.nan
    return _clipped((plain - explained[:, 0, 1]) / left)


def _clipped(values: Array) -> Array:
    clipped: Array = np.clip(values, -1, 1)
    return clipped


def share(part: int, whole: int) -> Statistic:
    """A share with its Wilson interval.

    >>> print(share(0, 50))
    0.00 [0.00, 0.07]
    """
    low, high = wilson_interval(part / whole, whole)
    return Statistic(part / whole, max(0.0, low), min(1.0, high))


def highest_tenth(values: Array) -> NDArray[np.bool_]:
    """Which rows are the tenth with the highest values, at least one: bool [n]."""
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(-values, kind="stable")[: max(1, round(len(values) / 10))]] = True
    return chosen


def spread_sample(scores: Array, count: int, seed: int = 0) -> NDArray[np.int64]:
    """Places of `count` rows spread evenly over the ranks of their scores; ascending.

    The ranking is cut into `count` parts of equal size, and one row is drawn from each: the sample has the scores'
    distribution more closely than a plain draw, and each row is as likely to be in it as any other.

    Args:
        scores: float64 [n], NaN for none. Rows without a score are never drawn.
        count: all scored rows are taken if there are no more than this.
        seed: the seed of the draw.
    """
    scored = np.flatnonzero(~np.isnan(scores))
    if len(scored) <= count:
        return scored
    ranking = scored[np.argsort(scores[scored], kind="stable")]
    edges = np.arange(count + 1) * len(ranking) // count
    return np.sort(ranking[np.random.default_rng(seed).integers(edges[:-1], edges[1:])])
