"""The results of a run have one reader: report, validation and audit see the same rows and refuse the same faults."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_runs import SCORER

from larf_curate import Threshold
from larf_curate.deciding.layout import OUTCOMES, SUMMARY
from larf_curate.deciding.results import Results, run_digest
from larf_curate.errors import DataError
from larf_curate.scoring.columns import SCORE
from larf_curate.validation.audit_sample import candidates_of, usual_column
from larf_curate.validation.scored_rows import ScoredRows

READERS: dict[str, Callable[[Path], object]] = {
    "report": Results.open,
    "validation": ScoredRows.open,
    "audit": lambda home: candidates_of(home, [SCORE]),
}
NAMES = ["first", "second", "third", "fourth", "fifth", "sixth"]
SCORES = [0.1, 0.9, None, 0.4, 0.8, 0.2]
"""Second and fifth are removed, and the third has none."""


ROWS = [{"question": f"The {name}?", "answer": name, "extra": {"of": [name]}} for name in NAMES]


@pytest.fixture
def run(make_run: Any) -> Path:
    home: Path = make_run(ROWS, SCORES, Threshold.drop_top(2))
    return home


@pytest.fixture
def run_by_mine(make_run: Any) -> Path:
    """The same by a score under another prefix, with one beside it that would have split the rows otherwise."""
    rows = [{**row, "larf_score": 5.0 - place, "larf_weight": 0.5} for place, row in enumerate(ROWS)]
    home: Path = make_run(rows, SCORES, Threshold.drop_top(2), prefix="mine")
    return home


def answers(rows: Sequence[dict[str, Any]]) -> list[str]:
    assert all(row["extra"] == {"of": [row["answer"]]} for row in rows)
    return [row["answer"] for row in rows]


@pytest.mark.parametrize(("made", "column"), [("run", "larf_score"), ("run_by_mine", "mine_score")])
def test_all_read_the_same_rows(made: str, column: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(made)
    expected = {"kept": ["first", "fourth", "sixth"], "removed": ["second", "fifth"], "unscorable": ["third"]}
    results = Results.open(run)
    assert {name: answers(table.to_pylist()) for name in OUTCOMES for table in results.tables(name)} == expected
    assert results.digest == run_digest((run / SUMMARY).read_bytes())

    scored = ScoredRows.open(run)
    assert answers(scored.take(scored.kept)) == expected["kept"]
    assert answers(scored.take(scored.removed)) == expected["removed"]
    assert [row["larf_score"] for row in scored.take(scored.removed)] == pytest.approx([0.9, 0.8])
    assert "larf_weight" not in scored.table.column_names, "the weight of another score counts for nothing"
    assert scored.digest == results.digest

    assert usual_column(run) == candidates_of(run, []).split_by == column
    candidates = candidates_of(run, [column])
    assert candidates.removed is not None
    assert candidates.of_columns == {column: SCORER}
    everywhere = candidates.fetch(np.arange(6))
    assert answers(everywhere) == [name for names in expected.values() for name in names]
    assert answers(candidates.fetch(np.array([1, 4, 5]))) == ["fourth", "fifth", "third"]
    assert answers([everywhere[place] for place in np.flatnonzero(candidates.removed)]) == expected["removed"]
    by_name = dict(zip(NAMES, SCORES, strict=True))
    for name, score in zip(answers(everywhere), candidates.scores[column], strict=True):
        assert score == pytest.approx(np.nan if by_name[name] is None else by_name[name], nan_ok=True)
    assert candidates.summary == results.digest
    assert candidates.threshold == results.threshold


def lose_rows(home: Path) -> None:
    next((home / "removed").rglob("*.parquet")).unlink()


def link_elsewhere(home: Path) -> None:
    path = next((home / "kept").rglob("*.parquet"))
    path.rename(home.parent / "elsewhere.parquet")
    path.symlink_to(home.parent / "elsewhere.parquet")


def cut_short(home: Path) -> None:
    path = next((home / "kept").rglob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])


def not_split(home: Path) -> None:
    told = json.loads((home / SUMMARY).read_text())
    (home / SUMMARY).write_text(json.dumps({key: told[key] for key in told if key not in OUTCOMES}))


def no_prefix(home: Path) -> None:
    (home / SUMMARY).write_text(json.dumps({**json.loads((home / SUMMARY).read_text()), "prefix": "../Mine"}))


def no_summary(home: Path) -> None:
    (home / SUMMARY).write_text("{}")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_rows, r"removed holds 0 rows and larf_summary.json says 2"),
        (link_elsewhere, r"kept/.*parquet is a link"),
        (cut_short, r"kept/.*parquet cannot be read"),
        (not_split, "scored but not split"),
        (no_summary, "not the summary of a run"),
        (no_prefix, r"not the summary of a run: .* not '../Mine'"),
    ],
)
def test_all_refuse_what_is_not_whole(run: Path, reader: str, spoil: Callable[[Path], None], words: str) -> None:
    spoil(run)
    with pytest.raises(DataError, match=words) as caught:
        READERS[reader](run)
    assert "\n" not in str(caught.value)
