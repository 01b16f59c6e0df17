"""Which blocks can still be the first, when only a part of the prompts has been asked: successive elimination.

All prompts are asked in one random order, the same for every block. After a look (a part of that order), an amplitude
of a block is dropped if another one leads it by more than the prompts to come may change. Leads are taken prompt by
prompt, so that what all blocks do to a prompt cancels, and the prompts to come are the only uncertainty: with all of
them asked, the lead is known. The bound on the lead is one-sided and holds for all looks and all leads over one
amplitude at once (a union bound over normal intervals for means of samples without replacement), so that the block that
would be the first with all answers is dropped with at most the given probability.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOOKS = 5
_LEAST = 24  # prompts in a part: with fewer, intervals of means are not what they say


def look_sizes(prompts: int) -> list[int]:
    """How many prompts have been asked at each look; at the last one all.

    >>> look_sizes(128), look_sizes(60), look_sizes(30)
    ([26, 51, 77, 102, 128], [30, 60], [30])
    """
    parts = max(1, min(_LOOKS, prompts // _LEAST))
    return [round(prompts * part / parts) for part in range(1, parts + 1)]


def contenders(figures: NDArray[np.float64], error_rate: float) -> NDArray[np.bool_]:
    """Which rows may still have the highest sum over all prompts.

    Rows with all figures are never dropped: nothing more is asked of them.

    Args:
        figures: [rows, prompts], in the order of asking; NaN where a prompt has not been asked, which are the last ones
            of a row, from one of `look_sizes` on.
        error_rate: probability (0 to 1) with which the row of the highest sum may be dropped; 0 drops none.
    """
    rows, prompts = figures.shape
    asked = (~np.isnan(figures)).sum(axis=1)
    left = np.ones(rows, dtype=bool)
    early = look_sizes(prompts)[:-1]
    if not error_rate or rows < 2 or not early:
        return left
    bound = NormalDist().inv_cdf(1 - error_rate / (len(early) * (rows - 1)))
    for size in early:
        with_it = np.flatnonzero(asked >= size)
        those = np.flatnonzero(asked == size)
        if not len(those) or len(with_it) < 2:
            continue
        seen = figures[with_it, :size]
        mean, covariance = seen.mean(axis=1), np.atleast_2d(np.cov(seen))
        spread: NDArray[Any] = np.diag(covariance)
        variance = (spread[:, None] + spread[None, :] - 2 * covariance).clip(0)  # of row i less row j
        error = np.sqrt(variance / size * (1 - size / prompts))
        lead = mean[:, None] - mean[None, :] - bound * error
        is_ahead = (lead > 1e-9).any(axis=0)
        left[with_it[is_ahead & (asked[with_it] == size)]] = False
    return left
