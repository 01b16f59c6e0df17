"""A sample of the rows for the figures that take reading texts: always the same one, and never more than fits."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..deciding.results import Results
from ..errors import Unscorable
from ..progress import progress
from ..rows.wording import holds_list, refuses
from ..scoring.statistics import Array

MOST = 50_000  # rows a side, kept and removed
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """Scored rows, kept and removed ones: all of them, or as many as `MOST` of each, drawn evenly.

    Attributes:
        removed: bool [n]; the others are kept.
        weight: float64 [n], how many rows each one stands for.
        score, tokens: float64 [n], of the columns.
        characters: float64 [n], of the answer.
        turns: float64 [n], of the conversation.
        lists, refusals: float64 [n], 1 if the answer is a list, or refuses; else 0.
        system, tools: float64 [n], 1 if the conversation has a system turn, or tools; else 0.
    """

    removed: NDArray[np.bool_]
    weight: Array
    score: Array
    tokens: Array
    characters: Array
    turns: Array
    lists: Array
    refusals: Array
    system: Array
    tools: Array

    def __len__(self) -> int:
        return len(self.score)


def draw_places(rows: int, limit: int) -> NDArray[np.int64]:
    """Ascending places of `limit` rows out of `rows`, evenly drawn, the same at every call."""
    if rows <= limit:
        return np.arange(rows, dtype=np.int64)
    return np.sort(np.random.default_rng(_SEED).choice(rows, limit, replace=False, shuffle=False)).astype(np.int64)


def draw_sample(results: Results, limit: int = MOST) -> Sample | None:
    """Read the rows of the sample; None if no format says how rows become conversations.

    Rows that became kept or removed without a score are left out.

    Args:
        results: the results of the run.
        limit: how many rows to read at most of the kept ones, and as many of the removed ones.

    Raises:
        DataError: a file cannot be read.
    """
    row_format = results.row_format
    if row_format is None:
        return None
    score, tokens = results.names.score, results.names.tokens
    extra = [name for name in (score, tokens) if name in results.schema.names]
    columns = [*dict.fromkeys([*row_format.columns(results.schema.names), *extra])]
    figures: list[tuple[float, ...]] = []
    counts = {"kept": results.rows.kept, "removed": results.rows.removed}
    places = {outcome: draw_places(count, limit) for outcome, count in counts.items()}
    with progress(sum(map(len, places.values())), "reading a sample") as update:
        for outcome, chosen in places.items():
            weight = counts[outcome] / max(1, len(chosen))
            for here, rows in results.at(outcome, chosen, columns):
                for row in rows:
                    if row[score] is None:
                        continue
                    try:
                        conversation = row_format.convert(row)
                    except Unscorable:
                        continue
                    answer = conversation.answer
                    has_system = any(message["role"] == "system" for message in conversation.messages)
                    yes_or_no = (holds_list(answer), refuses(answer), has_system, bool(conversation.tools))
                    numbers = (row[score], row.get(tokens) or 0, max(1, len(answer)), len(conversation.messages))
                    figures.append((outcome == "removed", weight, *numbers, *yes_or_no))
                update(len(here))
    columns_of = np.array(figures, dtype=np.float64).reshape(-1, len(fields(Sample))).T
    return Sample(columns_of[0].astype(bool), *columns_of[1:])
