"""A scored dataset of the library `datasets`, split by a threshold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, ThresholdError
from ..scoring.columns import SCORE, scores_of
from .layout import Outcome
from .ranking import Chunks, as_scores

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

AnyDataset = TypeVar("AnyDataset", "Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
Fitted = TypeVar("Fitted", bound="Splitter")
_ROWS_AT_ONCE = 10_000


class Splitter(Protocol):
    """What splitting asks of a threshold; `Threshold` imports this module, so it is not named here."""

    def fit_chunks(self, chunks: Chunks) -> Self: ...
    def fit_splits(self, chunks: Chunks, splits: Sequence[tuple[str, int]]) -> Self: ...
    def outcome(self, score: float | None, row: int | None = None) -> Outcome: ...
    def outcomes(self, scores: NDArray[np.floating], first_row: int = 0) -> dict[Outcome, NDArray[np.bool_]]: ...


@dataclass(frozen=True, repr=False)
class Parts(Generic[AnyDataset, Fitted]):
    """A dataset split by a threshold.

    Attributes:
        kept, removed, unscorable: datasets of the kind that was split, with its columns and order of rows. Rows without
            a score are in `unscorable`, unless the threshold says otherwise.
        threshold: fitted on all rows, or with `per_split` to each split by itself.
        counts: rows in each part, also where the parts are streams.
        column: the column of the scores by which they were split.
    """

    kept: AnyDataset
    removed: AnyDataset
    unscorable: AnyDataset
    threshold: Fitted
    counts: Mapping[Outcome, int]
    column: str = SCORE

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        return f"<{counts}; {self.threshold!r}>"


def split_dataset(
    dataset: AnyDataset, threshold: Fitted, column: str, *, per_split: bool = False
) -> Parts[AnyDataset, Fitted]:
    """See `Threshold.split`."""
    parts_of = dataset.values() if isinstance(dataset, dict) else [dataset]
    if wrong := [type(part).__name__ for part in parts_of if not hasattr(part, "column_names")]:
        raise DataError(
            f"a threshold splits a scored Dataset, DatasetDict or IterableDataset, not {wrong[0]}: Dataset.from_list "
            "makes one of rows, load_dataset one of files"
        )
    if per_split and not isinstance(dataset, dict):
        raise ThresholdError("per_split is for a DatasetDict: this dataset has no splits")
    splits: Mapping[str, Dataset | IterableDataset] = dataset if isinstance(dataset, dict) else {"": dataset}
    scores = {name: _read_scores(split, column) for name, split in splits.items()}
    sizes = [(name, len(part)) for name, part in scores.items()]
    fitted = threshold.fit_splits(scores.values, sizes) if per_split else threshold.fit_chunks(scores.values)
    counts: dict[Outcome, int] = {"kept": 0, "removed": 0, "unscorable": 0}
    parts: dict[Outcome, dict[str, Dataset | IterableDataset]] = {outcome: {} for outcome in counts}
    first_row = 0
    for name, split in splits.items():
        for outcome, mask in fitted.outcomes(scores[name], first_row).items():
            counts[outcome] += int(mask.sum())
            if hasattr(split, "select"):
                parts[outcome][name] = split.select(np.flatnonzero(mask))
            else:
                parts[outcome][name] = _filtered(split, fitted, outcome, column, first_row)
        first_row += len(scores[name])

    def joined(outcome: Outcome) -> AnyDataset:
        whole = type(dataset)(parts[outcome]) if isinstance(dataset, dict) else parts[outcome][""]
        return cast("AnyDataset", whole)

    return Parts(joined("kept"), joined("removed"), joined("unscorable"), fitted, counts, column)


def _read_scores(dataset: Dataset | IterableDataset, column: str) -> NDArray[np.floating]:
    """All scores in one pass, NaN for none: [rows]."""
    if dataset.column_names is not None and column not in dataset.column_names:
        raise _no_column(column, dataset.column_names)
    if hasattr(dataset, "select"):
        tables = dataset.select_columns([column]).with_format("arrow").iter(_ROWS_AT_ONCE)
        pieces: Iterator[NDArray[np.floating]] = (scores_of(table, column) for table in tables)
    else:
        # Other formats lose bits of a float64, or cannot be filtered at all (Arrow, pandas).
        batches = dataset.with_format(None).select_columns([column]).iter(_ROWS_AT_ONCE)
        pieces = (as_scores(batch[column]) for batch in batches)
    try:
        return np.concatenate([np.zeros(0), *pieces])
    except KeyError as error:  # a stream that does not know its columns
        if error.args != (column,):
            raise
        raise _no_column(column, None) from error


def _no_column(column: str, names: list[str] | None) -> DataError:
    known = f" It has: {', '.join(names)}" if names is not None else ""
    return DataError(f"the dataset has no column {column!r}: score it first, dataset.map(scorer, batched=True).{known}")


def _filtered(
    stream: IterableDataset, threshold: Splitter, outcome: Outcome, column: str, first_row: int
) -> IterableDataset:
    """The rows of one outcome, filtered again at each reading; `first_row` is the number of the stream's first row."""
    belongs = partial(_belongs, threshold=threshold, outcome=outcome, first_row=first_row)
    formatting = stream._formatting  # no public name says in which format a stream is
    rows = stream.with_format(None).filter(belongs, with_indices=True, input_columns=[column])
    return rows if formatting is None else rows.with_format(formatting.format_type)


def _belongs(score: float | None, row: int, *, threshold: Splitter, outcome: Outcome, first_row: int) -> bool:
    return threshold.outcome(score, first_row + row) == outcome
