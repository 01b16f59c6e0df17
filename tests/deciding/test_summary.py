"""Summaries: what is written is read back, what is something else is refused, and workers' parts add up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from larf_curate import Threshold
from larf_curate.deciding.summary import (
    ExecutorRecord,
    OutcomeCounts,
    RunRecord,
    ScorerRecord,
    SourceRecord,
    Summary,
)
from larf_curate.deciding.tally import Tally
from larf_curate.errors import DataError
from larf_curate.rows.formats import resolve_format
from larf_curate.scoring.excerpts import MAX_CHARACTERS, Excerpt

RUN = RunRecord(
    source=SourceRecord("rows.jsonl", rows=3, shards=1, digest="a1"),
    scorer=ScorerRecord("scorer/b2", digest="b2"),
    scored="scored/c3",
    format="auto",
    executor=ExecutorRecord("local", tasks=2),
    digest="d4",
    started="2025-01-31T12-30-00Z",
    model="demo",
    version="e5",
    layers=(3, 5),
    formula="larf",
    dtype="float32",
    finished="2025-01-31T12:30:09Z",
)
SUMMARY = Summary(
    rows=3,
    scored=2,
    issues={"empty_answer": 1},
    quantiles={"lowest": 0.25, "median": 0.375, "highest": 0.5},
    highest=(Excerpt(0.5, 2, "asked", "said"), Excerpt(0.25, 1, "", "{}")),
    outcomes=OutcomeCounts(kept=1, removed=1, unscorable=1),
    threshold=Threshold.drop_top(1).fit([0.5, 0.25, math.nan]),
    execution="float32 on cpu",
    run=RUN,
)


def test_a_summary_is_read_back_as_it_was_written() -> None:
    assert Summary.from_json(SUMMARY.to_json()) == SUMMARY
    assert Summary.from_json(Summary().to_json()) == Summary()


def test_the_file_says_what_scripts_read_from_it() -> None:
    """The keys on disk stay what they are whatever the attributes are called."""
    values = json.loads(SUMMARY.to_json())
    threshold = values.pop("threshold")
    assert (threshold["rule"], threshold["amount"], threshold["value"]) == ("drop_top", 1, 0.25)
    assert (threshold["unscorable"], threshold["nulls"]) == (1, None), (
        "rows without a score, and that they are set apart"
    )
    assert values == {
        "rows": 3,
        "scored": 2,
        "kept": 1,
        "removed": 1,
        "unscorable": 1,
        "issues": {"empty_answer": 1},
        "score_quantiles": {"lowest": 0.25, "median": 0.375, "highest": 0.5},
        "highest": [
            {"score": 0.5, "row": 2, "prompt": "asked", "answer": "said"},
            {"score": 0.25, "row": 1, "prompt": "", "answer": "{}"},
        ],
        "how": "float32 on cpu",
        "run": {
            "source": {"name": "rows.jsonl", "rows": 3, "shards": 1, "digest": "a1"},
            "scorer": {"directory": "scorer/b2", "digest": "b2"},
            "scored": "scored/c3",
            "format": "auto",
            "executor": {"kind": "local", "tasks": 2},
            "digest": "d4",
            "started": "2025-01-31T12-30-00Z",
            "model": "demo",
            "version": "e5",
            "layers": [3, 5],
            "formula": "larf",
            "dtype": "float32",
            "finished": "2025-01-31T12:30:09Z",
        },
    }


def damaged(change: Mapping[str, Any]) -> str:
    return json.dumps({**json.loads(SUMMARY.to_json()), **change})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        damaged({"rows": "many"}),
        damaged({"issues": ["empty_answer"]}),
        damaged({"run": {"digest": "d4"}}),
        damaged({"run": "d4"}),
        damaged({"highest": [{"score": 0.5}]}),
        damaged({"threshold": {"rule": "luck"}}),
    ],
)
def test_something_else_is_no_summary(text: str) -> None:
    with pytest.raises(DataError, match=r"^not the summary of a run: \S"):
        Summary.from_json(text)


def test_a_summary_fits_a_line_and_cannot_be_changed() -> None:
    assert repr(SUMMARY) == "Summary(3 rows, 2 scored: 1 kept, 1 removed, 1 unscorable; median score +0.3750)"
    assert repr(Summary(rows=2)) == "Summary(2 rows, 0 scored)"
    with pytest.raises(FrozenInstanceError):
        SUMMARY.rows = 4  # type: ignore[misc]


def rows_with(scores: list[float]) -> list[dict[str, str]]:
    return [{"prompt": f"q{number}", "completion": "a" * (MAX_CHARACTERS + number)} for number in range(len(scores))]


def test_parts_seen_by_workers_add_up_to_the_whole() -> None:
    """Cut anywhere, merged in any order, through JSON: the same summary as in one pass."""
    scores = np.random.default_rng(0).normal(size=60).round(1)  # rounded: many tie
    scores[::7] = math.nan
    rows = rows_with(list(scores))
    row_format = resolve_format("auto", ["prompt", "completion"])
    issues = ["empty_answer" if math.isnan(score) else None for score in scores]
    whole = Tally()
    whole.add(rows, row_format, scores, issues)
    merged = Tally()
    for first, stop in ((40, 60), (0, 3), (3, 40)):
        part = Tally()
        part.add(rows[first:stop], row_format, scores[first:stop], issues[first:stop], first)
        merged.merge(Summary.from_json(part.summary().to_json()))
    assert merged.summary() == whole.summary()
    ranked = sorted((-score, number) for number, score in enumerate(scores) if not math.isnan(score))[:10]
    highest = whole.summary().highest
    assert [(-excerpt.score, excerpt.row) for excerpt in highest if excerpt.score is not None] == ranked
    assert all(excerpt.prompt == f"q{excerpt.row}" for excerpt in highest)
    assert {len(excerpt.answer) for excerpt in highest} == {MAX_CHARACTERS}, "a summary keeps no whole texts"
