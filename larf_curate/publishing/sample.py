"""What can only be known by reading texts is measured on a sample: always the same one, never more than fits."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..errors import Unscorable
from ..progress import progress
from ..rows.wording import is_list, refuses
from ..scoring.columns import SCORE, TOKENS
from .results import Results
from .statistics import Array

MOST = 50_000  # rows a side, kept and removed
_SEED = 0


@dataclass(frozen=True)
class Sample:
    """Scored rows, kept and removed ones: all of them, or as many as `MOST` of each, drawn evenly.

    Attributes:
        removed: bool [n]; the others are kept.
        weight: float64 [n], rows that each one stands for.
        score, tokens: its columns, float64 [n].
        characters: of the answer. turns: of the conversation. The rest is 1 or 0: is the answer a list, does it refuse,
            has the conversation a system turn, tools. All float64 [n].
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


def draw_places(rows: int, most: int) -> NDArray[np.int64]:
    """Ascending places of `most` rows out of `rows`, evenly drawn, the same at every call."""
    if rows <= most:
        return np.arange(rows, dtype=np.int64)
    return np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False, shuffle=False)).astype(np.int64)


def draw_sample(results: Results, most: int = MOST) -> Sample | None:
    """Read the rows of the sample; None where no format says how rows become conversations.

    Rows that became kept or removed without a score are left out.
    """
    form = results.form
    if form is None:
        return None
    extra = [name for name in (SCORE, TOKENS) if name in results.schema.names]
    columns = [*dict.fromkeys([*form.columns(results.schema.names), *extra])]
    found: list[tuple[float, ...]] = []
    places = {outcome: draw_places(results.rows[outcome], most) for outcome in ("kept", "removed")}
    with progress(sum(map(len, places.values())), "reading a sample") as update:
        for outcome, chosen in places.items():
            weight = results.rows[outcome] / max(1, len(chosen))
            for here, rows in results.at(outcome, chosen, columns):
                for row in rows:
                    if row[SCORE] is None:
                        continue
                    try:
                        said = form.convert(row)
                    except Unscorable:
                        continue
                    answer = said.answer
                    facts = (is_list(answer), refuses(answer), _has_system(said.messages), bool(said.tools))
                    numbers = (row[SCORE], row.get(TOKENS) or 0, max(1, len(answer)), len(said.messages))
                    found.append((outcome == "removed", weight, *numbers, *facts))
                update(len(here))
    columns_of = np.array(found, dtype=np.float64).reshape(-1, len(fields(Sample))).T
    return Sample(columns_of[0].astype(bool), *columns_of[1:])


def _has_system(messages: tuple[dict[str, object], ...]) -> bool:
    return any(message["role"] == "system" for message in messages)
