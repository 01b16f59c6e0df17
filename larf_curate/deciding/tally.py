"""Counts a dataset while its rows stream by, for the summary: outcomes, issues and the highest rows."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Issue, Unscorable
from ..rows.formats import RowFormat
from ..scoring.excerpts import Excerpt, excerpt_of
from ..scoring.records import ReferenceQuantiles
from ..sources.parts import WHOLE, SourceParts
from .summary import Fault, OutcomeCounts, RunRecord, Summary
from .thresholds import Threshold

_HIGHEST = 10


class Tally:
    """Gathers counts and the highest rows while rows stream by, in a memory that does not grow with them.

    Args:
        parts: of the source, by which its rows are found.
    """

    def __init__(self, parts: SourceParts = WHOLE) -> None:
        self._parts = parts
        self.rows = 0
        self.scored = 0
        self.issues: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Excerpt]] = []
        self._faults: dict[str, Fault] = {}

    def add(
        self,
        rows: Sequence[Mapping[str, Any]],
        row_format: RowFormat | None,
        scores: NDArray[np.floating],
        issues: Iterable[str | None],
        first: int | None = None,
    ) -> None:
        """Count rows of the source from row `first` on (by default, the one after those seen)."""
        first = self.rows if first is None else first
        for place, issue in enumerate(issues):
            if issue:
                self.issues[issue] += 1
                if issue not in self._faults and issue != Issue.TRUNCATED:
                    number = first + place
                    detail = _detail(rows[place], row_format)
                    self._note(Fault(str(issue), number, detail, self._parts.place(number)))
        self.scored += int((~np.isnan(scores)).sum())
        self.rows += len(rows)
        for place in np.argsort(-scores, kind="stable")[:_HIGHEST]:
            score, number = float(scores[place]), first + int(place)
            if np.isnan(score) or (len(self._heap) == _HIGHEST and (score, -number) <= self._heap[0][:2]):
                continue
            where = self._parts.place(number)
            self._push(score, number, excerpt_of(rows[place], row_format, score=score, row=number, place=where))

    def _note(self, fault: Fault) -> None:
        known = self._faults.get(fault.issue)
        if known is None or fault.row < known.row:
            self._faults[fault.issue] = fault

    def _push(self, score: float, row: int, excerpt: Excerpt) -> None:
        entry = (score, -row, excerpt)  # of equal scores the first row
        if len(self._heap) == _HIGHEST:
            heapq.heappushpop(self._heap, entry)
        else:
            heapq.heappush(self._heap, entry)

    def merge(self, other: Summary) -> None:
        """Add what another worker saw."""
        self.rows += other.rows
        self.scored += other.scored
        self.issues.update(other.issues)
        for fault in other.faults:
            self._note(fault)
        for excerpt in other.highest:
            if excerpt.score is not None:
                self._push(excerpt.score, excerpt.row, excerpt)

    def summary(
        self,
        *,
        quantiles: Mapping[str, float] | None = None,
        outcomes: OutcomeCounts | None = None,
        threshold: Threshold | None = None,
        execution: str = "",
        run: RunRecord | None = None,
        references: ReferenceQuantiles | None = None,
    ) -> Summary:
        """What was seen, and what the caller knows beside it; see `Summary`."""
        return Summary(
            rows=self.rows,
            scored=self.scored,
            issues=dict(self.issues),
            quantiles=quantiles or {},
            highest=tuple(excerpt for _, _, excerpt in sorted(self._heap, reverse=True, key=lambda entry: entry[:2])),
            outcomes=outcomes,
            threshold=threshold,
            execution=execution,
            run=run,
            references=references,
            faults=tuple(self._faults[issue] for issue in sorted(self._faults)),
        )


def _detail(row: Mapping[str, Any], row_format: RowFormat | None) -> str:
    """What is wrong with a row, where that shows without the model."""
    try:
        if row_format is not None:
            row_format.convert(row)
    except Unscorable as error:
        return error.detail
    return ""
