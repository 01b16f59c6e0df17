"""What this project writes is read by `load_dataset`, whatever shape a result has."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from larf_curate import LARFScorer, Threshold
from larf_curate.engines.local_files import score_file, split_file
from larf_curate.recipe.recipe import Recipe
from larf_curate.sources.files import open_source

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("no_row_is_run")]


def loaded(path: Path, cache: Path) -> list[dict]:
    files = {"data_files": str(path)} if path.is_file() else {}
    name = {".jsonl": "json", ".parquet": "parquet"}.get(path.suffix, str(path))
    return load_dataset(name, **files, split="train", cache_dir=str(cache)).to_list()


def scored(path: Path, scores: list[float | None], rows_at_once: int = 0) -> str:
    """A scored file with one row for each score, in row groups of so many rows."""
    columns = {"question": [f"q{i}" for i in range(len(scores))], "larf_score": pa.array(scores, pa.float32())}
    pq.write_table(pa.table(columns), path, row_group_size=rows_at_once or None)
    return str(path)


SHAPES = {
    "one row": ([0.5], 1),
    "none removed": ([0.1, 0.2, 0.3], 0),
    "all removed": ([0.1, 0.2, 0.3], 3),
    "nothing removed among the first rows": ([0.0] * 9000 + [0.5] * 5, 5),
    "thousands removed, here and there": ([0.5 if i % 3 else 0.1 for i in range(20_000)], 13_333),
    "without a score": ([None, 0.1, None, 0.2], 1),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_of_a_split_are_loaded(shape, tmp_path):
    scores, removed = SHAPES[shape]
    source = open_source(scored(tmp_path / "in.parquet", scores, 1000))
    summary = split_file(source, Threshold.drop_top(removed), tmp_path / "out")
    counts = {"kept": summary.outcomes.kept, "removed": removed, "unscorable": sum(score is None for score in scores)}
    for outcome, count in counts.items():
        part = tmp_path / "out" / outcome
        metadata = pq.read_metadata(part / "data.parquet")
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        assert sum(groups) == count
        assert 0 not in groups
        assert open_source(str(part)).rows == count
        if count:
            rows = loaded(part, tmp_path / "cache")
            assert len(rows) == count
            assert list(rows[0]) == ["question", "larf_score"]
    assert sum(counts.values()) == len(scores)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_scored_rows_are_loaded(ending, tmp_path, tiny_scorer: LARFScorer):
    call = {"type": "function", "function": {"name": "run", "arguments": {"city": "Rome"}}}
    rows = [
        {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}], "n": 1},
        {"messages": [{"role": "user", "content": "Go."}, {"role": "assistant", "tool_calls": [call]}], "n": 1.5},
        {"messages": [], "n": None},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(open_source(str(tmp_path / "in.jsonl")), tiny_scorer, tmp_path / f"out{ending}")
    again = loaded(tmp_path / f"out{ending}", tmp_path / "cache")
    assert [{name: row[name] for name in ("messages", "n")} for row in again] == rows
    assert [row["larf_issue"] for row in again] == [None, None, "empty_conversation"]


@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.usefixtures("blank_pictures")
def test_parts_of_a_run_are_loaded(tasks, tmp_path, tiny_scorer: LARFScorer, monkeypatch):
    """Four shards, of which one alone has a row to remove."""
    monkeypatch.chdir(tmp_path)
    tiny_scorer.save_pretrained("scorer")
    rows = [{"instruction": f"Tell me of {i}.", "output": f"Bread and salt, {i} of it."} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "source": {"path": "rows.jsonl", "shard_rows": 10},
        "scorer": {"from": "scorer"},
        "threshold": {"drop_top": 1},
        "executor": {"tasks": tasks},
        "output": "out",
    }
    Recipe.from_text(json.dumps(recipe)).run()
    assert len(loaded(tmp_path / "out" / "kept", tmp_path / "cache")) == 39
    assert len(loaded(tmp_path / "out" / "removed", tmp_path / "cache")) == 1
    assert open_source(str(tmp_path / "out" / "unscorable")).rows == 0


def test_the_index_of_pandas_survives(tmp_path, tiny_scorer: LARFScorer):
    frame = pd.DataFrame(
        {"question": ["Hi?", "Why?", "Who?"], "answer": ["Hello.", "So.", "I."]}, index=["a", "b", "c"]
    )
    frame.index.name = "key"
    frame.to_parquet(tmp_path / "in.parquet")
    score_file(open_source(str(tmp_path / "in.parquet")), tiny_scorer, tmp_path / "scored.parquet")
    again = pd.read_parquet(tmp_path / "scored.parquet")
    assert (again.index.name, list(again.index)) == ("key", ["a", "b", "c"])
    assert list(again.columns[:3]) == ["question", "answer", "larf_score"]
    split_file(open_source(str(tmp_path / "scored.parquet")), Threshold.drop_top(1), tmp_path / "out")
    parts = [pd.read_parquet(tmp_path / "out" / outcome / "data.parquet") for outcome in ("kept", "removed")]
    assert sorted(pd.concat(parts).index) == ["a", "b", "c"]


@pytest.mark.usefixtures("blank_pictures")
def test_the_index_of_pandas_survives_a_recipe(tmp_path, tiny_scorer: LARFScorer, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_scorer.save_pretrained("scorer")
    dates = pd.date_range("2024-02-01", periods=30, name="day", tz="Europe/Berlin")
    frame = pd.DataFrame({"question": [f"What is {i}?" for i in range(30)], "answer": "It is so."}, index=dates)
    frame.to_parquet("in.parquet")
    recipe = {
        "source": {"path": "in.parquet", "shard_rows": 8},
        "scorer": {"from": "scorer"},
        "threshold": {"drop_top": 5},
        "output": "out",
    }
    Recipe.from_text(json.dumps(recipe)).run()
    kept, removed = (pd.read_parquet(f"out/{outcome}") for outcome in ("kept", "removed"))
    assert kept.index.name == removed.index.name == "day"
    assert sorted([*kept.index, *removed.index]) == list(dates)
    assert list(kept.columns[:3]) == ["question", "answer", "larf_score"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON, min_size=1, max_size=8), ending=st.sampled_from([".jsonl", ".parquet"]))
def test_any_json_value_survives_score_and_filter(values, ending, tmp_path, tiny_scorer: LARFScorer):
    rows = [{"question": "Hi?", "answer": "Hello.", "x": value, "n": place} for place, value in enumerate(values)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    score_file(open_source(str(tmp_path / "in.jsonl")), tiny_scorer, tmp_path / f"scored{ending}")
    split_file(open_source(str(tmp_path / f"scored{ending}")), Threshold.drop_top(1), tmp_path / "out")
    parts = [open_source(str(tmp_path / "out" / outcome)) for outcome in ("kept", "removed")]
    from support.source_rows import read

    came_out = sorted((row for part in parts for row in read(part)), key=lambda row: row["n"])
    wanted = [json.loads(json.dumps(value)) for value in values]
    assert [json.dumps(row["x"]) for row in came_out] == [json.dumps(value) for value in wanted]
