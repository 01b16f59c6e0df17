"""The arms of a validation: which rows each of them trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .limits import LEAST_ROWS_OF_ARM
from .matching import match_rows
from .scored_rows import ScoredRows
from .words import BINS, REMEDIES, UNTRAINED

Ints = NDArray[np.int64]

SMALL = ("removed", "matched", "random", *BINS)
"""Arms that have as many rows as were removed."""
ONE_TRAINING = ("all", "merging", "safe-lora")
"""Arms that train the same model on the same rows. What tells them apart is done to the change afterwards."""
BEGIN_ALIKE = (*ONE_TRAINING, "forget-filter")
"""Arms whose first training is that one; forget-filter trains twice more."""
_HELD_BACK, _HELD_BACK_SHARE = 64, 0.1
_MOST_BY_DEFAULT = 1000
_POOL = 40  # rows to match from, for each row that is to be matched


@dataclass(frozen=True)
class DrawnArm:
    """The rows of one arm and seed.

    Attributes:
        name: the name of the arm or remedy.
        seed: the seed of this draw, and of the training.
        rows: numbers of rows in the `ScoredRows`, in an order of their own.
    """

    name: str
    seed: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class ArmSizes:
    """How many rows arms train on.

    Attributes:
        removed: how many rows `removed`, `random`, `matched` and each of the bins have.
        kept: how many rows `kept`, `all` and the remedies have; remedies train on the rows of `all`.
        held_back: kept rows that no arm trains on, by whose loss usefulness is measured.
    """

    removed: int
    kept: int
    held_back: int


def count_rows(scored: ScoredRows, arms: Sequence[str], rows: int | None) -> ArmSizes:
    """How many rows each arm trains on.

    Args:
        scored: the rows that there are.
        arms: names of arms and remedies.
        rows: the most that the user asks for; None is as many as were removed, at most 1,000, and all that were kept.

    Returns:
        Equal numbers for the arms that are compared: where there are fewer rows for one of them, all have as few.

    Raises:
        DataError: there are fewer than 4 rows for an arm.
    """
    kept, removed = len(scored.kept), len(scored.removed)
    held_back = min(_HELD_BACK, int(kept * _HELD_BACK_SHARE))
    if held_back < 1:
        raise DataError(
            f"{kept} kept rows are too few to hold some back, by which usefulness is measured: 10 are needed"
        )
    free = kept - held_back
    for name in ("removed", "matched"):
        if name in arms and not removed:
            raise DataError(
                f"the arm {name} needs removed rows, and none were removed: take a lower threshold, or bins"
            )
    there = {
        "removed": (removed, "removed rows"),
        "matched": (min(free, removed), "removed rows and kept ones to match them"),
        "random": (free + removed, "scored rows that are not held back"),
        **dict.fromkeys(BINS, ((free + removed) // len(BINS), "rows in each fifth of the scores")),
        "kept": (free, "kept rows that are not held back"),
        **dict.fromkeys(("all", *REMEDIES), (free, "kept rows that are not held back")),
    }
    for name in arms:
        if name in there and there[name][0] < LEAST_ROWS_OF_ARM:
            raise DataError(
                f"the arm {name} needs {LEAST_ROWS_OF_ARM} rows or more, and there are {there[name][0]} "
                f"{there[name][1]}"
            )
    limits = [there[name][0] for name in arms if name in SMALL]
    small = min([*limits, rows or min(removed or free // len(BINS), _MOST_BY_DEFAULT)])
    return ArmSizes(small, min(free, rows or free), held_back)


def held_back_rows(scored: ScoredRows, count: int) -> Ints:
    """Numbers of kept rows that no arm trains on; the same whatever the seed."""
    return np.sort(np.random.default_rng(0).choice(scored.kept, count, replace=False))


def draw_arm(name: str, seed: int, scored: ScoredRows, counts: ArmSizes) -> DrawnArm:
    """Draw the rows of an arm.

    `removed` and the bins are drawn from the rows that they are named after, `kept` from the kept rows, `random` and
    `all` from all scored rows, and `matched` from the kept rows, one for each row of `removed` of the same seed: of
    nearly the same length, and a list where that is one. A remedy trains on the rows of `all`.
    """
    held_back = set(held_back_rows(scored, counts.held_back).tolist())
    free = np.array([row for row in scored.kept.tolist() if row not in held_back], np.int64)
    everything = np.concatenate([free, scored.removed])

    def chosen(what: str, pool: Ints, count: int) -> Ints:
        # Each kind of draw has random numbers of its own, so that an arm is the same whichever arms are beside it.
        generator = np.random.default_rng([seed, *what.encode()])
        return generator.permutation(generator.choice(pool, count, replace=False))

    if name == UNTRAINED:
        rows = np.array([], np.int64)
    elif name == "removed":
        rows = chosen("removed", scored.removed, counts.removed)
    elif name == "random":
        rows = chosen("random", everything, counts.removed)
    elif name == "matched":
        removed = chosen("removed", scored.removed, counts.removed)
        pool = chosen("pool", free, min(len(free), _POOL * counts.removed))
        rows = match_rows(scored.shapes(removed), scored.shapes(pool), pool)
    elif name == "kept":
        rows = chosen("kept", free, counts.kept)
    elif name in BINS:
        ranked = everything[np.argsort(scored.scores[everything], kind="stable")]
        rows = chosen(name, np.array_split(ranked, len(BINS))[BINS.index(name)], counts.removed)
    else:
        rows = chosen("all", everything, counts.kept)
    return DrawnArm(name, seed, tuple(map(int, rows)))
