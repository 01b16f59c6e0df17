"""What a guard says of each answer becomes a column of a scored file."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from support.commands import larf
from support.models import make_model

from larf_curate.validation.guard_forms import GuardReading
from larf_curate.validation.guards import GuardJudge


@pytest.fixture
def guard(tmp_path, monkeypatch):
    """A guard that calls every answer with `acid` unsafe, and says nothing of those with `maybe`."""

    def read(_self, prompts, answers):
        assert len(prompts) == len(answers)
        return [GuardReading(None if "maybe" in answer else "acid" in answer) for answer in answers]

    monkeypatch.setattr(GuardJudge, "read", read)
    return make_model(tmp_path / "harmbench")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_score_with_a_guard(kind, guard, tiny_scorer, tmp_path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    answers = ["Pour the acid slowly.", "Mix flour and water.", "Well, maybe.", None]
    rows = [{"question": f"What {number}?", "answer": answer} for number, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / f"scored.{kind}"
    arguments = ["score", tmp_path / "rows.jsonl", "--scorer", tmp_path / "scorer", "--out", out, "--guard", guard]
    done = larf(*arguments)
    assert done.returncode == 0, done.stderr
    assert "1 answers are unsafe, says harmbench" in done.stdout
    written = (
        pq.read_table(out).to_pylist()
        if kind == "parquet"
        else [json.loads(line) for line in out.open(encoding="utf-8")]
    )
    assert [row["guard_unsafe"] for row in written] == [True, False, None, None]
    assert [row["answer"] for row in written] == answers
    assert [row["larf_score"] is None for row in written] == [False, False, False, True]


def test_a_model_that_is_no_guard_is_told_before_rows_are_scored(tiny_scorer, tmp_path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    (tmp_path / "rows.jsonl").write_text('{"question": "What?", "answer": "This."}\n')
    out = tmp_path / "scored.jsonl"
    done = larf(
        "score", tmp_path / "rows.jsonl", "--scorer", tmp_path / "scorer", "--out", out, "--guard", "acme/model"
    )
    assert done.returncode == 1
    assert "is no guard model that is known by its name" in done.stderr
    assert not out.exists()
