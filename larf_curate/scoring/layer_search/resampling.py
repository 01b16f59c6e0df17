"""What the answers of a layer search say of each block: kappa, its interval, a test against chance.

See `profile` for the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .elimination import look_sizes
from .profile import BlockProfile, Decisions, amplitudes, deciding_amplitudes

_RESAMPLES = 2_000
_ERROR = 0.05  # of an interval
_SIGNIFICANT = 0.05


def analyse(
    decisions: Decisions, scales: Sequence[float], blocks: Sequence[int], seed: int = 0
) -> tuple[tuple[BlockProfile, ...], float, int | None]:
    """Profiles of the blocks, the p-value of the highest kappa, and the block that has it, if it stands out.

    Intervals are percentiles of a paired bootstrap over prompts: every block and scale sees the same resampled prompts.
    A block that was asked a part of the prompts is resampled on that part, and counted as if all had been asked: its
    interval is wider. It is wider still since any of the looks may have been its last one: its level is divided
    among them (a union bound).

    The p-value comes from a permutation test. If scaling has no effect on refusals, the decisions at 1 + a and at 1 - a
    can be exchanged for any prompt (in all blocks at once, since they answer the same prompts). The highest kappa of
    all blocks is compared with the highest after such exchanges, which corrects for testing many blocks. Chance moves
    the sum over all prompts as far as it moves that over a part, times the root of how many times more they are.

    Args:
        decisions: [blocks, scales, prompts], 1 where refused, 0 where not, -1 where not asked.
        scales: the scales of the second axis.
        blocks: numbers of the first axis.
        seed: the seed of the resampling.
    """
    draw = np.random.default_rng(seed)
    sizes, small = amplitudes(scales), deciding_amplitudes(scales)
    order = [round(scale - 1, 6) for scale in scales]
    down, up = (decisions[:, [order.index(sign * a) for a in sizes]] for sign in (-1, 1))
    asked = (down >= 0) & (up >= 0)  # [blocks, amplitudes, prompts]
    moved = np.where(asked, up - down, 0).astype(np.float64)  # 1 if refused at 1 + a only, -1 if at 1 - a only, else 0
    prompts = decisions.shape[2]
    counts = asked[:, [sizes.index(a) for a in small]]
    figures = moved[:, [sizes.index(a) for a in small]] / np.array(small)[:, None]
    numbers = counts.sum(axis=2)  # [blocks, small amplitudes]

    complete = numbers == prompts
    kappa = _kappas(np.ones((1, prompts)), counts, figures)[0]
    drawn = _kappas(_resamples(draw, prompts), counts, figures)
    top = int(np.argmax(np.where(complete, figures.sum(axis=2), -np.inf).max(axis=1)))
    signs = draw.choice((-1.0, 1.0), size=(_RESAMPLES, prompts))
    by_chance = np.einsum("np,bap->nba", signs, figures, optimize=True) * np.sqrt(prompts / numbers)
    p_value = float((1 + (by_chance.max(axis=(1, 2)) >= kappa[top] - 1e-9).sum()) / (1 + _RESAMPLES))
    is_highest = drawn >= drawn.max(axis=1, keepdims=True) - 1e-9
    first = (is_highest / is_highest.sum(axis=1, keepdims=True)).mean(axis=0)  # blocks that tie share the place
    partly = ~complete.all(axis=1)
    if partly.any():
        # A part in which no prompt moved does not say that none does: two more prompts, one that moved up, one down.
        unseen = np.repeat(~complete[:, :, None], 2, axis=2)
        counts = np.concatenate([counts, unseen], axis=2)
        figures = np.concatenate([figures, unseen * [1.0, -1.0] / np.array(small)[:, None]], axis=2)
        wider = _kappas(_resamples(draw, prompts + 2), counts, figures, prompts)
    looks = max(1, len(look_sizes(prompts)) - 1)
    low, high, least_lead = np.empty((3, len(blocks)))
    for at in range(len(blocks)):
        level, values = (_ERROR / looks, wider[:, at]) if partly[at] else (_ERROR, drawn[:, at])
        low[at], high[at] = np.quantile(values, (level / 2, 1 - level / 2))
        least_lead[at] = np.quantile(drawn[:, top] - drawn[:, at], level)  # of the best block over this one
    deltas = moved.sum(axis=2).astype(int)
    profiles = tuple(
        BlockProfile(
            block=int(block),
            refusals={f"{scale:g}": int((decisions[at, number] == 1).sum()) for number, scale in enumerate(scales)},
            asked={f"{scale:g}": int((decisions[at, number] >= 0).sum()) for number, scale in enumerate(scales)},
            delta={f"{a:g}": int(deltas[at, number]) for number, a in enumerate(sizes) if asked[at, number].any()},
            kappa=float(kappa[at]),
            low=float(low[at]),
            high=float(high[at]),
            first=float(first[at]),
            apart=bool(least_lead[at] > 0),
        )
        for at, block in enumerate(blocks)
    )
    stands_out = kappa[top] > 0 and p_value < _SIGNIFICANT
    return profiles, p_value, int(blocks[top]) if stands_out else None


def _resamples(draw: np.random.Generator, prompts: int) -> NDArray[np.float64]:
    """How often each prompt comes in each of many resampled prompt sets, [resamples, prompts]."""
    return draw.multinomial(prompts, np.full(prompts, 1 / prompts), size=_RESAMPLES).astype(np.float64)


def _kappas(
    weights: NDArray[Any], asked: NDArray[np.bool_], figures: NDArray[np.float64], prompts: int | None = None
) -> NDArray[np.float64]:
    """Kappa of each block, as if all prompts had been asked, [resamples, blocks].

    Args:
        weights: the weights of the prompts, [resamples, prompts].
        asked: [blocks, amplitudes, prompts].
        figures: what each prompt adds to kappa, in the same shape; 0 where it was not asked.
        prompts: how many all are; as many as there are weights if not given.
    """
    sums = np.einsum("np,bap->nba", weights, figures, optimize=True)
    if not asked.all():
        weight = np.einsum("np,bap->nba", weights, asked.astype(np.float64), optimize=True)
        sums *= (prompts or weights.shape[1]) / weight.clip(1)
    return np.asarray(sums.max(axis=2))
