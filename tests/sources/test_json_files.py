"""JSON values come back as they were written."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
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
}


def identical(one: object, other: object) -> bool:
    """Equal to the last digit and type: 1 is neither 1.0 nor True."""
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
    if name != "int-then-float":  # one Arrow column of doubles: 1 becomes 1.0, equal as a number
        assert identical([json.loads(line)["x"] for line in written], values)

    table = pq.read_table(copy(source, tmp_path / "out.parquet"))
    assert rows_of(table, ["x"]) == [{"x": value} for value in values]


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
        {"a": 2, "b": {"k": "x", "l": None}, "c": None},
        {"a": None, "b": {"k": "y", "l": [1]}, "c": "late"},
    ]
    assert read(source) == full
    assert pq.read_table(copy(source, tmp_path / "out.parquet")).to_pylist() == full


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["lines", "array"])
def test_json_with_bom_crlf_and_blank_lines(kind, end, tmp_path):
    text = f"{end}{end}".join(json.dumps(row) for row in ROWS) + end
    if kind == "array":
        text = f" {end}[" + ",\r\n".join(json.dumps(row) for row in ROWS) + f"]{end}"
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(open_source(str(path))) == ROWS
