"""What a guard says of each answer becomes a column of a scored file."""

from __future__ import annotations

import csv
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


def test_a_guard_reads_every_split_and_tables_of_texts(guard, tiny_scorer, tmp_path):
    tiny_scorer.save_pretrained(tmp_path / "scorer")
    answers = {"train": ["Pour the acid slowly.", "Mix flour and water."], "test": ["Stir the acid.", None]}
    for split, texts in answers.items():
        lines = [{"question": f"What {number}?", "answer": text} for number, text in enumerate(texts)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared = ["--scorer", tmp_path / "scorer", "--guard", guard]
    done = larf("score", tmp_path / "data", *shared, "--out", tmp_path / "scored", "--split", "all")
    assert done.returncode == 0, done.stderr
    assert "2 answers are unsafe, says harmbench" in done.stdout
    found = {
        split: pq.read_table(next((tmp_path / "scored").rglob(f"*{split}*.parquet")))["guard_unsafe"].to_pylist()
        for split in answers
    }
    assert found == {"train": [True, False], "test": [True, None]}
    done = larf("score", tmp_path / "data" / "train.jsonl", *shared, "--out", tmp_path / "scored.csv")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "scored.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["guard_unsafe"] for row in rows] == ["True", "False"]
    assert [float(row["larf_score"]) for row in rows] == [
        pytest.approx(score)
        for score in pq.read_table(next((tmp_path / "scored").rglob("*train*.parquet")))["larf_score"].to_pylist()
    ]


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
