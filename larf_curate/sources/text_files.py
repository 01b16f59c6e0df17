"""Text files, plain or gzipped."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import BinaryIO, TextIO, cast

JSON = (".jsonl", ".ndjson", ".json")
CSV = (".csv", ".tsv")


def kind_of(path: Path) -> str:
    """The ending that says what a file holds, without `.gz`; empty for one that larf-curate does not read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else "".join(suffixes[-1:])
    return last if last in (*JSON, *CSV, ".parquet") else ""


def open_text(path: Path) -> TextIO:
    """UTF-8, with or without a byte order mark; line ends inside fields stay as they are."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def open_bytes(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")
