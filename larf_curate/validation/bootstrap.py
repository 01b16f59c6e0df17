"""Means over prompts and seeds, with intervals: prompts and seeds are both drawn again.

Drawing three seeds again gives intervals that are far too narrow where seeds differ: their variance comes out as two
thirds of what it is, and three numbers know it badly. Three seeds that differ more than prompts do are held by a "95%"
interval in 75% of all studies. So what a draw of seeds moves a mean by is widened as Student's t has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..cache import register

Values = NDArray[np.float64]
"""[seeds, prompts]: one measured value each, NaN where there is none."""

DRAWS = 2000
_POWER = 0.84
"""Standard errors beyond the interval's end that an effect must have to be found in 80% of such studies."""
_NORMAL = 1.96
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5% quantiles of Student's t, with 1 degree of freedom and more."""


@dataclass(frozen=True)
class Figure:
    """A mean with its 95% interval.

    Attributes:
        value: over all seeds and prompts.
        interval: lowest and highest.
        error: the standard error.
    """

    value: float
    interval: tuple[float, float]
    error: float

    @property
    def is_apart_from_zero(self) -> bool:
        """Whether the interval does not hold 0."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @property
    def detectable(self) -> float:
        """The smallest effect that so many prompts and seeds would have shown four times out of five."""
        return (self.interval[1] - self.interval[0]) / 2 + _POWER * self.error


def figure(values: Sequence[Sequence[float]] | Values, seed: int = 0) -> Figure:
    """The mean of some values and its interval, by drawing seeds and prompts with replacement.

    A prompt is drawn for all seeds alike, since it is the same prompt. What a draw of seeds moves the mean by is
    widened for their number; with one seed the interval knows nothing of how much another seed would change.

    Args:
        values: [seeds, prompts], NaN where there is none.
        seed: the seed of the draws.

    >>> figure([[1.0, 1.0, 1.0]])
    Figure(value=1.0, interval=(1.0, 1.0), error=0.0)
    """
    array = np.asarray(values, np.float64)
    if array.size == 0 or np.isnan(array).all():
        return Figure(float("nan"), (float("nan"), float("nan")), float("nan"))
    seeds, prompts = array.shape
    present = ~np.isnan(array)
    filled = np.where(present, array, 0.0)
    seed_counts, prompt_counts = _drawn(seeds, prompts, DRAWS, seed)
    sums = np.einsum("ds,sp,dp->d", seed_counts, filled, prompt_counts, optimize=True)
    totals = np.einsum("ds,sp,dp->d", seed_counts, present.astype(np.float64), prompt_counts, optimize=True)
    by_seed = filled.sum(1)[present.any(1)] / present.sum(1)[present.any(1)]
    moved = np.zeros(seeds)
    moved[present.any(1)] = by_seed - by_seed.mean()
    some = totals > 0
    means, shifts = sums[some] / totals[some], (seed_counts / seeds @ moved)[some]
    unbiased = np.sqrt(seeds / max(1, seeds - 1))
    ends = np.quantile(means + (unbiased * _student(seeds - 1) / _NORMAL - 1) * shifts, [0.025, 0.975])
    low, high = np.clip(ends, np.nanmin(array), np.nanmax(array))  # a share stays between 0 and 1
    error = (means + (unbiased - 1) * shifts).std()
    return Figure(float(np.nanmean(array)), (float(low), float(high)), float(error))


@lru_cache(maxsize=4)
def _drawn(seeds: int, prompts: int, draws: int, seed: int) -> tuple[Values, Values]:
    """How often each is drawn, [draws, seeds] and [draws, prompts]: a product of counts, instead of copies of values.

    They are kept, since most figures of a validation are of as many seeds and prompts.
    """
    generator = np.random.default_rng(seed)
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), draws)
    of_prompts = generator.multinomial(prompts, np.full(prompts, 1 / prompts), draws)
    return of_seeds.astype(np.float64), of_prompts.astype(np.float64)


register(_drawn.cache_clear)


def _student(degrees: int) -> float:
    """The 97.5% quantile of Student's t; beyond the table by its expansion around the normal one."""
    if degrees < 1:
        return _NORMAL
    if degrees <= len(_STUDENT):
        return _STUDENT[degrees - 1]
    z = _NORMAL
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def difference(values: Values, control: Values, seed: int = 0) -> Figure:
    """The mean of the differences, prompt by prompt and seed by seed.

    >>> difference(np.array([[2.0, 4.0]]), np.array([[1.0, 3.0]])).value
    1.0
    """
    return figure(np.asarray(values, np.float64) - np.asarray(control, np.float64), seed)


def slope(bins: Sequence[Values], seed: int = 0) -> Figure:
    """The change of a value from one bin to the next, by least squares over the bins, with its interval.

    Args:
        bins: the values of each bin, in the order of the bins, [seeds, prompts]; seeds and prompts are the same in all
            bins.
        seed: the seed of the draws.
    """
    places = np.arange(len(bins)) - (len(bins) - 1) / 2
    weights = places / np.square(places).sum()
    return figure(np.tensordot(weights, np.stack([np.asarray(one, np.float64) for one in bins]), axes=1), seed)


def trend_probability(bins: Sequence[Values], seed: int = 0) -> float:
    """How often bins in random order would show a slope as steep as this, or steeper: a permutation test.

    Within each seed the means of the bins change places, so that the test holds whatever seeds and prompts do; with
    five bins and one seed there are 120 orders, and no probability below 1/60 or so can come out.

    >>> trend_probability([np.full((3, 4), float(value)) for value in range(5)]) < 0.01
    True
    """
    means = np.stack([np.nanmean(np.asarray(one, np.float64), axis=1) for one in bins])  # [bins, seeds]
    places = np.arange(len(bins)) - (len(bins) - 1) / 2
    seen = abs(float((places @ means).sum()))
    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permuted(np.tile(np.arange(len(bins)), (DRAWS, 1)), axis=1) for _ in means.T])
    shuffled = np.abs(sum(means[orders[number], number] @ places for number in range(means.shape[1])))
    return float((1 + (shuffled >= seen - 1e-12).sum()) / (1 + DRAWS))
