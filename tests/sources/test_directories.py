"""Of a directory that is read what `load_dataset` would read, and the rest is named."""

from __future__ import annotations

import bz2
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, load_dataset
from support.source_rows import lines, read

from larf_curate.errors import DataError
from larf_curate.sources.files import open_source


def put(path: Path, *numbers: int) -> None:
    """A file with one row `{"n": number}` for each number, of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = lines([{"n": number} for number in numbers]).encode()
    kinds = {
        ".parquet": lambda: pq.write_table(pa.table({"n": numbers}), path),
        ".feather": lambda: pyarrow.feather.write_feather(pa.table({"n": numbers}), path),
        ".csv": lambda: path.write_text("n\n" + "".join(f"{number}\n" for number in numbers)),
        ".json": lambda: path.write_text(json.dumps([{"n": number} for number in numbers], indent=1)),
        ".xz": lambda: path.write_bytes(lzma.compress(text)),
        ".bz2": lambda: path.write_bytes(bz2.compress(text)),
        ".zst": lambda: compress(path, text),
    }
    kinds.get(path.suffix, lambda: path.write_bytes(text))()


def compress(path: Path, content: bytes) -> None:
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
        file.write(content)


def numbers(name: Path | str, **options: str) -> list[int]:
    return [int(row["n"]) for row in read(open_source(str(name), **options))]


@pytest.mark.parametrize("ending", ["jsonlines", "jsonl.zst", "jsonl.xz", "jsonl.bz2", "ndjson", "feather", "parquet"])
def test_kinds_of_files_that_people_have(ending, tmp_path):
    put(tmp_path / f"in.{ending}", *range(10))
    source = open_source(str(tmp_path / f"in.{ending}"))
    assert [row["n"] for row in read(source)] == list(range(10))
    assert [row["n"] for table in source.tables(3, 4, 9) for row in table.to_pylist()] == [4, 5, 6, 7, 8]


def test_arrow_files_of_both_kinds(tmp_path):
    table = pa.table({"n": [1, 2]})
    for name, writer in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        with pa.OSFile(str(tmp_path / name), "wb") as file, writer(file, table.schema) as out:
            out.write_table(table)
        assert numbers(tmp_path / name) == [1, 2]


def test_packed_and_plain_files_of_one_kind_and_those_in_folders_are_read_and_the_rest_is_named(tmp_path, capsys):
    put(tmp_path / "a.jsonl", 1, 2)
    put(tmp_path / "b.jsonl.zst", 3)
    put(tmp_path / "more" / "c.json", 4)
    (tmp_path / "d.txt").write_text("notes")
    (tmp_path / ".hidden.jsonl").write_text("{")
    assert sorted(numbers(tmp_path)) == [1, 2, 3, 4]
    assert f"{tmp_path}: reading 3 files (a.jsonl, b.jsonl.zst, c.json); not read: d.txt" in capsys.readouterr().err


def test_json_files_of_several_datasets_are_not_joined_in_silence(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"n": 1, "note": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"n": 2}\n')
    assert numbers(tmp_path) == [1, 2]
    assert "columns that some files lack are null there: 'note' (b.jsonl)" in capsys.readouterr().err
    (tmp_path / "c.jsonl").write_text('{"text": "y"}\n')
    with pytest.raises(DataError, match=r"\(a.jsonl, b.jsonl, c.jsonl\) have no column in common: they are several"):
        open_source(str(tmp_path))


def test_of_two_kinds_one_is_read_and_the_other_named(tmp_path, capsys):
    put(tmp_path / "a.parquet", 1, 2, 3)
    put(tmp_path / "b.jsonl", 4, 5, 6)
    assert numbers(tmp_path) == [1, 2, 3]
    assert "reading 1 file (a.parquet); not read: b.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "layout", ["train.jsonl test.jsonl", "train/a.jsonl test/a.jsonl", "data/train-0.jsonl data/test-0.jsonl"]
)
def test_splits_by_name_are_those_of_load_dataset(layout, tmp_path, capsys):
    train, test = (tmp_path / "in" / name for name in layout.split())
    put(train, 1, 2)
    put(test, 3)
    expected = load_dataset(str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"))
    assert numbers(tmp_path / "in") == expected["train"]["n"][:] == [1, 2]
    assert "reading the split train; not read: test (--split)" in capsys.readouterr().err
    assert numbers(tmp_path / "in", split="test") == expected["test"]["n"][:] == [3]
    with pytest.raises(
        DataError, match=r"no split 'dev'; it has (train, test|test, train); say which one with --split"
    ):
        open_source(str(tmp_path / "in"), "dev")


README = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: small/train-*
  - split: test
    path: small/test-*
- config_name: large
  data_files: large/*.parquet
---
# A dataset
"""


def test_a_downloaded_repository_of_the_hub(tmp_path):
    (tmp_path / "README.md").write_text(README)
    put(tmp_path / "small" / "train-0.parquet", 1)
    put(tmp_path / "small" / "test-0.parquet", 2)
    put(tmp_path / "large" / "0.parquet", 3)
    put(tmp_path / "large" / "1.parquet", 4)
    assert numbers(tmp_path, config="small") == [1]
    assert numbers(tmp_path, config="small", split="test") == [2]
    assert numbers(tmp_path, config="large") == [3, 4]
    with pytest.raises(DataError, match="several configurations: small, large; say which one with --config"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match="no configuration 'huge'; it has small, large"):
        open_source(str(tmp_path), config="huge")


def test_a_directory_of_llama_factory(tmp_path):
    info = {"one": {"file_name": "one.json"}, "two": {"file_name": "two.jsonl"}, "far": {"hf_hub_url": "acme/far"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    put(tmp_path / "one.json", 1)
    put(tmp_path / "two.jsonl", 2)
    with pytest.raises(DataError, match="several configurations: one, two; say which one with --config"):
        open_source(str(tmp_path))
    assert numbers(tmp_path, config="two") == [2]


@pytest.mark.parametrize("option", ["config", "field", "split"])
def test_options_that_do_not_apply_are_refused(option, tmp_path):
    put(tmp_path / "in.parquet", 1)
    with pytest.raises(DataError, match=f"leave --{option} out"):
        open_source(str(tmp_path / "in.parquet"), **{option: "x"})


def test_saved_datasets_are_still_found(tmp_path, capsys):
    DatasetDict({"train": Dataset.from_dict({"n": [1]}), "test": Dataset.from_dict({"n": [2]})}).save_to_disk(tmp_path)
    assert numbers(tmp_path) == [1]
    assert "reading the split train; not read: test (--split)" in capsys.readouterr().err
    assert numbers(tmp_path, split="test") == [2]


def test_a_result_of_ours_is_not_read_as_one_dataset(tmp_path):
    put(tmp_path / "kept" / "data.parquet", 1)
    put(tmp_path / "removed" / "data.parquet", 2)
    (tmp_path / "larf_summary.json").write_text("{}")
    with pytest.raises(DataError, match="open its kept/, removed/ or unscorable/"):
        open_source(str(tmp_path))
    assert numbers(tmp_path / "kept") == [1]


# JSON that is not rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("key", ["data", "train"])
def test_rows_under_a_key_are_offered_and_read(key, indent, tmp_path):
    rows = [{"n": 1, "x": "a"}, {"n": 2, "x": "b"}]
    (tmp_path / "in.json").write_text(json.dumps({"version": "1", key: rows}, indent=indent))
    with pytest.raises(DataError, match=f"rows lie under '{key}': pass --field {key}"):
        open_source(str(tmp_path / "in.json"))
    assert numbers(tmp_path / "in.json", field=key) == [1, 2]
    with pytest.raises(DataError, match=f"no field 'rows'; it has: version, {key}"):
        open_source(str(tmp_path / "in.json"), field="rows")


def test_one_pretty_printed_object_is_one_row(tmp_path):
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    row = {"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]}
    (tmp_path / "in.json").write_text(json.dumps(row, indent=2))
    assert read(open_source(str(tmp_path / "in.json"))) == [row]


@pytest.mark.parametrize(
    "value",
    [
        {"instruction": ["a", "b"], "output": ["c", "d"]},
        {"instruction": {"0": "a", "1": "b"}, "output": {"0": "c", "1": "d"}},
    ],
)
def test_columns_instead_of_rows_are_refused_with_what_to_do(value, tmp_path):
    (tmp_path / "in.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"one object of columns, not rows .*orient=.records"):
        open_source(str(tmp_path / "in.json"))
