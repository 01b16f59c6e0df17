"""A source divided into shards: every row in one, borders and names by what the rows hold alone."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from larf_curate.errors import DataError
from larf_curate.runs import dividing
from larf_curate.runs.dividing import divided, plan_shards
from larf_curate.runs.shards import Plan
from larf_curate.sources.file_readers import read_file
from larf_curate.sources.files import open_source
from larf_curate.sources.tables import Source

Rows = list[dict[str, object]]


def rows_from(first: int, count: int) -> Rows:
    return [{"i": i, "text": f"row {i} of many"} for i in range(first, first + count)]


def written(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema({"i": pa.int64(), "text": pa.string()})
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def planned(path: Path, rows: Rows, size: int | None = 40, known: Path | None = None) -> Plan:
    return plan_shards(open_source(str(written(path, rows))), size, known)


def names(plan: Plan) -> list[str]:
    return [shard.digest for shard in plan.shards]


# Borders ------------------------------------------------------------------------------------------------------------


SIZES = [None, 1, 2, 100, 256, 10_000]


@pytest.mark.parametrize(
    ("count", "size"),
    [*itertools.product([1, 255, 256, 257, 1000], SIZES), *itertools.product([5000], [None, 100, 256, 10_000])],
)
def test_every_row_is_in_one_shard_of_about_the_size_that_was_asked_for(count, size, tmp_path):
    plan = planned(tmp_path / "rows.parquet", rows_from(0, count), size)
    about = size or 256
    assert plan.rows == count
    assert [shard.index for shard in plan.shards] == list(range(len(plan.shards)))
    assert [row for shard in plan.shards for row in range(shard.first, shard.first + shard.rows)] == list(range(count))
    assert all(about // 2 <= shard.rows <= 2 * about for shard in plan.shards[:-1])
    assert 1 <= plan.shards[-1].rows <= 2 * about
    if count > 20 * about:
        assert 0.7 * about < count / len(plan.shards) < 1.3 * about


def test_later_shards_are_larger_and_a_longer_source_has_the_same_first_ones(monkeypatch):
    """Sizes of 300,000 rows: a 256th of the rows before, and of nothing that comes after."""
    monkeypatch.setattr(dividing, "row_hashes", lambda table: table["hash"].to_numpy())
    hashes = np.random.default_rng(0).integers(0, 2**63, 300_000, np.uint64)

    def ends(count: int) -> list[int]:
        tables = (pa.table({"hash": hashes[low : min(low + 4096, count)]}) for low in range(0, count, 4096))
        return np.cumsum([len(table) for table in divided(tables)]).tolist()

    long, short = ends(300_000), ends(100_000)
    assert short[:-1] == long[: len(short) - 1]
    first, later = (
        np.diff([end for end in long if low < end < high]).mean() for low, high in ((0, 65_536), (200_000, 300_000))
    )
    assert 200 < first < 320
    assert 800 < later < 1300


# What changes when rows change --------------------------------------------------------------------------------------

BEFORE = rows_from(0, 2000)
CHANGES = {
    "a row appended": ([*BEFORE, *rows_from(9000, 1)], 2),
    "a row put first": ([*rows_from(9000, 1), *BEFORE], 3),
    "a row put in the middle": ([*BEFORE[:1000], *rows_from(9000, 1), *BEFORE[1000:]], 3),
    "a row deleted": ([*BEFORE[:777], *BEFORE[778:]], 3),
    "the first row deleted": (BEFORE[1:], 3),
    "a row changed": ([*BEFORE[:777], {"i": 777, "text": "another"}, *BEFORE[778:]], 3),
    "two rows exchanged": ([*BEFORE[:300], BEFORE[1500], *BEFORE[301:1500], BEFORE[300], *BEFORE[1501:]], 6),
    "the second half first": ([*BEFORE[1000:], *BEFORE[:1000]], 6),
    "half of the rows left out": (BEFORE[:1000], 1),
    "every row twice": ([*BEFORE, *BEFORE], 3),
    "a hundred rows put in": ([*BEFORE[:500], *rows_from(9000, 100), *BEFORE[500:]], 8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_shards_whose_rows_did_not_change_are_found_again(change, tmp_path):
    rows, most = CHANGES[change]
    before = planned(tmp_path / "before.parquet", BEFORE)
    after = planned(tmp_path / "after.parquet", rows)
    assert len(before.shards) > 40
    assert 0 <= len(set(names(after)) - set(names(before))) <= most
    assert after.digest != before.digest
    found = [table["i"].to_pylist() for _, table in after.tables(after.shards)]
    assert [i for numbers in found for i in numbers] == [row["i"] for row in rows]


def test_a_changed_row_changes_no_more_than_its_shard_and_the_next(tmp_path):
    before = planned(tmp_path / "before.parquet", BEFORE)
    place = next(shard.index for shard in before.shards if shard.first <= 777 < shard.first + shard.rows)
    after = planned(tmp_path / "after.parquet", CHANGES["a row changed"][0])
    kept = set(names(after))
    lost = {shard.index for shard in before.shards if shard.digest not in kept}
    assert place in lost
    assert lost <= {place, place + 1, place + 2}


def test_files_and_their_order_do_not_matter_only_rows_do(tmp_path):
    whole = planned(tmp_path / "rows.parquet", BEFORE)
    for number, (low, high) in enumerate([(0, 1), (1, 400), (400, 400), (400, 1650), (1650, 2000)]):
        written(tmp_path / "in" / f"{number}.parquet", BEFORE[low:high])
    parts = open_source(str(tmp_path / "in" / "*.parquet"))
    assert names(plan_shards(parts, 40)) == names(whole)
    assert plan_shards(parts, 40).digest == whole.digest
    swapped = plan_shards(Source(parts.name, parts.schema, parts.files[::-1], read_file), 40)
    assert swapped.digest != whole.digest
    assert len(set(names(swapped)) - set(names(whole))) < 10


def test_the_same_rows_in_another_format_are_the_same_shards(tmp_path):
    whole = planned(tmp_path / "rows.parquet", BEFORE)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in BEFORE))
    assert names(plan_shards(open_source(str(tmp_path / "rows.jsonl")), 40)) == names(whole)


def test_the_types_are_part_of_the_content_and_notes_of_a_writer_are_not(tmp_path):
    """What pandas notes in a file holds the number of rows: it would be another one with every row more."""
    source = open_source(str(written(tmp_path / "rows.parquet", BEFORE)))
    plan = plan_shards(source, 40)
    wider = Source(source.name, source.schema.set(1, pa.field("text", pa.large_string())), source.files, read_file)
    assert not set(names(plan_shards(wider, 40))) & set(names(plan))
    noted = Source(source.name, source.schema.with_metadata({"pandas": "{}"}), source.files, read_file)
    assert names(plan_shards(noted, 40)) == names(plan)
    assert plan_shards(noted, 40).digest != plan.digest, "results hold the notes, so they are written again"


def test_parts_of_a_saved_dataset_differ(tmp_path):
    from datasets import Dataset

    Dataset.from_dict({"question": [f"q{i}" for i in range(40)], "answer": ["a"] * 40}).save_to_disk(tmp_path / "in")
    first, second = (open_source(str(tmp_path / "in"), split=f"train[{part}]") for part in (":20", "20:"))
    assert not set(names(plan_shards(first))) & set(names(plan_shards(second)))


# What is remembered between runs --------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The files that are read, one entry a reading."""
    found: list[str] = []

    def counted(file, *arguments):
        found.append(Path(file.path).name)
        return read_file(file, *arguments)

    monkeypatch.setattr("larf_curate.sources.files.read_file", counted)
    return found


def in_two(home: Path) -> Source:
    written(home / "0.parquet", BEFORE[:1000])
    written(home / "1.parquet", BEFORE[1000:])
    return open_source(str(home))


def test_only_files_from_the_first_changed_one_on_are_read_again(tmp_path, reads):
    known = tmp_path / "known" / "files.json"
    first = plan_shards(in_two(tmp_path / "in"), 40, known)
    assert reads == ["0.parquet", "1.parquet"]
    assert plan_shards(open_source(str(tmp_path / "in")), 40, known) == first
    assert len(reads) == 2

    written(tmp_path / "in" / "1.parquet", rows_from(5000, 1000))
    os.utime(tmp_path / "in" / "1.parquet", ns=(1, 1))  # older, even: it is another file all the same
    again = plan_shards(open_source(str(tmp_path / "in")), 40, known)
    assert set(reads[2:]) <= {"0.parquet", "1.parquet"}, "where the last whole shard of the first file ended"
    assert names(again) == names(plan_shards(open_source(str(tmp_path / "in")), 40))
    assert 20 < len(set(names(again)) & set(names(first))) < 30
    assert [path.name for path in known.parent.iterdir()] == ["files.json"]


@pytest.mark.parametrize("size", [40, None])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.process
def test_what_is_remembered_gives_what_is_found_without_it(change, size, tmp_path):
    known = tmp_path / "files.json"
    planned(tmp_path / "0.parquet", BEFORE, size, known)
    rows = CHANGES[change][0]
    written(tmp_path / "in" / "0.parquet", BEFORE[:700])
    written(tmp_path / "in" / "1.parquet", BEFORE[700:])
    both = str(tmp_path / "in" / "*.parquet")
    plan_shards(open_source(both), size, known)
    written(tmp_path / "in" / "1.parquet", rows[700:])
    remembered = plan_shards(open_source(both), size, known)
    assert remembered == plan_shards(open_source(both), size)


@pytest.mark.parametrize("way", ["in place", "another file"])
def test_a_file_of_the_same_size_and_time_is_read_again(way, tmp_path):
    known, path = tmp_path / "files.json", tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n')
    before, state = plan_shards(open_source(str(path)), 50, known).digest, path.stat()
    target = path if way == "in place" else tmp_path / "other.jsonl"
    target.write_text('{"text": "two"}\n')
    os.utime(target, ns=(state.st_atime_ns, state.st_mtime_ns))
    target.replace(path)
    assert plan_shards(open_source(str(path)), 50, known).digest != before


def test_a_source_that_changes_while_it_is_divided_is_told(tmp_path, monkeypatch):
    source, found = open_source(str(written(tmp_path / "rows.parquet", BEFORE))), dividing.row_hashes

    def meanwhile(table):
        (tmp_path / "rows.parquet").touch()
        return found(table)

    monkeypatch.setattr(dividing, "row_hashes", meanwhile)
    with pytest.raises(DataError, match="was written to while it was read"):
        plan_shards(source, 50, tmp_path / "known.json")
    assert not (tmp_path / "known.json").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b'{"half', b"[]", b"{}", b"[" * 100_000, {"shards": None}, {"shards": [[1]]}, {"files": 3}],
    ids=repr,
)
def test_what_is_remembered_may_be_lost(content, tmp_path, reads):
    known = tmp_path / "files.json"
    source = open_source(str(written(tmp_path / "rows.parquet", BEFORE)))
    plan = plan_shards(source, 100, known)
    if isinstance(content, dict):
        content = json.dumps(json.loads(known.read_text()) | content).encode()
    known.write_bytes(content)
    assert plan_shards(source, 100, known) == plan
    plan_shards(source, 100, known)
    assert len(reads) == 2, "and is remembered again"


def test_a_file_that_went_is_named(tmp_path):
    source = in_two(tmp_path / "in")
    (tmp_path / "in" / "1.parquet").unlink()
    with pytest.raises(DataError, match=r"1\.parquet cannot be read: No such file"):
        plan_shards(source)
