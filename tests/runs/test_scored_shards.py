"""Scored shards on disk: whole or missing, and found out where they are not what was scored."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from larf_curate.errors import DataError
from larf_curate.runs.dividing import plan_shards
from larf_curate.runs.scored_shards import changed_shards, missing, read_scored, scored_chunks, write_scored
from larf_curate.runs.shards import Plan
from larf_curate.sources.files import open_source


def scored_home(tmp_path: Path) -> tuple[Plan, Path]:
    """Some shards of scores 0.0, 1.0, ..., null where divisible by 10."""
    pq.write_table(pa.table({"i": range(250)}), tmp_path / "rows.parquet")
    plan, home = plan_shards(open_source(str(tmp_path / "rows.parquet")), 60), tmp_path / "scored"
    assert len(plan.shards) > 2
    home.mkdir()
    for shard in plan.shards:
        scores = [None if i % 10 == 0 else float(i) for i in range(shard.first, shard.first + shard.rows)]
        table = pa.table({"i": range(shard.rows), "larf_score": pa.array(scores, pa.float32())})
        write_scored(home, shard.file_name, table)
    assert {path.suffix for path in home.iterdir()} == {".parquet", ".sha256"}
    return plan, home


def test_scores_stream_in_the_order_of_rows(tmp_path):
    plan, home = scored_home(tmp_path)
    chunks = list(scored_chunks(plan, home))
    assert [len(chunk) for chunk in chunks] == [shard.rows for shard in plan.shards]
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
    (home / plan.shards[2].file_name).rename(home / f"{'0' * 32}.parquet")  # of other content
    assert missing(plan, home) == [1, 2]
    assert missing(plan, tmp_path / "nowhere") == list(range(len(plan.shards)))


def test_shards_of_the_same_content_are_scored_once(tmp_path):
    pq.write_table(pa.table({"i": [7] * 250}), tmp_path / "rows.parquet")
    plan = plan_shards(open_source(str(tmp_path / "rows.parquet")), 50)
    assert len({shard.digest for shard in plan.shards}) < len(plan.shards)
    wanted = missing(plan, tmp_path / "nowhere")
    assert sorted(plan.shards[index].digest for index in wanted) == sorted({shard.digest for shard in plan.shards})


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
