"""A result is there whole or not at all."""

from __future__ import annotations

import datetime
import decimal
import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.source_rows import (
    read,
)

from larf_curate.errors import OutputError
from larf_curate.sources import writing
from larf_curate.sources.files import open_source
from larf_curate.sources.writing import write_directory, write_file

SCHEMA = pa.schema([("x", pa.int64())])
TABLE = pa.table({"x": [1, 2]})
ENDINGS = pytest.mark.parametrize("ending", [".parquet", ".jsonl"])


@ENDINGS
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_interrupted_file_leaves_no_trace(ending, kind, old, tmp_path):
    path = tmp_path / f"out{ending}"
    if old:
        path.write_bytes(old)
    with pytest.raises(kind), write_file(path, SCHEMA) as out:  # noqa: PT012 - the end of the block is the point
        out.write(TABLE)
        raise kind
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == ({path.name: old} if old else {})


@ENDINGS
def test_a_finished_file_replaces_the_old_one_only_at_the_end(ending, tmp_path):
    path = tmp_path / "new" / f"out{ending}"
    path.parent.mkdir()
    path.write_bytes(b"old")
    with write_file(path, SCHEMA) as out:
        out.write(TABLE)
        assert path.read_bytes() == b"old"
    assert read(open_source(str(path))) == [{"x": 1}, {"x": 2}]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_row_groups_are_never_empty_and_small_ones_are_joined(tmp_path):
    with write_file(tmp_path / "out.parquet", SCHEMA) as out:
        for table in (TABLE.slice(0, 0), TABLE, TABLE.slice(0, 0), TABLE):
            out.write(table)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [4]
    with write_file(tmp_path / "none.parquet", SCHEMA) as out:
        out.write(TABLE.slice(0, 0))
    assert pq.read_metadata(tmp_path / "none.parquet").num_row_groups == 0
    source = open_source(str(tmp_path / "none.parquet"))
    assert (source.schema, read(source)) == (SCHEMA, [])


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("ending", "where"),
    [(".parquet", "write_table"), (".parquet", "close"), (".jsonl", "fsync"), (".jsonl", "replace")],
)
def test_a_full_disk_leaves_the_old_file(ending, where, tmp_path, monkeypatch):
    path = tmp_path / f"out{ending}"
    path.write_bytes(b"old")
    owner = {"fsync": writing.os, "replace": Path}.get(where, pq.ParquetWriter)
    monkeypatch.setattr(owner, where, full)
    with (
        pytest.raises(OutputError, match=f"out{ending} cannot be written: No space left"),
        write_file(path, SCHEMA) as out,
    ):
        out.write(TABLE)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_found_when_lines_are_flushed(tmp_path, monkeypatch):
    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **how: opened(Path("/dev/full") if mode == "w" else path, mode, **how)
    )
    with pytest.raises(OutputError, match="No space left"), write_file(tmp_path / "out.jsonl", SCHEMA) as out:
        out.write(TABLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["out.xlsx", "out", "out.json", "out.jsonl.gz"])
def test_other_endings_are_refused_before_any_work(name, tmp_path):
    with pytest.raises(OutputError, match=r"\.parquet, \.jsonl or \.csv"), write_file(tmp_path / name, SCHEMA):
        pytest.fail("there must be no work")


@pytest.mark.parametrize("name", ["blocked/out.jsonl", "a_directory.jsonl", "n" * 300 + ".jsonl"])
def test_files_that_cannot_be_written(name, tmp_path):
    (tmp_path / "blocked").write_text("a file where a directory is wanted")
    (tmp_path / "a_directory.jsonl").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="cannot be written"), write_file(tmp_path / name, SCHEMA) as out:
        out.write(TABLE)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("column", [[datetime.date(2024, 1, 2)], [b"\xff"], [decimal.Decimal("1.5")]])
def test_json_lines_refuse_what_json_cannot_hold(column, tmp_path):
    table = pa.table({"x": pa.array(column)})
    with pytest.raises(OutputError, match=r"write \.parquet"), write_file(tmp_path / "out.jsonl", table.schema) as out:
        out.write(table)
    assert list(tmp_path.iterdir()) == []


def fill(home: Path, text: str) -> None:
    (home / "part").mkdir()
    (home / "part" / "data").write_text(text)


@pytest.mark.parametrize("before", ["nothing", "empty", "ours"])
def test_a_directory_appears_whole(before, tmp_path):
    path = tmp_path / "deep" / "out"
    if before != "nothing":
        path.mkdir(parents=True)
    if before == "ours":
        with write_directory(path) as home:
            fill(home, "old")
            (home / "part" / "of the old one").touch()
    with write_directory(path) as home:
        fill(home, "new")
        assert not (path / "part").exists() or (path / "part" / "data").read_text() == "old"
    assert (path / "part" / "data").read_text() == "new"
    assert [file.name for file in (path / "part").iterdir()] == ["data"]
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_directory_leaves_no_trace(before, kind, tmp_path):
    path = tmp_path / "out"
    if before:
        with write_directory(path) as home:
            fill(home, "old")
    with pytest.raises(kind), write_directory(path) as home:  # noqa: PT012 - likewise
        fill(home, "new")
        raise kind
    assert list(tmp_path.iterdir()) == ([path] if before else [])
    assert not before or (path / "part" / "data").read_text() == "old"


@pytest.mark.parametrize("stranger", ["directory", "file"])
def test_a_directory_of_somebody_else_is_never_replaced(stranger, tmp_path):
    path = tmp_path / "out"
    if stranger == "directory":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    else:
        path.write_text("years of work")
    with pytest.raises(OutputError, match=r"not an earlier result|did not write"), write_directory(path):
        pytest.fail("there must be no work")
    assert (path / "thesis.tex" if stranger == "directory" else path).read_text() == "years of work"


@pytest.mark.parametrize("name", ["blocked/out", "n" * 300])
def test_directories_that_cannot_be_written(name, tmp_path):
    (tmp_path / "blocked").write_text("a file where a directory is wanted")
    with pytest.raises(OutputError, match="cannot be written"), write_directory(tmp_path / name):
        pytest.fail("there must be no work")
    assert [file.name for file in tmp_path.iterdir()] == ["blocked"]


def test_a_directory_that_cannot_take_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "out"
    with write_directory(path) as home:
        fill(home, "old")
    rename = Path.rename

    def rename_until_the_end(self: Path, target: Path) -> Path:
        if target == path and self.name.startswith(".out.") and (self / "part").exists():
            full()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_until_the_end)
    with pytest.raises(OutputError, match="No space left"), write_directory(path) as home:
        fill(home, "new")
    assert (path / "part" / "data").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
