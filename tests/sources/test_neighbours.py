"""A row is read the same alone and among any neighbours, whatever keys and types those have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.source_rows import lines

from larf_curate import LARFScorer
from larf_curate.errors import Unscorable
from larf_curate.rows.formats import resolve_format
from larf_curate.rows.turns import Conversation
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of


def calling(**arguments: Any) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "run", "arguments": arguments}}
    parameters = {"properties": {name: {"type": "string"} for name in arguments}}
    tool = {"type": "function", "function": {"name": "run", "parameters": parameters}}
    turns = [{"role": "user", "content": "Go."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {"messages": turns, "tools": [tool]}


ROWS = [
    calling(city="Rome"),
    calling(expr="1+1", digits=2),
    calling(digits=2.5, expr="x"),
    {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi?"}]}, {"role": "assistant", "content": 5}]},
]


def conversations(path: Path, rows: list[dict[str, Any]]) -> list[Conversation | str]:
    path.write_text(lines(rows), encoding="utf-8")
    source = open_source(str(path))
    row_format = resolve_format("auto", source.schema.names)
    read: list[Conversation | str] = []
    for table in source.tables(1000):
        for row in rows_of(table, row_format.columns(source.schema.names)):
            try:
                read.append(row_format.convert(row))
            except Unscorable as error:
                read.append(error.issue.value)
    return read


def test_calls_and_tools_have_their_own_keys_alone(tmp_path):
    alone = [conversations(tmp_path / "one.jsonl", [row])[0] for row in ROWS]
    assert alone[0].messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Rome"}
    assert conversations(tmp_path / "all.jsonl", ROWS) == alone
    backwards = conversations(tmp_path / "all.jsonl", ROWS[::-1])
    assert list(map(repr, backwards[::-1])) == list(map(repr, alone)), "with the order of keys, and 1 apart from 1.0"


@pytest.mark.parametrize("way", ["jsonl", "parquet", "map", "list"])
def test_scores_of_tool_calls_are_those_of_the_row_alone(way, tmp_path, tiny_scorer: LARFScorer):
    rows = ROWS[:3]
    alone = [tiny_scorer.annotate([row]) for row in rows]
    (tmp_path / "in.jsonl").write_text(lines(rows))
    dataset = load_dataset("json", data_files=str(tmp_path / "in.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    if way == "map":
        columns = dataset.map(tiny_scorer, batched=True)
        tokens, scores = columns["larf_tokens"], columns["larf_score"]
    elif way == "list":
        together = tiny_scorer.annotate(rows)
        tokens, scores = together.tokens, together.score
    else:
        if way == "parquet":
            dataset.to_parquet(tmp_path / "in.parquet")
        table = next(open_source(str(tmp_path / f"in.{way}")).tables(10))
        together = tiny_scorer.annotate(rows_of(table, table.column_names))
        tokens, scores = together.tokens, together.score
    assert list(tokens) == [each.tokens[0] for each in alone]
    np.testing.assert_allclose(list(scores), [each.score[0] for each in alone], atol=1e-4)


def test_null_in_a_struct_counts_as_no_key_and_null_in_a_json_string_is_kept():
    struct = {"messages": [*ROWS[0]["messages"][:1], {"role": "assistant", "tool_calls": [{"name": "run"}]}]}
    call = struct["messages"][1]["tool_calls"][0]
    convert = resolve_format("messages", ["messages"]).convert

    def arguments(value: Any) -> Any:
        call["arguments"] = value
        return convert(struct).messages[-1]["tool_calls"][0]["function"]["arguments"]

    assert arguments({"city": "Rome", "expr": None, "deep": {"a": None}}) == {"city": "Rome", "deep": {}}
    assert arguments('{"city": "Rome", "expr": null}') == {"city": "Rome", "expr": None}


SCALARS = st.integers(-5, 5) | st.floats(-1, 1) | st.booleans() | st.text(max_size=3) | st.none()
ARGUMENTS = st.dictionaries(
    st.sampled_from("abc"), SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from("de"), SCALARS)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ARGUMENTS.map(lambda arguments: calling(**arguments)) | st.sampled_from(ROWS), min_size=2, max_size=5))
@pytest.mark.slow
def test_any_row_is_read_the_same_alone_and_among_any_neighbours(tmp_path, rows):
    together = conversations(tmp_path / "all.jsonl", rows)
    alone = [conversations(tmp_path / "one.jsonl", [row])[0] for row in rows]
    assert [repr(each) for each in together] == [repr(each) for each in alone]
