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
    "broken first line": ("in.jsonl", b'{"a"\n{"a": 2}\n', "line 1: broken JSON"),
    "broken only line": ("in.jsonl", b'{"a": 1, "b"\n', "line 1: broken JSON"),
    "broken object over lines": ("in.json", b'{\n"a": [\n{"b" 1}\n]}\n', "line 3: broken JSON"),
    "broken array": ("in.json", b'[\n{"a": 1},\n{"a" 2}\n]', "line 3: broken JSON"),
    "scalar line": ("in.jsonl", b'{"a": 1}\n"b"\n', "line 2: str where an object is wanted"),
    "scalar element": ("in.json", b"[1]", "row 0: int where an object is wanted"),
    "list line": ("in.jsonl", b'{"a": 1}\n[1]\n', "line 2: list where an object is wanted"),
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
    "no utf-8": ("in.jsonl", '{"a": "e"}\n{"a": "é"}\n'.encode("latin-1"), "line 2: not UTF-8 (byte 0xe9)"),
    "no utf-8 in an array": ("in.json", '[\n{"a": "é"}]\n'.encode("latin-1"), "line 2: not UTF-8 (byte 0xe9)"),
    "no utf-8 in CSV": ("in.csv", "a\né\n".encode("latin-1"), "not UTF-8 (byte 0xe9)"),
    "utf-16": ("in.jsonl", '{"a": "e"}\n'.encode("utf-16"), "is UTF-16, not UTF-8: convert it"),
    "utf-16 CSV": ("in.csv", "a\nb\n".encode("utf-16"), "is UTF-16, not UTF-8: convert it"),
    "key twice": ("in.jsonl", b'{"a": 1}\n{"b": {"x": 1, "x": 2}}\n', "line 2: the key 'x' twice in one object"),
    "key twice in an array": ("in.json", b'[{"a": 1},\n{"a": 1, "a": 2}]', "line 2: the key 'a' twice in one object"),
    "no zstd": ("in.jsonl.zst", b'{"a": 1}\n', "cannot be read"),
    "no xz": ("in.jsonl.xz", b'{"a": 1}\n', "cannot be read"),
    "no bz2": ("in.jsonl.bz2", b'{"a": 1}\n', "cannot be read"),
    "surrogate": ("in.jsonl", b'{"a": "x"}\n{"a": "\\ud800"}\n', r"line 2, column 'a': half of a surrogate pair"),
    "surrogate inside": (
        "in.jsonl",
        b'{"a": "x", "m": []}\n{"m": [{"content": "\\udfff"}]}\n',
        "line 2, column 'm': half of a surrogate pair",
    ),
    "surrogate among mixed": (
        "in.jsonl",
        b'{"a": 1}\n{"a": "\\ud800"}\n',
        r"line 2, column 'a': half of a surrogate pair",
    ),
    "surrogate in a name": ("in.jsonl", b'{"\\ud800": 1}\n', "surrogate"),
    "endless integer": ("in.jsonl", b'{"a": ' + b"1" * 5000 + b"}\n", "line 1"),
    "bottomless": ("in.jsonl", b'{"a": ' + b"[" * 200_000 + b"}\n", "line 1"),
    "sheet": ("in.xlsx", b"PK", "cannot be read: save the sheet as .csv"),
    "text": ("in.txt", b"Hi?", "write one JSON object a line"),
    "archive": ("in.zip", b"PK", "unpack it"),
    "packed archive": ("in.tar.gz", b"PK", "unpack it"),
    "unknown kind": ("in.xyz", b"PK", "cannot be read: known: .jsonl"),
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
    with pytest.raises(DataError, match="holds no data files"):
        open_source(str(tmp_path))
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match=r"holds no data files \(notes.txt: .*one JSON object a line"):
        open_source(str(tmp_path))
