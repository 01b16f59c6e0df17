"""A plan of shards: divided among tasks, sent to workers, and read again as it was made."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from larf_curate.errors import DataError, LarfError
from larf_curate.runs.dividing import plan_shards
from larf_curate.runs.shards import Plan, Shard
from larf_curate.sources import json_files
from larf_curate.sources.files import open_source
from larf_curate.sources.tables import Source


def numbered(path: Path, count: int, first: int = 0) -> Path:
    """A Parquet file of rows that know their number."""
    schema = pa.schema({"i": pa.int64(), "text": pa.string()})
    rows = {"i": range(first, first + count), "text": [f"row {i}" for i in range(count)]}
    pq.write_table(pa.table(rows, schema), path)
    return path


def in_files(home: Path, counts: list[int]) -> Source:
    home.mkdir(exist_ok=True)
    first = 0
    for number, count in enumerate(counts):
        numbered(home / f"{number}.parquet", count, first)
        first += count
    return open_source(str(home))


def read(plan: Plan, shards: list[Shard] | None = None) -> list[tuple[int, list[int]]]:
    found = plan.tables(plan.shards if shards is None else shards)
    return [(shard.index, table["i"].to_pylist()) for shard, table in found]


# Tasks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexes", [None, [0, 3, 4, 9, 10, 17]])
@pytest.mark.parametrize("tasks", [1, 3, 8, 40])
def test_tasks_divide_the_shards(tasks, indexes, tmp_path):
    plan = plan_shards(in_files(tmp_path / "in", [2400]), 100)
    parts = [[shard.index for shard in plan.part(rank, tasks, indexes)] for rank in range(tasks)]
    every = list(range(len(plan.shards)))
    assert len(every) >= 18
    assert [index for part in parts for index in part] == (every if indexes is None else indexes)
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


def test_a_plan_travels_as_json(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "ROWS_AT_ONCE", 30)  # so that there are marks
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"i": i, "text": f"row {i}", "x": [i, "x"]}) + "\n" for i in range(100))
    )
    plan = plan_shards(open_source("rows.jsonl"), 40)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.schema.equals(plan.schema, check_metadata=True)
    assert len(again.files[0].marks) == 4
    monkeypatch.chdir("/")  # a worker may be elsewhere: a plan's paths are absolute
    assert len(again.shards) > 1
    assert read(again) == [(s.index, list(range(s.first, s.first + s.rows))) for s in plan.shards]


def test_a_plan_keeps_the_schemas_metadata(tmp_path):
    table = pa.table({"i": [1]}, schema=pa.schema([pa.field("i", pa.int8(), metadata={"unit": "m"})], {"by": "hand"}))
    pq.write_table(table, tmp_path / "rows.parquet")
    plan = plan_shards(open_source(str(tmp_path / "rows.parquet")))
    again = Plan.from_json(plan.to_json())
    assert again.schema.metadata == plan.schema.metadata == {b"by": b"hand"}
    assert again.schema.field("i").metadata[b"unit"] == b"m"
    assert next(again.tables(again.shards))[1].schema.metadata == {b"by": b"hand"}


# Reading ------------------------------------------------------------------------------------------------------------

MANY = 1000


def as_lines(home: Path, rows: list[dict]) -> str:
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return str(home / "rows.jsonl")


def as_gzip(home: Path, rows: list[dict]) -> str:
    with gzip.open(home / "rows.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return str(home / "rows.jsonl.gz")


def as_array(home: Path, rows: list[dict]) -> str:
    (home / "rows.json").write_text(json.dumps(rows, indent=1))
    return str(home / "rows.json")


def as_csv(home: Path, rows: list[dict]) -> str:
    with (home / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(home / "rows.csv")


def as_parquet(home: Path, rows: list[dict]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), home / "rows.parquet", row_group_size=170)
    return str(home / "rows.parquet")


def as_files(home: Path, rows: list[dict]) -> str:
    for number, (low, high) in enumerate([(0, 1), (1, 400), (400, 400), (400, 650), (650, MANY)]):
        table = pa.Table.from_pylist(rows[low:high], pa.Table.from_pylist(rows).schema)
        pq.write_table(table, home / f"{number}.parquet", row_group_size=90)
    return str(home / "*.parquet")


def as_dataset(home: Path, rows: list[dict]) -> str:
    from datasets import Dataset

    Dataset.from_list(rows).save_to_disk(home / "saved", num_shards=3)
    return str(home / "saved")


@pytest.mark.parametrize("write", [as_lines, as_gzip, as_array, as_csv, as_parquet, as_files, as_dataset])
def test_any_shards_hold_what_a_plain_read_holds(write: Callable, tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "ROWS_AT_ONCE", 150)
    source = open_source(write(tmp_path, [{"i": i, "text": f'"row",\n{i}' if i % 7 else ""} for i in range(MANY)]))
    whole = pa.concat_tables(source.tables(4096)).combine_chunks()
    assert len(whole) == MANY
    assert [int(i) for i in whole["i"].to_pylist()] == list(range(MANY))
    plan = Plan.from_json(plan_shards(source, 64).to_json())
    choose = random.Random(0)
    count = len(plan.shards)
    assert count > 10
    chosen = [sorted(choose.sample(range(count), some)) for some in (count, 1, 1, 5, 8, 10, 0)]
    for indexes in [*chosen, [count - 1], [0, count - 1], [3, 4, 5, 9]]:
        found = list(plan.tables(plan.shards[index] for index in indexes))
        assert [shard.index for shard, _ in found] == indexes
        for shard, table in found:
            assert table.schema.equals(whole.schema, check_metadata=True)
            assert table.combine_chunks().equals(whole.slice(shard.first, shard.rows).combine_chunks())


@pytest.mark.parametrize("left", [150, 100, 0])
def test_a_source_that_shrinks_under_way_is_told(left, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"i": i}) + "\n" for i in range(200)]
    path.write_text("".join(lines))
    plan = plan_shards(open_source(str(path)), 100)
    path.write_text("".join(lines[:left]))
    with pytest.raises(LarfError, match=r"rows\.jsonl changed while it was read"):
        list(plan.tables(plan.shards))


# Rows that are others than before -------------------------------------------------------------------------------------


def test_a_source_that_changes_after_the_plan_is_told(tmp_path):
    plan = plan_shards(in_files(tmp_path / "in", [100]), 50)
    path = tmp_path / "in" / "0.parquet"
    path.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"0\.parquet changed while it was read"):
        next(Plan.from_json(plan.to_json()).tables(plan.shards))


def test_rows_are_compared_with_the_plan_and_not_only_files(tmp_path):
    """As where a file system says of a file that it did not change, and it did."""
    plan = plan_shards(in_files(tmp_path / "in", [100]), 50)
    numbered(tmp_path / "in" / "0.parquet", 100, first=1)
    with pytest.raises(DataError, match="gives other rows than before"):
        next(replace(plan, stamps={}).tables(plan.shards))
