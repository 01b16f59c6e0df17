"""Parquet keeps types, values and metadata."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.source_rows import (
    copy,
    parquet,
    read,
)

from larf_curate.errors import DataError
from larf_curate.sources.files import open_source

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


@pytest.mark.parametrize("other", [{"a": ["1"]}, {"b": [1]}, {"a": [1], "b": [1]}])
def test_shards_with_other_columns_are_refused(other, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table(other), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet has other columns or types than .*0\.parquet"):
        open_source(str(tmp_path))


def test_a_parquet_file_that_breaks_in_the_middle(tmp_path):
    path = parquet(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # pages, while the footer stays as it was
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read(open_source(str(path)))
