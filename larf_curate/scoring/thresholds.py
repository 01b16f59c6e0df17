"""Scores become a decision: which rows go."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ThresholdError

Rule = Literal["max_score", "drop_top", "drop_fraction", "calibrated"]


@dataclass(frozen=True)
class Threshold:
    """A rule, and once fitted the score above which it removes rows.

    Rows whose score is *greater than* `value` are removed. The rules that count rows (`drop_top`, `drop_fraction`)
    treat equal scores alike, so that the outcome never depends on the order of the rows: where the last row to go ties
    with others, all of them go, and `tied` says how many more that is.

    Attributes:
        rule: which of the four constructors made it.
        amount: what the constructor was given.
        value: rows above this score go; None until fitted.
        rows, removed, unscorable: counts over the scores it was fitted on.
        tied: rows removed beyond the number asked for, because of equal scores.
        harmless: for `calibrated`, the number of harmless rows behind it.

    >>> import numpy as np
    >>> threshold = Threshold.drop_top(2).fit(np.array([0.1, 0.4, np.nan, 0.3]))
    >>> [threshold.keep(score) for score in (0.1, 0.4, 0.3)], threshold.removed
    ([True, False, False], 2)
    """

    rule: Rule
    amount: float
    value: float | None = None
    rows: int | None = None
    removed: int | None = None
    unscorable: int | None = None
    tied: int = 0
    harmless: int | None = None
    nulls: Literal["keep", "remove"] | None = None

    @classmethod
    def max_score(cls, value: float) -> Threshold:
        """Remove every row that scores above `value`. Needs no fitting; `fit` adds the counts."""
        if not math.isfinite(value):
            raise ThresholdError(f"max_score must be a finite number, not {value}")
        return cls("max_score", float(value), value=float(value))

    @classmethod
    def drop_top(cls, count: int) -> Threshold:
        """Remove the `count` highest-scoring rows."""
        if not math.isfinite(count) or count < 0 or count != int(count):
            raise ThresholdError(f"drop_top needs a number of rows, 0 or more, not {count}")
        return cls("drop_top", int(count))

    @classmethod
    def drop_fraction(cls, share: float) -> Threshold:
        """Remove the highest-scoring `share` (0 to 1) of the scorable rows, rounded down to whole rows."""
        if not 0 <= share <= 1:
            raise ThresholdError(f"drop_fraction needs a share between 0 and 1, not {share}")
        return cls("drop_fraction", float(share))

    @classmethod
    def calibrated(cls, share: float, harmless: Iterable[float]) -> Threshold:
        """Remove what scores higher than all but `share` of rows known to be harmless (split conformal prediction).

        What it promises: a new harmless row *drawn like the `harmless` ones* is removed with a probability of at most
        `share`, on average over draws of them. What it does not: anything about harmful rows (none may be found, or
        all), or about harmless rows of another kind: poems measured against recipes. So prefer scores of your own
        dataset's harmless rows, one by one looked at, to a scorer's packaged `harmless_scores`.

        Args:
            share: 0 to 1, at least 1 / (number of harmless rows + 1).
            harmless: their scores; NaN and None are left out.
        """
        if not 0 < share < 1:
            raise ThresholdError(f"calibrated needs a share between 0 and 1, not {share}")
        scores = np.sort(_scored(_array(harmless)))
        place = math.ceil(round((len(scores) + 1) * (1 - share), 9)) - 1  # 1 - 0.7 is 0.30000000000000004
        if place >= len(scores):
            raise ThresholdError(
                f"a share of {share} needs at least {math.ceil(1 / share) - 1} harmless rows; there are {len(scores)}"
            )
        return cls("calibrated", float(share), value=float(scores[place]), harmless=len(scores))

    def fit(self, scores: Iterable[float | None]) -> Threshold:
        """The threshold for these scores, with its counts. NaN and null are unscorable, never counted as removed.

        Args:
            scores: [rows], numpy, a list or a dataset column.
        """
        everything = _array(scores)
        scored = np.sort(_scored(everything))[::-1]
        value = self.value if self.rule in ("max_score", "calibrated") else self._value_for(scored)
        assert value is not None
        removed = int((scored > value).sum())
        return replace(
            self,
            value=value,
            rows=len(everything),
            removed=removed,
            unscorable=len(everything) - len(scored),
            tied=max(0, removed - self._wanted(len(scored))) if self.rule in ("drop_top", "drop_fraction") else 0,
        )

    def _wanted(self, scorable: int) -> int:
        # 0.07 * 100 is 7.000000000000001: rounding first keeps the floor what a person expects.
        wanted = self.amount if self.rule == "drop_top" else math.floor(round(self.amount * scorable, 6))
        return min(int(wanted), scorable)

    def _value_for(self, descending: NDArray[np.float64]) -> float:
        wanted = self._wanted(len(descending))
        if not len(descending):
            return math.inf
        if wanted == 0:
            return float(descending[0])
        lowest_removed = descending[wanted - 1]
        below = descending[descending < lowest_removed]
        # Between the last to go and the first to stay stands the latter's own score: "greater than" is exact then.
        return float(below[0]) if len(below) else -math.inf

    def with_nulls(self, nulls: Literal["keep", "remove"]) -> Threshold:
        """Say where rows without a score go; until then `keep` refuses to judge them."""
        if nulls not in ("keep", "remove"):
            raise ThresholdError(f"nulls must be keep or remove, not {nulls!r}")
        return replace(self, nulls=nulls)

    def keep(self, score: float | None) -> bool:
        """Whether a row with this score stays; for `Dataset.filter(threshold.keep, input_columns="larf_score")`.

        Raises:
            ThresholdError: not fitted, or no score and `with_nulls` has not said what to do then.
        """
        if self.value is None:
            raise ThresholdError(f"{self.rule} knows its threshold only after .fit(scores)")
        if score is None or math.isnan(score):
            if self.nulls is None:
                raise ThresholdError(
                    "a row without a score is neither kept nor removed in silence: filter those rows out first, or use "
                    '.with_nulls("keep") or .with_nulls("remove")'
                )
            return self.nulls == "keep"
        return not score > self.value

    def to_json(self) -> str:
        """One JSON object of the attributes; an infinite value (all or none go) as a string, since JSON has none."""
        infinite = self.value is not None and math.isinf(self.value)
        return json.dumps({**asdict(self), "value": str(self.value) if infinite else self.value}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Threshold:
        """Read what `to_json` wrote.

        Raises:
            ThresholdError: it is something else.
        """
        try:
            fields: Mapping[str, Any] = json.loads(text)
            value = None if fields["value"] is None else float(fields["value"])
            if fields["rule"] not in get_args(Rule) or fields["nulls"] not in (None, "keep", "remove"):
                raise ValueError(f"rule {fields['rule']!r}, nulls {fields['nulls']!r}")
            if value is not None and math.isnan(value):
                raise ValueError("its value is NaN")
            return cls(**{**fields, "value": value})
        except (ValueError, TypeError, KeyError) as error:
            raise ThresholdError(f"not a threshold: {error}") from error

    def save(self, path: str | Path) -> None:
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")


def _array(scores: Iterable[float | None]) -> NDArray[np.float64]:
    listed = scores if isinstance(scores, np.ndarray) else list(scores)
    try:
        array = np.asarray(listed, dtype=np.float64)
    except (TypeError, ValueError):
        raise ThresholdError("scores must be numbers, with NaN or None where there is none") from None
    if array.ndim != 1:
        raise ThresholdError(f"scores must be one number a row, not an array of shape {array.shape}")
    return array


def _scored(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return scores[~np.isnan(scores)]
