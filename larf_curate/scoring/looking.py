"""A split dataset to look at in a notebook: what goes, and what just stays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, Unscorable
from ..inert import html_table, visible
from ..rows.formats import RowFormat
from .columns import SCORE
from .records import ReferenceQuantiles
from .spec import ScorerSpec
from .statistics import Array

if TYPE_CHECKING:
    from datasets import Dataset

_REMOVED, _KEPT = 20, 10  # rows shown at most
_MAX_CHARACTERS = 240  # of each of their texts


class Decides(Protocol):
    """What looking asks of a fitted threshold, which is declared in a room above this one."""

    def outcomes(self, scores: Iterable[float | None], /) -> Mapping[Any, NDArray[np.bool_]]: ...


class SplitDataset(Protocol):
    """What a threshold makes of a scored dataset; see `Parts`."""

    @property
    def threshold(self) -> Decides: ...
    @property
    def counts(self) -> Mapping[Any, int]: ...


class Splits(Protocol):
    """What looking asks of a threshold, which is declared in a room above this one."""

    def split(self, dataset: Dataset, /) -> SplitDataset: ...


@dataclass(frozen=True)
class LookedAt:
    """A row to look at.

    Attributes:
        row: its number in the dataset, from 0.
        unsafe_below: the share (0 to 1) of unsafe references that score lower, if known.
    """

    row: int
    score: float
    unsafe_below: float | None
    outcome: str
    prompt: str
    answer: str


@dataclass(frozen=True, repr=False)
class Look:
    """What a threshold does to a dataset: a table in a notebook, lines elsewhere.

    Attributes:
        counts: rows by outcome.
        threshold: the fitted one, in words.
        rows: the highest of those removed, then the highest of those kept.
    """

    counts: Mapping[str, int]
    threshold: str
    rows: tuple[LookedAt, ...]

    @property
    def title(self) -> str:
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in self.counts.items())
        return f"{counts}: {self.threshold}"

    def _cells(self) -> list[list[str]]:
        return [
            [
                f"{row.score:+.5f}",
                "" if row.unsafe_below is None else f"{row.unsafe_below:.0%}",
                row.outcome,
                str(row.row),
                row.prompt,
                row.answer,
            ]
            for row in self.rows
        ]

    def __repr__(self) -> str:
        return "\n".join([self.title, *("  ".join(visible(cell, 36) for cell in cells) for cells in self._cells())])

    def _repr_html_(self) -> str:
        return html_table(
            self.title, ("score", "unsafe below", "outcome", "row", "asked", "answered"), self._cells(), _MAX_CHARACTERS
        )


class ShownInNotebooks:
    """What a scorer shows in a notebook: itself, and what a threshold would do to a dataset."""

    spec: ScorerSpec

    def row_format(self, columns: Iterable[str]) -> RowFormat:
        raise NotImplementedError

    def summary(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return html_table(repr(self), (), [line.split(": ", 1) for line in self.summary().splitlines()])

    def report(self, dataset: Dataset, threshold: Splits) -> Look:
        """What a threshold would do to a dataset: removed rows first, then those that just stay; a table in a notebook.

        A dataset that has no `larf_score` is scored first. The threshold may be fitted or not.

        Raises:
            DataError: the dataset is a stream.
        """
        scored = dataset if SCORE in (dataset.column_names or ()) else dataset.map(self, batched=True)
        return look_at(scored, threshold, self.row_format(scored.column_names), self.spec.quantiles)


def look_at(dataset: Dataset, threshold: Splits, row_format: RowFormat, references: ReferenceQuantiles | None) -> Look:
    """See `ShownInNotebooks.report`.

    Raises:
        DataError: the dataset is a stream, or has no scores.
    """
    if not hasattr(dataset, "select"):
        raise DataError("a stream cannot be looked at: take some of its rows first, Dataset.from_list(list(...))")
    parts = threshold.split(dataset)
    plain = dataset.with_format(None)
    scores = np.array([np.nan if score is None else score for score in plain[SCORE]], np.float64)
    masks = parts.threshold.outcomes(scores)
    rows = []
    for outcome, most in (("removed", _REMOVED), ("kept", _KEPT)):
        for number in _highest(scores, masks[outcome], most):
            score = float(scores[number])
            below = references.unsafe_below(score) if references else None
            rows.append(LookedAt(number, score, below, outcome, *_texts(plain[number], row_format)))
    return Look({str(outcome): count for outcome, count in parts.counts.items()}, repr(parts.threshold), tuple(rows))


def _highest(scores: Array, mask: NDArray[np.bool_], most: int) -> list[int]:
    """The numbers of the rows of a mask with the highest scores, from the highest down; of equal ones the first."""
    numbers = np.flatnonzero(mask & ~np.isnan(scores))
    order = np.argsort(-scores[numbers], kind="stable")[:most]
    return [int(number) for number in numbers[order]]


def _texts(row: Mapping[str, Any], row_format: RowFormat) -> tuple[str, str]:
    try:
        conversation = row_format.convert(row)
    except Unscorable as error:
        return "", str(error)
    return conversation.prompt, conversation.answer
