"""Training weights out of scores: between keep and drop, a weight that falls from 1 to 0 as the score rises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ThresholdError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class WeightRange:
    """The scores between which a row's training weight falls from 1 to 0, in a straight line.

    Attributes:
        lower: rows that score this or less have weight 1.
        upper: rows that score this or more have weight 0; where it equals `lower`, only rows that score more.

    Raises:
        ThresholdError: they are not finite, or the lower lies above the upper.

    >>> WeightRange(0.1, 0.3).weights([0.0, 0.15, 0.25, 0.5]).tolist()
    [1.0, 0.75, 0.25, 0.0]
    """

    lower: float
    upper: float

    def __post_init__(self) -> None:
        given: tuple[object, object] = (self.lower, self.upper)
        numbers = all(type(value) is not bool and isinstance(value, Real) for value in given)
        for name in ("lower", "upper") if numbers else ():  # numpy's numbers have types of their own
            object.__setattr__(self, name, float(getattr(self, name)))
        if not numbers or not math.isfinite(self.lower) or not math.isfinite(self.upper - self.lower):
            raise ThresholdError(f"a weight needs two finite scores, not {self.lower!r} and {self.upper!r}")
        if self.lower > self.upper:
            raise ThresholdError(
                f"a weight falls from a lower to an upper score, and {self.lower:g} lies above {self.upper:g}"
            )

    @classmethod
    def of(cls, pair: WeightRange | Iterable[float]) -> WeightRange:
        """The range itself, or the one of a lower and an upper score.

        Raises:
            ThresholdError: they are not two numbers in ascending order.
        """
        if isinstance(pair, WeightRange):
            return pair
        try:
            lower, upper = pair
        except (TypeError, ValueError):
            raise ThresholdError(f"a weight needs a lower and an upper score, not {pair!r}") from None
        return cls(lower, upper)

    @classmethod
    def from_text(cls, text: str) -> WeightRange:
        """What a user types: `0.1,0.3`.

        Raises:
            ThresholdError: it is no such pair.

        >>> WeightRange.from_text("0.1,0.3")
        WeightRange(lower=0.1, upper=0.3)
        """
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError:
            raise ThresholdError(f"{text!r} is no lower and upper score: write 0.1,0.3") from None
        return cls.of(values)

    def weights(self, scores: ArrayLike) -> NDArray[np.float32]:
        """The weight of each score: float32 [rows], 0 to 1; NaN for NaN."""
        wide = np.asarray(scores, np.float64)
        if self.lower == self.upper:
            ramp = (wide <= self.lower).astype(np.float64)
        else:
            with np.errstate(over="ignore"):  # infinite is well beyond the end
                ramp = np.clip((self.upper - wide) / (self.upper - self.lower), 0, 1)
        return np.where(np.isnan(wide), np.nan, ramp).astype(np.float32)
