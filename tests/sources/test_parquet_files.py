"""Parquet keeps types, values and metadata."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from support.source_rows import (
    copy,
    parquet,
    read,
)

from larf_curate.errors import DataError
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of

TYPED = pa.table(
    {
        "large": pa.array(["a\u2028", None, ""], pa.large_string()),
        "coded": pa.array(["x", "y", None]).dictionary_encode(),
        "when": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, 6), None, None], pa.timestamp("us", tz="Europe/Oslo")),
        "day": pa.array([datetime.date(1, 1, 1), None, datetime.date(2024, 2, 29)]),
        "money": pa.array([decimal.Decimal("0.10"), None, decimal.Decimal("-9999999999.99")], pa.decimal128(20, 2)),
        "list": pa.array([["a"], [], None], pa.large_list(pa.string())),
        "struct": pa.array([{"k": 1}, None, {"k": None}], pa.struct([("k", pa.int8())])),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "bytes": pa.array([b"\xff\x00", None, b""]),
        "small": pa.array([1.5, float("nan"), None], pa.float16()),
        "mixed": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"k": 1}', None, "[ 1 ]"])),
    }
).replace_schema_metadata({"made by": "hand", "pandas": '{"index_columns": []}'})


@pytest.mark.parametrize("shards", [1, 2])
def test_parquet_keeps_types_values_and_metadata(shards, tmp_path):
    home = tmp_path / "in"
    home.mkdir()
    for i in range(shards):
        pq.write_table(TYPED, home / f"{i}.parquet")
    source = open_source(str(home))
    found = pq.read_table(copy(source, tmp_path / "out.parquet"))
    assert found.schema.equals(TYPED.schema)
    assert found.schema.metadata == TYPED.schema.metadata
    for name in TYPED.column_names:
        assert str(found[name].to_pylist()) == str(TYPED[name].to_pylist() * shards), name  # str: nan is not nan


JSON_LIST = pa.array([['"x"']]).cast(pa.list_(pa.json_()))


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        pytest.param(pa.array(["x"]), pa.array(["y"], pa.large_string()), pa.large_string(), id="large-string"),
        pytest.param(pa.array([["x"]]), pa.array([["y"]], pa.large_list(pa.string())), None, id="large-list"),
        pytest.param(pa.nulls(1), pa.array(["y"]), pa.string(), id="null"),
        pytest.param(pa.array([[]], pa.list_(pa.null())), pa.array([["y"]]), pa.list_(pa.string()), id="list-of-null"),
        pytest.param(pa.array([1], pa.int32()), pa.array([2]), pa.int64(), id="integers"),
        pytest.param(pa.array(["x"]).dictionary_encode(), pa.array(["y"]), pa.string(), id="dictionary"),
        pytest.param(pa.array([{"a": 1, "b": "x"}]), pa.array([{"b": "y", "a": 2}]), None, id="order-of-fields"),
        pytest.param(pa.array([{"a": 1}]), pa.array([{"a": 2, "b": "y"}]), None, id="missing-field"),
        pytest.param(pa.nulls(1), JSON_LIST, JSON_LIST.type, id="json-in-a-list"),
        pytest.param(
            pa.array([[{"role": "user", "name": None}]]),
            pa.array([[{"role": "u", "name": "x"}]]),
            None,
            id="null-inside",
        ),
    ],
)
def test_shards_that_store_one_type_in_two_ways_are_one_dataset(one, other, kind, tmp_path):
    pq.write_table(pa.table({"x": one, "n": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"n": [2], "x": other}), tmp_path / "1.parquet")
    source = open_source(str(tmp_path))
    assert source.schema.names == ["x", "n"]
    if kind is not None:
        assert source.schema.field("x").type == kind

    def values(array: pa.Array) -> list[object]:
        return [row["x"] for row in rows_of(pa.table({"x": array}), ["x"])]

    def filled(value: object) -> object:
        return {"b": None, **value} if isinstance(value, dict) else value

    assert [filled(row["x"]) for row in read(source)] == [filled(value) for value in values(one) + values(other)]
    again = pq.read_table(copy(source, tmp_path / "out.parquet"))
    assert [row["n"] for row in rows_of(again, ["n"])] == [1, 2]


def test_nullability_does_not_set_shards_apart(tmp_path):
    for number, nullable in enumerate((False, True)):
        schema = pa.schema([pa.field("a", pa.int64(), nullable=nullable)])
        pq.write_table(pa.table({"a": [number]}, schema), tmp_path / f"{number}.parquet")
    source = open_source(str(tmp_path))
    assert source.schema.field("a").nullable
    assert read(source) == [{"a": 0}, {"a": 1}]


def test_a_column_that_one_shard_lacks_is_null_there_and_said(tmp_path, capsys):
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"a": [2]}), tmp_path / "1.parquet")
    assert read(open_source(str(tmp_path))) == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]
    assert capsys.readouterr().err == "columns that some files lack are null there: 'b' (1.parquet)\n"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": ["1"]}, r"column 'a' is int64 in .*0\.parquet and string in .*1\.parquet"),
        ({"a": [1.5]}, r"column 'a' is int64 in .*0\.parquet and double in .*1\.parquet"),
        ({"b": [1]}, "no column in common"),
    ],
)
def test_shards_that_are_two_datasets_are_refused_by_column_and_types(other, message, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table(other), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path))


def test_a_column_twice_is_refused_in_one_line(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"in\.parquet has the column 'a' twice: rename one of them"):
        open_source(str(tmp_path / "in.parquet"))


def test_feature_types_of_datasets_stay_where_shards_differ(tmp_path):
    features = Features({"label": ClassLabel(names=["no", "yes"]), "note": Value("string")})
    Dataset.from_dict({"label": [1], "note": ["x"]}, features=features).to_parquet(tmp_path / "0.parquet")
    features = Features({"label": ClassLabel(names=["no", "yes"]), "note": Value("null")})
    Dataset.from_dict({"label": [0], "note": [None]}, features=features).to_parquet(tmp_path / "1.parquet")
    written = copy(open_source(str(tmp_path)), tmp_path / "out" / "all.parquet")
    again = Dataset.from_parquet(str(written), cache_dir=str(tmp_path / "cache"))
    assert again.features["label"].names == ["no", "yes"]
    assert again.to_list() == [{"label": 1, "note": "x"}, {"label": 0, "note": None}]


def test_a_parquet_file_that_breaks_in_the_middle(tmp_path):
    path = parquet(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # pages, while the footer stays as it was
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read(open_source(str(path)))
