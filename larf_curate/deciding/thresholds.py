"""Scores become a decision: which rows go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..atomic import write_text
from ..errors import ThresholdError
from ..scoring.columns import SCORE
from .cuts import cut_harmless, cut_highest, rows_to_cut
from .layout import Outcome
from .per_split import fit_each, pieces_of
from .ranking import Chunks, as_scores, batches, one_score
from .rules import UNSCORABLE_TO, Rule, UnscorablePolicy, check_amount
from .threshold_json import fields_from_json, fields_to_json

if TYPE_CHECKING:
    from .datasets import AnyDataset, Parts


@dataclass(frozen=True)
class Threshold:
    """A rule, and once fitted the rows that it removes.

    Rows whose score is *greater than* `value` are removed. The rules that count rows (`drop_top`, `drop_fraction`)
    remove exactly as many as asked for: where the last row to go ties with others, those that come first in the dataset
    go, and the rest stay. That takes row numbers, 0 for the first row of the dataset that it was fitted on; where they
    are not given, all rows of that score go together, `tied` more than asked for. Rows that score minus infinity always
    stay, since no value lies below.

    Attributes:
        rule: which of the four constructors made it.
        amount: the number that the constructor took.
        value: rows above this score go, but for the spared ones; None until fitted.
        unscorable: where rows without a score go; see `UnscorablePolicy`.
        rows, removed, unscorable_rows: counts over the scores it was fitted on.
        tied: how many rows have the last removed row's score and stay: more would go without row numbers.
        harmless: for `calibrated`, the number of harmless rows behind it.
        spared_score, spared_from: rows of exactly this score stay from this row number on; None where no row does.
        by_split: fitted to each split by itself, the threshold of each, in the order of their rows; `value` is None
            where each has its own, and the counts are those of all. Empty for one threshold over all rows.

    >>> import numpy as np
    >>> scores = np.array([0.1, 0.4, np.nan, 0.3, 0.3])
    >>> threshold = Threshold.drop_top(2).fit(scores)
    >>> threshold.removes(scores)
    array([False,  True, False,  True, False])
    >>> threshold.removed, threshold.tied, threshold.keep(0.3, 4), threshold.keep(0.3)
    (2, 1, True, False)
    """

    rule: Rule
    amount: float
    value: float | None = None
    unscorable: UnscorablePolicy = "separate"
    rows: int | None = None
    removed: int | None = None
    unscorable_rows: int | None = None
    tied: int = 0
    harmless: int | None = None
    spared_score: float | None = None
    spared_from: int | None = None
    by_split: Mapping[str, Threshold] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.unscorable not in get_args(UnscorablePolicy):
            raise ThresholdError(f"unscorable must be separate, keep or remove, not {self.unscorable!r}")

    @classmethod
    def max_score(cls, value: float, *, unscorable: UnscorablePolicy = "separate") -> Threshold:
        """Remove every row that scores above `value`. Needs no fitting; `fit` adds the counts."""
        check_amount("max_score", value)
        return cls("max_score", float(value), value=float(value), unscorable=unscorable)

    @classmethod
    def drop_top(cls, count: int, *, unscorable: UnscorablePolicy = "separate") -> Threshold:
        """Remove the `count` highest-scoring rows."""
        check_amount("drop_top", count)
        return cls("drop_top", int(count), unscorable=unscorable)

    @classmethod
    def drop_fraction(cls, share: float, *, unscorable: UnscorablePolicy = "separate") -> Threshold:
        """Remove the highest-scoring `share` (0 to 1) of the scorable rows, rounded down to whole rows."""
        check_amount("drop_fraction", share)
        return cls("drop_fraction", float(share), unscorable=unscorable)

    @classmethod
    def calibrated(
        cls, share: float, harmless: Iterable[float | None], *, unscorable: UnscorablePolicy = "separate"
    ) -> Threshold:
        """Remove what scores higher than all but `share` of rows known to be harmless (split conformal prediction).

        What it promises: a new harmless row *drawn like the `harmless` ones* is removed with a probability of at most
        `share`, on average over draws of them. What it does not: anything about harmful rows (none may be found, or
        all), or about harmless rows of another kind: poems measured against recipes. So prefer scores of your own
        dataset's harmless rows, one by one looked at, to a scorer's packaged `harmless_scores`.

        Args:
            share: 0 to 1, at least 1 / (number of harmless rows + 1).
            harmless: their scores; NaN and None are left out.
            unscorable: where rows without a score go; see `UnscorablePolicy`.
        """
        value, count = cut_harmless(share, harmless)
        return cls("calibrated", float(share), value=value, harmless=count, unscorable=unscorable)

    def fit(self, scores: Iterable[float | None]) -> Threshold:
        """The threshold for these scores, with its counts. NaN and null are unscorable, never counted as removed.

        Args:
            scores: [rows], numpy, a list or a dataset column.

        Raises:
            ThresholdError: they are not numbers, or not one a row.
        """
        if isinstance(scores, Mapping) or hasattr(scores, "column_names"):
            raise ThresholdError(
                "fit takes scores, not a dataset: threshold.split(dataset) fits to all its splits, and divides them; "
                'or give one column, threshold.fit(dataset["larf_score"])'
            )
        array = as_scores(scores)
        return self.fit_chunks(lambda: [array])

    def fit_chunks(self, chunks: Chunks) -> Threshold:
        """What `fit` gives for the chunks one after the other, without ever holding more than one of them.

        It is exact, and the same however the rows are cut into chunks. `max_score` and `calibrated` count in one pass.
        The rules that count rows find the last removed row's score in 2 to 4 passes (see `ranking.select`), and in one
        more the next lower score and the first row that ties and stays. Memory stays below 32 MiB beside a chunk, for
        hundreds of millions of rows as for a million; a pass takes what reading the scores does, and about 5 ns a row.

        Args:
            chunks: a function that each pass calls anew, and that each time gives the same scores in the same order,
                [any number of rows] at a time, float32 or float64, NaN for none.

        Raises:
            ThresholdError: the scores are not numbers, or not one a row. DataError: two passes met other scores.
        """

        def checked() -> Iterator[NDArray[np.floating]]:
            return map(as_scores, chunks())

        if self.by_split:
            return replace(self, by_split={}).fit_chunks(chunks)
        if self.rule in ("max_score", "calibrated"):
            return self._with_counts(checked)
        count = partial(rows_to_cut, self.amount, share=self.rule == "drop_fraction")
        return replace(self, **vars(cut_highest(checked, count)))

    def fit_splits(self, chunks: Chunks, splits: Sequence[tuple[str, int]]) -> Threshold:
        """The threshold fitted to each split by itself; see `by_split`.

        Args:
            chunks: as for `fit_chunks`: the scores of all splits, one split after the other.
            splits: the name of each, and its number of rows.

        Raises:
            ThresholdError, DataError: as `fit_chunks`.
        """
        parts = fit_each(self.fit_chunks, chunks, splits)
        return replace(
            self,
            value=self.value if self.rule in ("max_score", "calibrated") else None,
            rows=sum(part.rows or 0 for part in parts.values()),
            removed=sum(part.removed or 0 for part in parts.values()),
            unscorable_rows=sum(part.unscorable_rows or 0 for part in parts.values()),
            tied=sum(part.tied for part in parts.values()),
            spared_score=None,
            spared_from=None,
            by_split=parts,
        )

    def _with_counts(self, chunks: Chunks) -> Threshold:
        rows = removed = unscorable = 0
        for batch in batches(chunks):
            rows += len(batch)
            removed += int(np.count_nonzero(self.removes(batch)))
            unscorable += int(np.count_nonzero(np.isnan(batch)))
        return replace(self, rows=rows, removed=removed, unscorable_rows=unscorable)

    def with_unscorable(self, policy: UnscorablePolicy) -> Threshold:
        """The same threshold with another place for rows without a score.

        >>> Threshold.max_score(0.1).with_unscorable("remove").keep(None)
        False

        Raises:
            ThresholdError: there is no such policy.
        """
        by_split = {name: replace(part, unscorable=policy) for name, part in self.by_split.items()}
        return replace(self, unscorable=policy, by_split=by_split)

    def keep(self, score: float | None, row: int | None = None) -> bool:
        """Whether a row with this score stays.

        For `Dataset.filter(threshold.keep, input_columns="larf_score", with_indices=True)`, on the dataset whose scores
        it was fitted on, in the same order.

        Args:
            score, row: as for `outcome`.

        Raises:
            ThresholdError: not fitted, or there is no score and `unscorable` is "separate", neither kept nor removed.
        """
        outcome = self.outcome(one_score(score), row)
        if outcome == "unscorable":
            raise ThresholdError(
                "a row without a score is neither kept nor removed in silence: use threshold.split(dataset), which "
                'sets such rows apart, or a threshold .with_unscorable("keep") or .with_unscorable("remove")'
            )
        return outcome == "kept"

    def outcome(self, score: float | None, row: int | None = None) -> Outcome:
        """Whether a row with this score is "kept", "removed" or "unscorable".

        Args:
            score: NaN or None for none.
            row: the row's number in the dataset, from 0. Without it (no `with_indices`) rows that tie with the last
                removed one go as well, `tied` more than asked for.

        Raises:
            ThresholdError: not fitted.
        """
        self._require_fitted()
        if score is None or math.isnan(score):
            return UNSCORABLE_TO[self.unscorable]
        if self.by_split:
            ((part, number, _),) = pieces_of(self.by_split, -1 if row is None else row, 1)
            return part.outcome(score, number)
        # A float32 would be compared in float32, and so kept where `fit`, in float64, counted it as removed.
        return "removed" if self._removes(float(score), -1 if row is None else row) else "kept"

    def removes(self, scores: Iterable[float | None], first_row: int = 0) -> NDArray[np.bool_]:
        """Which of some rows that follow one another are removed: [n].

        Args:
            scores: [n], as for `fit`; rows without a score are never among the removed, whatever `unscorable` says.
            first_row: the number of the first of them in the dataset, from 0.

        Raises:
            ThresholdError: not fitted, or the scores are not numbers, or not one a row.
        """
        self._require_fitted()
        wide = as_scores(scores).astype(np.float64, copy=False)
        if self.by_split:
            pieces = pieces_of(self.by_split, first_row, len(wide))
            return np.concatenate([np.zeros(0, bool), *(part.removes(wide[at], first) for part, first, at in pieces)])
        removed: NDArray[np.bool_] = self._removes(wide, np.arange(first_row, first_row + len(wide)))
        return removed

    def outcomes(self, scores: Iterable[float | None], first_row: int = 0) -> dict[Outcome, NDArray[np.bool_]]:
        """Which of some rows that follow one another are kept, removed and unscorable: [n] each.

        Each row is one of the three. Arguments and errors as for `removes`.

        >>> masks = Threshold.max_score(0.2, unscorable="keep").outcomes([0.1, None, 0.3])
        >>> {outcome: rows.tolist() for outcome, rows in masks.items()}
        {'kept': [True, True, False], 'removed': [False, False, True], 'unscorable': [False, False, False]}
        """
        array = as_scores(scores)
        missing, removed = np.isnan(array), self.removes(array, first_row)
        masks: dict[Outcome, NDArray[np.bool_]] = {
            "kept": ~removed & ~missing,
            "removed": removed,
            "unscorable": np.zeros_like(missing),
        }
        masks[UNSCORABLE_TO[self.unscorable]] |= missing
        return masks

    def _require_fitted(self) -> None:
        if self.value is None and not self.by_split:
            raise ThresholdError(f"{self.rule} knows its threshold only after .fit(scores)")

    def _removes(self, score: Any, row: Any) -> Any:
        # One decision for a number and for arrays of them: both know these operators.
        above = score > self.value
        return above if self.spared_from is None else above & ((score != self.spared_score) | (row < self.spared_from))

    def split(
        self, dataset: AnyDataset, column: str = SCORE, *, per_split: bool = False
    ) -> Parts[AnyDataset, Threshold]:
        """Fit to a scored dataset, and split it into its kept, removed and unscorable rows.

        Ties are decided by row number, as in `fit` and `keep`: exactly as many rows go as the rule says. Parts hold
        their rows in the dataset's order, with all columns. A `DatasetDict` gets one threshold over all its splits, in
        their order, and each part has the same splits. An `IterableDataset` is read once, to fit; its parts are lazy
        filters on it, so it must give the same rows in the same order each time.

        >>> from datasets import Dataset
        >>> dataset = Dataset.from_dict({"text": ["a", "b", "c"], "larf_score": [0.1, 0.3, None]})
        >>> parts = Threshold.drop_top(1).split(dataset)
        >>> parts
        <1 kept, 1 removed, 1 unscorable; Threshold.drop_top(1): 1 of 3 rows, above 0.1>
        >>> parts.kept["text"][:], parts.removed["text"][:], parts.unscorable["text"][:]
        (['a'], ['b'], ['c'])

        Args:
            dataset: a `Dataset`, an `IterableDataset`, or a dictionary of splits of either, with scores.
            column: that of the scores, `influence_score` with the prefix `influence`; null or NaN where a row has none.
            per_split: fit to each split of a `DatasetDict` by itself: `drop_top` removes so many rows of each.

        Raises:
            DataError: there is no such column. ThresholdError: it holds no numbers, or the dataset has no splits.
        """
        from .datasets import split_dataset

        return split_dataset(dataset, self, column, per_split=per_split)

    def __repr__(self) -> str:
        policy = "" if self.unscorable == "separate" else f", unscorable={self.unscorable!r}"
        rule = f"Threshold.{self.rule}({self.amount:.12g}{policy})"
        if self.rows is None:
            return rule
        cuts = [f"{part.value:.6g} ({name})" for name, part in self.by_split.items()] or [f"{self.value:.6g}"]
        return f"{rule}: {self.removed} of {self.rows} rows, above {', '.join(cuts)}"

    def to_json(self) -> str:
        """One JSON object; see `threshold_json`."""
        return fields_to_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Threshold:
        """Read what `to_json` wrote.

        Raises:
            ThresholdError: it is something else.
        """
        try:
            fields = fields_from_json(text)
            return cls(**fields | {"by_split": {name: cls(**part) for name, part in fields["by_split"].items()}})
        except ThresholdError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ThresholdError(f"not a threshold: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write what `to_json` gives to a file; `from_json` reads its text.

        Raises:
            OutputError: it cannot be written.
        """
        write_text(Path(path), self.to_json() + "\n")
