"""The same rows come out of any kind of file; what cannot be read is named with its place."""

from __future__ import annotations

import gzip

import pytest
from support.source_rows import (
    ROWS,
    json_array,
    json_gz,
    jsonl,
    jsonl_gz,
    lines,
    parquet,
    read,
    saved,
    saved_selection,
    saved_splits,
    shards,
)

from larf_curate.errors import DataError
from larf_curate.sources.files import open_source


@pytest.mark.parametrize(
    "make", [jsonl, json_array, jsonl_gz, json_gz, parquet, shards, saved, saved_splits, saved_selection]
)
def test_the_same_rows_out_of_any_kind(make, tmp_path):
    source = open_source(str(make(tmp_path)))
    assert read(source) == ROWS
    assert source.rows == 3
    assert source.schema.names == ["question", "answer", "n"]
    assert read(source, 1000) == ROWS, "a source can be read again"


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
