"""What came of a pass over a dataset: counts, quantiles, and the highest rows to look at."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RowFormatError, Unscorable
from ..rows.formats import RowFormat, resolve_format
from .layout import OUTCOMES
from .ranking import Chunks, quantiles
from .thresholds import Threshold

QUANTILES = {"lowest": 0.0, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "highest": 1.0}
_HIGHEST = 10
_EXCERPT = 2_000  # characters of a text that a summary keeps


@dataclass(frozen=True)
class Excerpt:
    """One row among the highest: its score, its place in the source from 0, and the beginnings of its texts."""

    score: float
    row: int
    prompt: str
    answer: str


@dataclass
class Summary:
    """What came of a pass over a dataset.

    Attributes:
        rows, scored: how many there were, and how many have a score.
        issues: rows by the value of `larf_issue`.
        quantiles: of the scores, by their name; empty where no row has one.
        highest: the rows with the highest scores, from the highest down.
        outcomes: rows kept, removed and unscorable; empty where nothing was split.
        how: the states were made, where this pass made them: precision, device, batches, shortcuts.
        run: of a recipe, what else there is to say: source, model, layers, digests, times.
    """

    rows: int = 0
    scored: int = 0
    issues: Counter[str] = field(default_factory=Counter)
    quantiles: dict[str, float] = field(default_factory=dict)
    highest: list[Excerpt] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    threshold: Threshold | None = None
    how: str = ""
    run: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(
            {
                "rows": self.rows,
                "scored": self.scored,
                **self.outcomes,
                "issues": dict(sorted(self.issues.items())),
                "score_quantiles": self.quantiles,
                "threshold": json.loads(self.threshold.to_json()) if self.threshold else None,
                "highest": [asdict(excerpt) for excerpt in self.highest],
                **({"how": self.how} if self.how else {}),
                **({"run": self.run} if self.run else {}),
            },
            indent=2,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError where it is something else."""
        found = json.loads(text)
        return cls(
            rows=found["rows"],
            scored=found["scored"],
            issues=Counter(found["issues"]),
            quantiles=found["score_quantiles"],
            highest=[Excerpt(**excerpt) for excerpt in found["highest"]],
            outcomes={outcome: found[outcome] for outcome in OUTCOMES if outcome in found},
            threshold=Threshold.from_json(json.dumps(found["threshold"])) if found["threshold"] else None,
            how=found.get("how", ""),
            run=found.get("run", {}),
        )


def quantiles_of(chunks: Chunks) -> dict[str, float]:
    """By name; NaN is no score."""
    return dict(zip(QUANTILES, map(float, quantiles(chunks, list(QUANTILES.values()))), strict=False))


class Tally:
    """Gathers counts and the highest rows while rows stream by, in a memory that does not grow with them."""

    def __init__(self) -> None:
        self.rows = 0
        self.scored = 0
        self.issues: Counter[str] = Counter()
        self._heap: list[tuple[float, int, Excerpt]] = []

    def add(
        self,
        rows: Sequence[Mapping[str, Any]],
        form: RowFormat | None,
        scores: NDArray[Any],
        issues: Iterable[str | None],
        first: int | None = None,
    ) -> None:
        """Rows of the source from row `first` on (by default, the one after those seen)."""
        first = self.rows if first is None else first
        self.issues.update(issue for issue in issues if issue)
        self.scored += int((~np.isnan(scores)).sum())
        self.rows += len(rows)
        for place in np.argsort(-scores, kind="stable")[:_HIGHEST]:
            score, number = float(scores[place]), first + int(place)
            if np.isnan(score) or (len(self._heap) == _HIGHEST and (score, -number) <= self._heap[0][:2]):
                continue
            prompt, answer = _texts(rows[place], form)
            self._push(Excerpt(score, number, prompt[:_EXCERPT], answer[:_EXCERPT]))

    def _push(self, excerpt: Excerpt) -> None:
        entry = (excerpt.score, -excerpt.row, excerpt)
        heapq.heappushpop(self._heap, entry) if len(self._heap) == _HIGHEST else heapq.heappush(self._heap, entry)

    def merge(self, other: Summary) -> None:
        """Add what another worker saw."""
        self.rows += other.rows
        self.scored += other.scored
        self.issues.update(other.issues)
        for excerpt in other.highest:
            self._push(excerpt)

    def summary(self) -> Summary:
        highest = [excerpt for _, _, excerpt in sorted(self._heap, reverse=True)]
        return Summary(self.rows, self.scored, self.issues, highest=highest)


def text_format(format: str, columns: list[str]) -> RowFormat | None:  # noqa: A002 - the word users know
    """The format to read texts for the summary by; rows that a user's own function scored fit none, and need none."""
    try:
        return resolve_format(format, columns)
    except RowFormatError:
        if format != "auto":
            raise
        return None


def _texts(row: Mapping[str, Any], form: RowFormat | None) -> tuple[str, str]:
    try:
        conversation = form.convert(row) if form else None
    except Unscorable:
        conversation = None
    if conversation is None:
        return "", str({name: value for name, value in row.items() if not name.startswith("larf_")})
    return conversation.prompt, conversation.answer
