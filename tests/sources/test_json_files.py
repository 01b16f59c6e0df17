"""JSON values come back as they were written."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.source_rows import (
    ROWS,
    copy,
    lines,
    read,
)

from larf_curate.sources import json_files
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of

COLUMNS = {
    "dates": ["2024-01-02", "2024-01-02T03:04:05Z", "12:00"],
    "figures": ["007", "1e5", "+1", " 1 "],
    "not-available": ["NA", "null", "None", "", "nan"],
    "line-ends": ["a\u2028b", "c\u2029d\x85e", "f\r\ng\x0bh\x0ci\x1cj"],
    "controls": ["\x00", "\x1b[31m", "\u202eabc\u202c", "\ufeff", "\U0001f600"],
    "mixed": [1, "one", None, 2.5, True, ["x"], {"k": None}, '"quoted"'],
    "bool-then-int": [True, False, 1, 0],
    "float-then-bool": [1.5, True, None],
    "int-then-float": [1, 2.5, None],
    "int-beyond-double": [2**60 + 1, 2.5],
    "int-beyond-int64": [2**70, 1, -(2**63)],
    "lists": [[], ["a", None], None, [""]],
    "lists-of-nothing": [[], [], None],
    "lists-mixed": [["a"], [1], [None, {"k": 2}]],
    "objects": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, None],
    "objects-empty": [{}, {}, None],
    "objects-nested-empty": [{"a": {}}, {"a": {}}],
    "objects-mixed": [{"a": 1}, {"a": "x"}],
    "turns": [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "2024-01-02"}], []],
    "only-null": [None, None, None],
    "keys-that-differ": [{"b": "x"}, {}, {"c": None}, {"c": None, "b": 1}],
    "keys-in-another-order": [{"a": 1, "b": 2}, {"b": 2, "a": 1}],
    "turns-with-and-without-calls": [
        [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}],
        [{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"city": "Rome"}}]}],
        [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"name": "f", "arguments": {"expr": "1+1", "digits": 2}}],
            }
        ],
    ],
    "content-in-parts": [[{"content": "Hi"}], [{"content": [{"type": "text", "text": "Hi"}]}]],
    "null-inside-a-json-string": ['{"a": null}', "{}"],
}


def identical(one: object, other: object) -> bool:
    """Equal to the last digit, type and order of keys: 1 is neither 1.0 nor True."""
    return json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize("name", COLUMNS)
def test_json_values_survive_being_written(name, at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "ROWS_AT_ONCE", at_once)
    values = COLUMNS[name]
    path = tmp_path / "in.jsonl"
    path.write_text(lines([{"x": value} for value in values]), encoding="utf-8", newline="")
    source = open_source(str(path))
    assert source.rows == len(values)

    written = copy(source, tmp_path / "out.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    assert [json.loads(line)["x"] for line in written] == values
    assert identical([json.loads(line)["x"] for line in written], values)

    table = pq.read_table(copy(source, tmp_path / "out.parquet"))
    assert identical(rows_of(table, ["x"]), [{"x": value} for value in values])


def test_columns_mixed_in_json_are_typed_as_json(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(lines([{"x": 1}, {"x": "one"}]))
    table = pq.read_table(copy(open_source(str(path)), tmp_path / "out.parquet"))
    assert table.schema.field("x").type == pa.json_()
    assert table["x"].to_pylist() == ["1", '"one"']


@pytest.mark.parametrize("at_once", [1, 100])
def test_columns_and_keys_that_come_late_are_not_lost(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "ROWS_AT_ONCE", at_once)
    rows = [{"a": 1}, {"a": 2, "b": {"k": "x"}}, {"c": "late", "b": {"k": "y", "l": [1]}}]
    path = tmp_path / "in.jsonl"
    path.write_text(lines(rows))
    source = open_source(str(path))
    assert source.schema.names == ["a", "b", "c"]
    full = [
        {"a": 1, "b": None, "c": None},
        {"a": 2, "b": {"k": "x"}, "c": None},
        {"a": None, "b": {"k": "y", "l": [1]}, "c": "late"},
    ]
    assert read(source) == full
    table = pq.read_table(copy(source, tmp_path / "out.parquet"))
    assert rows_of(table, table.column_names) == full


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["lines", "array"])
def test_json_with_bom_crlf_and_blank_lines(kind, end, tmp_path):
    text = f"{end}{end}".join(json.dumps(row) for row in ROWS) + end
    if kind == "array":
        text = f" {end}[" + ",\r\n".join(json.dumps(row) for row in ROWS) + f"]{end}"
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(open_source(str(path))) == ROWS


# What `datasets` makes of mixed JSON --------------------------------------------------------------------------------

MIXED = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"city": None}}]},
        ]
    },
]


@pytest.mark.parametrize("way", ["parquet", "saved"])
def test_json_inside_lists_that_datasets_made_is_decoded_and_written_as_json(way, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines(MIXED))
    dataset = load_dataset("json", data_files=str(tmp_path / "in.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    if way == "parquet":
        dataset.to_parquet(tmp_path / "in.parquet")
    else:
        dataset.save_to_disk(tmp_path / "saved")
    source = open_source(str(tmp_path / ("in.parquet" if way == "parquet" else "saved")))
    assert source.schema.field("messages").type.value_type == pa.json_(), "what datasets makes of it today"
    assert read(source) == MIXED
    written = copy(source, tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == MIXED
    again = load_dataset(
        "parquet", data_files=str(copy(source, tmp_path / "out.parquet")), cache_dir=str(tmp_path / "c")
    )
    assert list(again["train"]) == MIXED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON, min_size=2, max_size=5), at_once=st.sampled_from([1, 2, 100]))
@pytest.mark.slow
def test_any_json_value_comes_back_as_it_was_read(values, at_once, tmp_path, monkeypatch):
    # Two rows or more: a single one with a list of objects may be a whole dataset under a key, and is asked about.
    monkeypatch.setattr(json_files, "ROWS_AT_ONCE", at_once)
    path = tmp_path / "in.jsonl"
    path.write_text(lines([{"x": value} for value in values]), encoding="utf-8", newline="")
    wanted = [json.loads(json.dumps(value)) for value in values]
    source = open_source(str(path))
    written = copy(source, tmp_path / "out.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert identical([json.loads(line)["x"] for line in written], wanted)
    assert identical(rows_of(pq.read_table(copy(source, tmp_path / "out.parquet")), ["x"]), [{"x": v} for v in wanted])


@pytest.mark.parametrize("shape", ["array", "lines"])
def test_rows_that_are_bare_lists_of_turns_get_a_column(shape, tmp_path):
    rows = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}."}] for n in range(3)]
    (tmp_path / "in.json").write_text(json.dumps(rows, indent=1) if shape == "array" else lines(rows))
    assert read(open_source(str(tmp_path / "in.json"))) == [{"messages": turns} for turns in rows]
