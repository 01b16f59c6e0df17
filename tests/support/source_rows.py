"""The same three rows in every kind of file, and what tests of readers and writers share."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from larf_curate.sources.json_values import rows_of
from larf_curate.sources.tables import Source
from larf_curate.sources.writing import write_file

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
