"""The rows to look at: the highest of those removed, and those that just stayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Unscorable
from ..scoring.columns import ISSUE, SCORE
from .results import Ints, Results

LONGEST = 2_000  # characters of a text


@dataclass(frozen=True)
class Excerpt:
    """One row, its texts cut to `LONGEST` characters; `cut` says whether they were.

    `place` counts the rows of its outcome from 0, in the order of its files.
    """

    outcome: str
    place: int
    score: float | None
    issue: str | None
    prompt: str
    answer: str
    cut: bool

    @property
    def reason(self) -> str:
        if self.score is None:
            return (self.issue or "no score").replace("_", " ")
        return "score above the threshold" if self.outcome == "removed" else "just under the threshold"


def highest(results: Results, outcome: str, count: int) -> list[Excerpt]:
    """The rows of an outcome that score highest, from the highest down; those without a score come last."""
    places = _highest_places(results, outcome, count)
    form = results.form
    extra = [name for name in (SCORE, ISSUE) if name in results.schema.names]
    columns = [*dict.fromkeys([*(form.columns(results.schema.names) if form else results.schema.names), *extra])]
    found = []
    for here, rows in results.at(outcome, np.sort(places), columns):
        for place, row in zip(here, rows, strict=True):
            prompt, answer = _texts(results, row)
            cut = max(len(prompt), len(answer)) > LONGEST
            texts = (prompt[:LONGEST], answer[:LONGEST])
            found.append(Excerpt(outcome, int(place), row[SCORE], row.get(ISSUE), *texts, cut))
    order = {int(place): number for number, place in enumerate(places)}
    return sorted(found, key=lambda excerpt: order[excerpt.place])


def _highest_places(results: Results, outcome: str, count: int) -> Ints:
    """Places of the `count` highest scores; of equal ones the first."""
    best, places, first = np.zeros(0), np.zeros(0, np.int64), 0
    for chunk in results.values(SCORE, [outcome])():
        best = np.concatenate([best, np.where(np.isnan(chunk), -np.inf, chunk)])
        places = np.concatenate([places, np.arange(first, first + len(chunk))])
        first += len(chunk)
        order = np.argsort(-best, kind="stable")[:count]
        best, places = best[order], places[order]
    return places


def _texts(results: Results, row: Mapping[str, Any]) -> tuple[str, str]:
    try:
        said = results.form.convert(row) if results.form else None
    except Unscorable:
        said = None
    if said is None:
        return "", str({name: value for name, value in row.items() if not name.startswith("larf_")})
    return said.prompt, said.answer
