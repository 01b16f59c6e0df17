"""Data comes back as it lies on disk, whatever holds it; and a result is there whole or not at all."""

from __future__ import annotations

import csv
import datetime
import decimal
import errno
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from larf_curate.errors import DataError, OutputError
from larf_curate.sources import json_rows, writing
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of
from larf_curate.sources.tables import Source
from larf_curate.sources.writing import write_directory, write_file

ROWS = [
    {"question": "What boils at 100 °C?", "answer": "Water.", "n": 1},
    {"question": "And freezes at 0?", "answer": None, "n": 2},
    {"question": "", "answer": "Water, too.", "n": 3},
]


def read(source: Source, size: int = 2) -> list[dict]:
    """All rows, in tables of `size`, so that joins between tables are part of every test."""
    return [row for table in source.tables(size) for row in rows_of(table, table.column_names)]


def lines(rows: list[object], **options: bool) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, **options) + "\n" for row in rows)


def copy(source: Source, to: Path) -> Path:
    with write_file(to, source.schema) as out:
        for table in source.tables(2):
            out.write(table)
    return to


# Kinds of files -----------------------------------------------------------------------------------------------------


def jsonl(home: Path) -> Path:
    (home / "rows.jsonl").write_text(lines(ROWS), encoding="utf-8")
    return home / "rows.jsonl"


def json_array(home: Path) -> Path:
    (home / "rows.json").write_text(json.dumps(ROWS, indent=2))
    return home / "rows.json"


def jsonl_gz(home: Path) -> Path:
    (home / "rows.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    return home / "rows.jsonl.gz"


def json_gz(home: Path) -> Path:
    (home / "rows.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    return home / "rows.json.gz"


def parquet(home: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), home / "rows.parquet")
    return home / "rows.parquet"


def shards(home: Path) -> Path:
    """As `filter` and the Hub write them: several Parquet files, with a summary and a hidden file beside."""
    table = pa.Table.from_pylist(ROWS)
    for i in range(3):
        pq.write_table(table.slice(i, 1), home / f"part-{i}.parquet")
    (home / "larf_summary.json").write_text("{}")
    (home / ".part-9.parquet").write_text("half of something")
    return home


def saved(home: Path) -> Path:
    Dataset.from_list(ROWS).save_to_disk(home / "saved")
    return home / "saved"


def saved_splits(home: Path) -> Path:
    other = Dataset.from_list([{**ROWS[0], "n": 99}])
    DatasetDict({"test": other, "train": Dataset.from_list(ROWS)}).save_to_disk(home / "splits")
    return home / "splits"


def saved_selection(home: Path) -> Path:
    """With an indices mapping, as `filter` and `select` leave it."""
    Dataset.from_list([*ROWS[::-1], {**ROWS[0], "n": 99}]).select([2, 1, 0]).save_to_disk(home / "saved")
    return home / "saved"


@pytest.mark.parametrize(
    "make", [jsonl, json_array, jsonl_gz, json_gz, parquet, shards, saved, saved_splits, saved_selection]
)
def test_the_same_rows_out_of_any_kind(make, tmp_path):
    source = open_source(str(make(tmp_path)))
    assert read(source) == ROWS
    assert source.rows == 3
    assert source.schema.names == ["question", "answer", "n"]
    assert read(source, 1000) == ROWS, "a source can be read again"


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv.gz", ",")])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_fields_are_the_strings_they_are(ending, delimiter, bom, end, tmp_path):
    rows = [
        ["q", "a"],
        ["007", "NA"],
        ["2024-01-02", "1e5"],
        ["", "null"],
        ["comma, tab\t", 'quote " line\nbreak\u2028é'],
        [" true ", "\x00"],
    ]
    text = bom + end.join(delimiter.join(f'"{field.replace(chr(34), chr(34) * 2)}"' for field in row) for row in rows)
    path = tmp_path / f"rows{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    source = open_source(str(path))
    assert read(source) == [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert source.rows == 5


def test_a_split_is_chosen_by_name_and_train_by_itself(tmp_path):
    path = str(saved_splits(tmp_path))
    assert [row["n"] for row in read(open_source(path, "test"))] == [99]
    with pytest.raises(DataError, match=r"test, train; say which one with --split"):
        open_source(path, "dev")


def test_two_splits_without_train_are_not_chosen_between(tmp_path):
    DatasetDict({"a": Dataset.from_list(ROWS), "b": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="a, b"):
        open_source(str(tmp_path / "d"))


@pytest.mark.parametrize("make", [jsonl, saved])
def test_a_split_is_not_ignored_where_there_are_none(make, tmp_path):
    with pytest.raises(DataError, match="split"):
        open_source(str(make(tmp_path)), "test")


HUB = """
import json, sys
from datasets import Dataset, DatasetDict
from larf_curate.sources.files import open_source
from larf_curate.sources.json_values import rows_of
from larf_curate.errors import DataError
rows = json.load(sys.stdin)
DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).push_to_hub("acme/rows")
def read(split=None):
    return [row for t in open_source("acme/rows", split).tables(2) for row in rows_of(t, t.column_names)]
errors = []
for name, split in (("acme/rows", "dev"), ("acme/missing", None)):
    try: open_source(name, split)
    except DataError as error: errors.append(str(error))
print(json.dumps({"train": read(), "test": read("test"), "errors": errors}))
"""


def test_a_dataset_on_the_hub(hub_environment):
    done = subprocess.run(
        [sys.executable, "-c", HUB],
        input=json.dumps(ROWS),
        capture_output=True,
        check=False,
        text=True,
        env=hub_environment(),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["train"] == ROWS
    assert found["test"] == ROWS[:1]
    assert "dev" in found["errors"][0]
    assert "test" in found["errors"][0], "the splits there are"
    assert found["errors"][1].startswith("acme/missing is neither a file nor a directory here, nor a dataset on the")


# Byte for byte ------------------------------------------------------------------------------------------------------

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
    monkeypatch.setattr(json_rows, "ROWS_AT_ONCE", at_once)
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
    monkeypatch.setattr(json_rows, "ROWS_AT_ONCE", at_once)
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


def test_saved_dataset_keeps_its_feature_types(tmp_path):
    from datasets import ClassLabel, Features, List, Value

    features = Features({"label": ClassLabel(names=["no", "yes"]), "tags": List(Value("large_string"))})
    Dataset.from_dict({"label": [1, 0], "tags": [["a"], []]}, features=features).save_to_disk(tmp_path / "in")
    copy(open_source(str(tmp_path / "in")), tmp_path / "out.parquet")
    again = Dataset.from_parquet(str(tmp_path / "out.parquet"), cache_dir=str(tmp_path / "cache"))
    assert again.features == features
    assert again.to_list() == [{"label": 1, "tags": ["a"]}, {"label": 0, "tags": []}]


# What cannot be read ------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": ("in.jsonl", b"", "in.jsonl is empty"),
    "empty parquet": ("in.parquet", b"", "in.parquet is empty"),
    "blank": ("in.jsonl", b"\n \n", "holds no rows"),
    "no elements": ("in.json", b"[]", "holds no rows"),
    "header only": ("in.csv", b"question,answer\n", "holds no rows"),
    "column twice": ("in.csv", b"a,a\n1,2\n", "a column twice: a, a"),
    "broken line": ("in.jsonl", b'{"a": 1}\n\n{"a": 2\n{"a": 3}\n', "line 3: broken JSON"),
    "broken array": ("in.json", b'[\n{"a": 1},\n{"a" 2}\n]', "line 3: broken JSON"),
    "scalar line": ("in.jsonl", b'{"a": 1}\n"b"\n', "row 2: str where an object is wanted"),
    "scalar element": ("in.json", b"[1]", "row 1: int where an object is wanted"),
    "list line": ("in.jsonl", b'{"a": 1}\n[1]\n', "row 2: list where an object is wanted"),
    "ragged": ("in.csv", b'a,b\n1,"2\n2"\n3\n', "line 4: 1 fields where the header has 2"),
    "too wide": ("in.tsv", b"a\tb\n1\t2\t3\n", "line 2: 3 fields where the header has 2"),
    "open quote": ("in.csv", b'a,b\n1,"2\n', "broken CSV"),
    "no parquet": ("in.parquet", b"PAR1 and nothing more", "in.parquet cannot be read"),
    "no gzip": ("in.jsonl.gz", b'{"a": 1}\n', "cannot be read"),
    "half a gzip": ("in.jsonl.gz", gzip.compress(lines(ROWS).encode())[:-20], "cannot be read"),
    "rotten gzip": (
        "in.jsonl.gz",
        gzip.compress(b"", mtime=0)[:10] + b"\xff" * 40,
        "cannot be read",
    ),
    "no utf-8": ("in.jsonl", '{"a": "é"}\n'.encode("latin-1"), "cannot be read"),
    "surrogate": ("in.jsonl", b'{"a": "x"}\n{"a": "\\ud800"}\n', r"row 2, column 'a': half of a surrogate pair"),
    "surrogate inside": (
        "in.jsonl",
        b'{"a": "x", "m": []}\n{"m": [{"content": "\\udfff"}]}\n',
        "row 2, column 'm': half of a surrogate pair",
    ),
    "surrogate among mixed": (
        "in.jsonl",
        b'{"a": 1}\n{"a": "\\ud800"}\n',
        r"row 2, column 'a': half of a surrogate pair",
    ),
    "surrogate in a name": ("in.jsonl", b'{"\\ud800": 1}\n', "surrogate"),
    "endless integer": ("in.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "line 1"),
    "bottomless": ("in.jsonl", b'{"a": ' + b"[" * 200_000 + b"}\n", "line 1"),
    "unknown kind": ("in.xlsx", b"PK", "not one kind of data; known: .jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_with_the_place(name, tmp_path):
    file, content, message = BROKEN[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError) as error:
        read(open_source(str(tmp_path / file)))
    assert message in str(error.value)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "sub/missing.parquet", "./missing", "/missing/rows", "a/b/c"])
def test_missing_files_are_not_looked_for_on_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_source(name)


def test_directories_that_are_no_dataset(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="holds no data files"):
        open_source(str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "b.csv").write_text("a\n1\n")
    with pytest.raises(DataError):
        open_source(str(tmp_path))


@pytest.mark.parametrize("other", [{"a": ["1"]}, {"b": [1]}, {"a": [1], "b": [1]}])
def test_shards_with_other_columns_are_refused(other, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table(other), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet has other columns or types than .*0\.parquet"):
        open_source(str(tmp_path))


def test_csv_shards_with_other_columns_are_refused(tmp_path):
    for i, name in enumerate("ab"):
        (tmp_path / f"{i}.csv").write_text(f"{name}\n1\n")
    with pytest.raises(DataError, match=r"1\.csv has other columns than"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_saved_dataset_that_is_damaged(file, tmp_path):
    path = saved(tmp_path)
    (path / file).write_bytes(b"{ rot")
    with pytest.raises(DataError, match="saved"):
        read(open_source(str(path)))


def test_a_parquet_file_that_breaks_in_the_middle(tmp_path):
    path = parquet(tmp_path)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # pages, while the footer stays as it was
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read(open_source(str(path)))


# Whole or not at all ------------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", ["out.csv", "out", "out.json", "out.jsonl.gz"])
def test_other_endings_are_refused_before_any_work(name, tmp_path):
    with pytest.raises(OutputError, match=r"\.parquet or \.jsonl"), write_file(tmp_path / name, SCHEMA):
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


MARK = "made_by_us.json"


def fill(home: Path, text: str) -> None:
    (home / "part").mkdir()
    (home / "part" / "data").write_text(text)
    (home / MARK).write_text("{}")


@pytest.mark.parametrize("before", ["nothing", "empty", "ours"])
def test_a_directory_appears_whole(before, tmp_path):
    path = tmp_path / "deep" / "out"
    if before != "nothing":
        path.mkdir(parents=True)
    if before == "ours":
        fill(path, "old")
        (path / "part" / "of the old one").touch()
    with write_directory(path, MARK) as home:
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
        path.mkdir()
        fill(path, "old")
    with pytest.raises(kind), write_directory(path, MARK) as home:  # noqa: PT012 - likewise
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
    with pytest.raises(OutputError, match="not an earlier result"), write_directory(path, MARK):
        pytest.fail("there must be no work")
    assert (path / "thesis.tex" if stranger == "directory" else path).read_text() == "years of work"


@pytest.mark.parametrize("name", ["blocked/out", "n" * 300])
def test_directories_that_cannot_be_written(name, tmp_path):
    (tmp_path / "blocked").write_text("a file where a directory is wanted")
    with pytest.raises(OutputError, match="cannot be written"), write_directory(tmp_path / name, MARK):
        pytest.fail("there must be no work")
    assert [file.name for file in tmp_path.iterdir()] == ["blocked"]


def test_a_directory_that_cannot_take_its_name_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "out"
    path.mkdir()
    fill(path, "old")
    rename = Path.rename

    def rename_until_the_end(self: Path, target: Path) -> Path:
        if target == path and self.name.startswith(".out.") and (self / MARK).exists():
            full()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_until_the_end)
    with pytest.raises(OutputError, match="No space left"), write_directory(path, MARK) as home:
        fill(home, "new")
    assert (path / "part" / "data").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_csv_round_trip_against_the_standard_library(tmp_path):
    """Written by Python's own writer with every oddity, so that quoting is not judged by the code that reads it."""
    rows = [{"a": a, "b": b} for a in ("", "x,y", '"', "l1\nl2", "tab\t") for b in ("007", "NA", " é ")]
    with (tmp_path / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["a", "b"])
        writer.writeheader()
        writer.writerows(rows)
    assert read(open_source(str(tmp_path / "in.csv"))) == rows
