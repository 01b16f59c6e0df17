"""What a threshold would do to a dataset, shown in a notebook: the rows that go, and those that just stay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..inert import html_table, visible
from ..rows.formats import RowFormat
from ..rows.score_columns import PREFIX, ColumnNames
from .excerpts import Excerpt, excerpt_of, signed
from .records import ReferenceQuantiles
from .spec import ScorerSpec
from .statistics import Array

if TYPE_CHECKING:
    from datasets import Dataset

_REMOVED, _KEPT = 20, 10  # rows shown at most
_MAX_CHARACTERS = 240  # of each of their texts
_HEADINGS = ("score", "unsafe below", "outcome", "row", "asked", "answered")


class Decides(Protocol):
    """What a preview asks of a fitted threshold: `Threshold` belongs to a room above this one."""

    def outcomes(self, scores: Iterable[float | None], /) -> Mapping[Any, NDArray[np.bool_]]: ...


class SplitDataset(Protocol):
    """What a threshold makes of a scored dataset; see `Parts`."""

    @property
    def threshold(self) -> Decides: ...
    @property
    def counts(self) -> Mapping[Any, int]: ...


class Splits(Protocol):
    """What a preview asks of a threshold, fitted or not."""

    def split(self, dataset: Dataset, column: str, /) -> SplitDataset: ...


@dataclass(frozen=True, repr=False)
class ThresholdPreview:
    """What a threshold does to a dataset: a table in a notebook, lines elsewhere.

    Attributes:
        counts: rows by outcome.
        threshold: the fitted one, in words.
        rows: the highest of those removed, then the highest of those kept, with their numbers in the dataset.
        references: quantiles of the reference answers' scores, which say how a row's score compares; None if unknown.
    """

    counts: Mapping[str, int]
    threshold: str
    rows: tuple[Excerpt, ...]
    references: ReferenceQuantiles | None = None

    @property
    def title(self) -> str:
        """How many rows each outcome has, and the threshold."""
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in self.counts.items())
        return f"{counts}: {self.threshold}"

    def _cells(self) -> list[list[str]]:
        return [
            [signed(row.score), self._unsafe_below(row), row.outcome or "", str(row.row), row.prompt, row.answer]
            for row in self.rows
        ]

    def _unsafe_below(self, row: Excerpt) -> str:
        """The share of unsafe reference answers that score lower, in per cent."""
        return "" if self.references is None or row.score is None else f"{self.references.unsafe_below(row.score):.0%}"

    def __repr__(self) -> str:
        return "\n".join([self.title, *("  ".join(visible(cell, 36) for cell in cells) for cells in self._cells())])

    def _repr_html_(self) -> str:
        return html_table(self.title, _HEADINGS, self._cells(), _MAX_CHARACTERS)


class ShownInNotebooks:
    """What a scorer shows: itself, in words and in a notebook, and what a threshold would do to a dataset."""

    spec: ScorerSpec
    prefix: str

    def row_format(self, columns: Iterable[str]) -> RowFormat:
        raise NotImplementedError

    def summary(self) -> str:
        """A few lines: model, layers, formula, separation, and what the linter found."""
        return self.spec.summary()

    def __repr__(self) -> str:
        layers = f", layers={list(self.spec.layers)}" if self.spec.layers else ""
        prefix = f", prefix={self.prefix!r}" if self.prefix != PREFIX else ""
        return f"LARFScorer({self.spec.model!r}{layers}, formula={self.spec.formula!r}{prefix})"

    def _repr_html_(self) -> str:
        return html_table(repr(self), (), [line.split(": ", 1) for line in self.summary().splitlines()])

    def report(self, dataset: Dataset, threshold: Splits) -> ThresholdPreview:
        """What a threshold would do to a dataset: removed rows first, then those that just stay; a table in a notebook.

        A dataset that has no score of this scorer's prefix is scored first. The threshold may be fitted or not.

        Raises:
            DataError: the dataset is a stream.
        """
        column = ColumnNames(self.prefix).score
        scored = dataset if column in (dataset.column_names or ()) else dataset.map(self, batched=True)
        return preview(scored, threshold, self.row_format(scored.column_names), self.spec.quantiles, column)


def preview(
    dataset: Dataset, threshold: Splits, row_format: RowFormat, references: ReferenceQuantiles | None, column: str
) -> ThresholdPreview:
    """See `ShownInNotebooks.report`.

    Raises:
        DataError: the dataset is a stream, or has no scores.
    """
    if not hasattr(dataset, "select"):
        raise DataError("a stream cannot be shown: take some of its rows first, Dataset.from_list(list(...))")
    parts = threshold.split(dataset, column)
    plain = dataset.with_format(None)
    scores = np.array([np.nan if score is None else score for score in plain[column]], np.float64)
    masks = parts.threshold.outcomes(scores)
    rows = [
        excerpt_of(plain[number], row_format, score=float(scores[number]), row=number, outcome=outcome)
        for outcome, limit in (("removed", _REMOVED), ("kept", _KEPT))
        for number in _highest(scores, masks[outcome], limit)
    ]
    counts = {str(outcome): count for outcome, count in parts.counts.items()}
    return ThresholdPreview(counts, repr(parts.threshold), tuple(rows), references)


def _highest(scores: Array, mask: NDArray[np.bool_], limit: int) -> list[int]:
    """The numbers of the rows of a mask with the highest scores, from the highest down; of equal ones the first."""
    numbers = np.flatnonzero(mask & ~np.isnan(scores))
    order = np.argsort(-scores[numbers], kind="stable")[:limit]
    return [int(number) for number in numbers[order]]
