"""A source as shards: every row in one, borders by rows alone, names that stand for the content."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from larf_curate.errors import DataError, LarfError
from larf_curate.runs.shards import (
    Plan,
    Shard,
    changed_shards,
    missing,
    plan_shards,
    read_scored,
    scored_chunks,
    seal_scored,
)
from larf_curate.sources import json_files
from larf_curate.sources.file_readers import read_file
from larf_curate.sources.files import open_source
from larf_curate.sources.tables import DataFile, Source


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


# Borders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, 1, 100, 256, 10_000])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 5000])
def test_every_row_is_in_one_shard(count, size, tmp_path):
    plan = plan_shards(open_source(str(numbered(tmp_path / "rows.parquet", count))), size)
    wanted = size or 256
    assert plan.rows == count
    assert plan.shard_rows == wanted
    assert len(plan.shards) == -(-count // wanted)
    assert [row for shard in plan.shards for row in range(shard.first, shard.first + shard.rows)] == list(range(count))
    assert [shard.index for shard in plan.shards] == list(range(len(plan.shards)))
    assert {shard.rows for shard in plan.shards[:-1]} <= {wanted}
    assert len({shard.file_name for shard in plan.shards}) == len(plan.shards)
    if len(plan.shards) < 1000:
        assert read(plan) == [(s.index, list(range(s.first, s.first + s.rows))) for s in plan.shards]


@pytest.mark.parametrize(
    ("rows", "size"),
    [(1, 256), (65_535, 256), (65_536, 512), (131_071, 512), (1_000_000, 4096), (4_194_304, 16_384), (10**9, 16_384)],
)
def test_a_shard_is_about_a_256th_of_the_rows(rows, size, tmp_path):
    file = DataFile(str(numbered(tmp_path / "rows.parquet", 1)), ".parquet", rows)
    assert plan_shards(Source("x", pq.read_schema(file.path), (file,), read_file)).shard_rows == size


def test_a_few_more_rows_leave_the_borders_where_they_were(tmp_path):
    sizes = {plan_shards(in_files(tmp_path / str(n), [700 + n])).shard_rows for n in range(0, 200, 50)}
    assert sizes == {256}


def test_shards_cross_the_borders_of_files(tmp_path):
    plan = plan_shards(in_files(tmp_path / "in", [300, 1, 0, 5, 2, 600, 0]), 256)
    assert [shard.rows for shard in plan.shards] == [256, 256, 256, 140]
    assert read(plan) == [(k, list(range(256 * k, min(256 * k + 256, 908)))) for k in range(4)]


def test_small_files_are_joined(tmp_path):
    plan = plan_shards(in_files(tmp_path / "in", [3] * 50))
    assert [(shard.first, shard.rows) for shard in plan.shards] == [(0, 150)]


# Digests ------------------------------------------------------------------------------------------------------------


def digests(source: Source, size: int = 100) -> list[str]:
    return [shard.digest for shard in plan_shards(source, size).shards]


def test_the_same_content_elsewhere_has_the_same_digests(tmp_path):
    one, other = in_files(tmp_path / "one", [150, 250]), tmp_path / "other"
    other.mkdir()
    for name in ("0.parquet", "1.parquet"):
        (other / f"renamed-{name}").write_bytes((tmp_path / "one" / name).read_bytes())
    assert digests(one) == digests(open_source(str(other)))
    assert plan_shards(one, 100).digest == plan_shards(open_source(str(other)), 100).digest
    assert len(set(digests(one))) == 4


def test_equal_rows_at_other_places_are_other_shards(tmp_path):
    """The first and the second half of a file may hold the same rows; so may two files."""
    table = pa.table({"question": ["q"] * 200, "answer": ["a"] * 200})
    pq.write_table(table, tmp_path / "rows.parquet")
    plan = plan_shards(open_source(str(tmp_path / "rows.parquet")), 100)
    assert plan.shards[0].file_name != plan.shards[1].file_name


@pytest.mark.parametrize(("file", "changed"), [(0, {0, 1}), (1, {1, 2}), (2, {2, 3, 4})])
def test_a_changed_byte_changes_the_shards_that_hold_its_file(file, changed, tmp_path):
    paths = []
    for number, count in enumerate([150, 100, 200]):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(
            "".join(json.dumps({"question": f"{number}-{i:03}", "answer": "x"}) + "\n" for i in range(count))
        )
        paths.append(path)
    before = plan_shards(open_source(str(tmp_path / "*.jsonl")), 100)
    paths[file].write_bytes(paths[file].read_bytes().replace(b"-077", b"-O77"))
    after = plan_shards(open_source(str(tmp_path / "*.jsonl")), 100)
    pairs = zip(before.shards, after.shards, strict=True)
    assert {one.index for one, other in pairs if one.digest != other.digest} == changed
    assert before.digest != after.digest


def test_swapped_files_and_moved_rows_are_other_content(tmp_path):
    source = in_files(tmp_path / "in", [100, 100])
    swapped = Source(source.name, source.schema, source.files[::-1], read_file)
    assert set(digests(source)) == set(digests(swapped))  # the same pieces
    assert digests(source) == digests(swapped)[::-1]  # in another order: other shards
    assert plan_shards(source, 100).digest != plan_shards(swapped, 100).digest
    assert not set(digests(source, 50)) & set(digests(source, 100))


def test_the_types_are_part_of_the_content(tmp_path):
    source = in_files(tmp_path / "in", [10])
    wider = source.schema.set(1, pa.field("text", pa.large_string()))
    assert digests(source) != digests(Source(source.name, wider, source.files, read_file))
    assert digests(source) != digests(
        Source(source.name, source.schema.with_metadata({"a": "b"}), source.files, read_file)
    )


def test_slices_of_a_saved_dataset_differ(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"question": ["q"] * 40, "answer": ["a"] * 40}).save_to_disk(tmp_path / "in")
    first, second = (open_source(str(tmp_path / "in"), split=f"train[{part}]") for part in (":20", "20:"))
    assert digests(first) != digests(second)


def count_reads(monkeypatch) -> list[str]:
    reads: list[str] = []
    whole = hashlib.file_digest

    def counted(file, *rest):
        reads.append(Path(file.name).name)
        return whole(file, *rest)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return reads


def test_digests_are_remembered_until_a_file_changes(tmp_path, monkeypatch):
    known, reads = tmp_path / "known" / "files.json", count_reads(monkeypatch)
    source = in_files(tmp_path / "in", [100, 100])
    first = plan_shards(source, 50, known)
    assert reads == ["0.parquet", "1.parquet"]
    assert plan_shards(source, 50, known).digest == first.digest
    assert len(reads) == 2

    numbered(tmp_path / "in" / "1.parquet", 100, first=500)
    os.utime(tmp_path / "in" / "1.parquet", ns=(1, 1))  # older, even: it is another file all the same
    after = plan_shards(open_source(str(tmp_path / "in")), 50, known)
    assert reads[2:] == ["1.parquet"]
    assert [s.digest for s in after.shards[:2]] == [s.digest for s in first.shards[:2]]
    assert {s.digest for s in after.shards[2:]}.isdisjoint({s.digest for s in first.shards[2:]})
    assert sorted(path.name for path in known.parent.iterdir()) == ["files.json"]


@pytest.mark.parametrize("way", ["in place", "another file"])
def test_a_file_of_the_same_size_and_time_is_read_again(way, tmp_path):
    known = tmp_path / "files.json"
    source = in_files(tmp_path / "in", [100])
    path = tmp_path / "in" / "0.parquet"
    before, state = plan_shards(source, 50, known).digest, path.stat()
    target = path if way == "in place" else tmp_path / "other.parquet"
    target.write_bytes(path.read_bytes()[:-4] + b"ABCD")
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))
    target.replace(path)
    assert plan_shards(source, 50, known).digest != before


def test_a_source_that_changes_after_the_plan_is_told(tmp_path):
    plan = plan_shards(in_files(tmp_path / "in", [100]), 50)
    path = tmp_path / "in" / "0.parquet"
    path.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"0\.parquet changed while it was read"):
        next(Plan.from_json(plan.to_json()).tables(plan.shards))


def test_a_source_that_changes_while_its_digest_is_taken_is_told(tmp_path, monkeypatch):
    source, whole = in_files(tmp_path / "in", [100]), hashlib.file_digest

    def meanwhile(file, *rest):
        digest = whole(file, *rest)
        Path(file.name).write_bytes(b"new")
        return digest

    monkeypatch.setattr(hashlib, "file_digest", meanwhile)
    with pytest.raises(DataError, match="was written to while it was read"):
        plan_shards(source, 50)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b'{"half',
        pytest.param(b"[]"),
        pytest.param(b'{"PATH": []}'),
    ],
)
def test_what_is_remembered_may_be_lost(content, tmp_path, monkeypatch):
    known, reads = tmp_path / "files.json", count_reads(monkeypatch)
    source = in_files(tmp_path / "in", [10])
    known.write_bytes(content.replace(b"PATH", source.files[0].path.encode()))
    assert digests(source) == [shard.digest for shard in plan_shards(source, 100, known).shards]
    plan_shards(source, 100, known)
    assert len(reads) == 2, "and is remembered again"


def test_a_file_that_went_is_named(tmp_path):
    source = in_files(tmp_path / "in", [10, 10])
    (tmp_path / "in" / "1.parquet").unlink()
    with pytest.raises(DataError, match=r"1\.parquet cannot be read: No such file"):
        plan_shards(source)


# Tasks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexes", [None, [0, 3, 4, 9, 10, 17]])
@pytest.mark.parametrize("tasks", [1, 3, 8, 40])
def test_tasks_divide_the_shards(tasks, indexes, tmp_path):
    plan = plan_shards(in_files(tmp_path / "in", [1800]), 100)
    parts = [[shard.index for shard in plan.part(rank, tasks, indexes)] for rank in range(tasks)]
    assert [index for part in parts for index in part] == (list(range(18)) if indexes is None else indexes)
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
    assert read(again) == [(0, list(range(40))), (1, list(range(40, 80))), (2, list(range(80, 100)))]


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
    chosen = [sorted(choose.sample(range(16), count)) for count in (16, 1, 1, 5, 8, 12, 0)]
    for indexes in [*chosen, [15], [0, 15], [3, 4, 5, 9]]:
        found = list(plan.tables(plan.shards[index] for index in indexes))
        assert [shard.index for shard, _ in found] == indexes
        for shard, table in found:
            assert table.schema.equals(whole.schema, check_metadata=True)
            assert table.combine_chunks().equals(whole.slice(shard.first, shard.rows).combine_chunks())


@pytest.mark.parametrize(
    "left",
    [
        150,
        pytest.param(
            100,
        ),
        pytest.param(0),
    ],
)
def test_a_source_that_shrinks_under_way_is_told(left, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"i": i}) + "\n" for i in range(200)]
    path.write_text("".join(lines))
    plan = plan_shards(open_source(str(path)), 100)
    path.write_text("".join(lines[:left]))
    with pytest.raises(LarfError, match=r"rows\.jsonl changed while it was read"):
        list(plan.tables(plan.shards))


# Scored shards on disk ----------------------------------------------------------------------------------------------


def scored_home(tmp_path: Path) -> tuple[Plan, Path]:
    """Three shards of scores 0.0, 1.0, ..., null where divisible by 10."""
    plan, home = plan_shards(in_files(tmp_path / "in", [250]), 100), tmp_path / "scored"
    home.mkdir()
    for shard in plan.shards:
        scores = [None if i % 10 == 0 else float(i) for i in range(shard.first, shard.first + shard.rows)]
        table = pa.table({"i": range(shard.rows), "larf_score": pa.array(scores, pa.float32())})
        pq.write_table(table, home / f".{shard.file_name}")
        seal_scored(home, shard.file_name)
    return plan, home


def test_scores_stream_in_the_order_of_rows(tmp_path):
    plan, home = scored_home(tmp_path)
    chunks = list(scored_chunks(plan, home))
    assert [len(chunk) for chunk in chunks] == [100, 100, 50]
    np.testing.assert_array_equal(
        np.concatenate(chunks), [np.nan if i % 10 == 0 else float(i) for i in range(250)], strict=False
    )
    table = read_scored(home, plan.shards[1])
    assert table.column_names == ["i", "larf_score"]
    assert read_scored(home, plan.shards[1], ["i"]).column_names == ["i"]


def test_only_whole_shards_are_not_missing(tmp_path):
    plan, home = scored_home(tmp_path)
    assert missing(plan, home) == []
    name = plan.shards[1].file_name
    (home / name).rename(home / f".{name}.half")  # what a killed writer leaves
    (home / plan.shards[2].file_name).rename(home / f"000002-{'0' * 16}.parquet")  # of other content
    assert missing(plan, home) == [1, 2]
    assert missing(plan, tmp_path / "nowhere") == [0, 1, 2]


def test_what_was_exchanged_or_put_there_is_found(tmp_path):
    plan, home = scored_home(tmp_path)
    known = tmp_path / "known.json"
    assert changed_shards(plan, home, known) == []
    first, second = (home / shard.file_name for shard in plan.shards[:2])
    content, other = first.read_bytes(), second.read_bytes()
    state = first.stat()
    first.write_bytes(content[:-4] + b"ABCD")
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))  # of the same size and time
    assert changed_shards(plan, home, known) == [0]
    first.write_bytes(other)
    second.write_bytes(content)
    assert changed_shards(plan, home, known) == [0, 1]
    for shard, path in zip(plan.shards, (first, second), strict=False):  # with its own checksum, too
        (home / shard.checksum_name).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  another.parquet\n")
    assert changed_shards(plan, home, known) == [0, 1]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "rows", "gone", "page"])
def test_a_damaged_scored_shard_is_named(damage, tmp_path):
    plan, home = scored_home(tmp_path)
    shard = plan.shards[1]
    path = home / shard.file_name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "rows":
        pq.write_table(pq.read_table(path).slice(1), path)
    elif damage == "page":
        start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
        path.write_bytes(content[:start] + b"\xff" * 40 + content[start + 40 :])
    else:
        path.write_bytes({"truncated": content[:-20], "garbage": os.urandom(500), "empty": b""}[damage])
    with pytest.raises(DataError, match=r"remove it and run again") as caught:
        read_scored(home, shard)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
