"""Whoever writes rows cannot make a score of what is none."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import larf

from larf_curate import Threshold

# Scores that are none ------------------------------------------------------------------------------------------------

NO_SCORES = {
    "texts": ["0.1", "0.2", "0.3"],
    "truth values": [True, False, True],
    "infinite": [0.1, math.inf, 0.3],
    "infinite downwards": [0.1, -math.inf, 0.3],
}


@pytest.mark.parametrize("kind", NO_SCORES)
def test_scores_that_are_no_numbers_are_refused_with_column_and_row(tmp_path: Path, kind: str) -> None:
    rows = [{"question": "q", "answer": "a", "larf_score": score} for score in NO_SCORES[kind]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    row = 1 if "infinite" in kind else 0
    done = larf("filter", tmp_path / "rows.parquet", "--out", tmp_path / "out", "--drop-top", 1)
    assert done.returncode == 1
    assert "'larf_score'" in done.stderr
    assert f"row {row}" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", NO_SCORES)
def test_a_report_refuses_them_too(plain_run: Path, kind: str) -> None:
    (path,) = (plain_run / "removed").iterdir()
    table = pq.read_table(path)
    values = (NO_SCORES[kind] * len(table))[: len(table)]
    place = table.schema.names.index("larf_score")
    pq.write_table(table.set_column(place, "larf_score", pa.array(values)), path)
    done = larf("report", plain_run)
    assert done.returncode == 1
    assert "a defect" not in done.stderr
    assert "'larf_score'" in done.stderr
    assert "row" in done.stderr


def test_scores_in_text_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer,larf_score\nq,a,0.5\n")
    rows = [{"question": "q", "answer": "a", "larf_score": score} for score in (0.5, "0.7")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, row in (("rows.csv", 0), ("rows.jsonl", 1)):
        done = larf("filter", tmp_path / name, "--out", tmp_path / "out", "--drop-top", 1)
        assert done.returncode == 1
        assert "'larf_score' holds " in done.stderr
        assert f"row {row}" in done.stderr


@pytest.mark.parametrize("scores", [["0.5", "0.7"], [True, False], [0.5, "0.7"]], ids=str)
def test_a_threshold_takes_numbers_alone(scores: list[object]) -> None:
    with pytest.raises(ValueError, match="numbers"):
        Threshold.drop_top(1).fit(scores)
