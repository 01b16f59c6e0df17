"""A source divided into shards by what its rows hold: a row more or less moves few borders, and keeps the others.

A shard ends after a row whose hash says so, once it has enough rows, or when it has too many. That is how backup tools
find again what did not change in a file that became longer in the middle (content-defined chunking).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..atomic import write_text
from ..sources.row_content import Hashes, row_hashes
from ..sources.tables import ROWS_AT_ONCE, DataFile, Source, schema_text
from .shards import Plan, shard_digest, shards_of
from .stamps import Stamp, read_record, require_same, stamp_of

_FEWEST, _MOST, _ABOUT = 256, 16_384, 256
_VERSION = 1  # of the way in which borders are found: another one makes other shards of the same rows


def plan_shards(source: Source, shard_rows: int | None = None, known: Path | None = None) -> Plan:
    """Divide a source into shards. Reads its rows once, to know what they hold.

    The shards follow from the rows and their order alone: not from the files, and not from what was there before.

    Args:
        source: what to divide.
        shard_rows: about how many rows a shard has: half as many to twice as many, fewer only in the last. By itself
            256 in the beginning, and later about a 256th of the rows that come before, up to 16,384.
        known: a file that keeps what is known of the source between runs. Files at its beginning that did not change
            are not read again.

    Raises:
        DataError: a file cannot be read, or was written to meanwhile.
    """
    stamps: dict[str, Stamp] = {}
    for file in source.files:
        stamps.setdefault(file.path, stamp_of(file.path))
    record = {
        "version": _VERSION,
        "schema": schema_text(source.schema.remove_metadata()),
        "shard_rows": shard_rows,
        "files": [[str(Path(file.path).absolute()), list(stamps[file.path]), *_part(file)] for file in source.files],
    }
    before = read_record(known)
    parts = _still_true(before, record, source)
    first = sum(rows for rows, _ in parts)
    for table in divided(source.tables(ROWS_AT_ONCE, first), shard_rows, first):
        parts.append((len(table), shard_digest(table)))
    for path, stamp in stamps.items():
        require_same(path, stamp)
    record["shards"] = [list(part) for part in parts]
    if known and record != before:
        write_text(known, json.dumps(record))
    files = tuple(replace(file, path=str(Path(file.path).absolute())) for file in source.files)
    absolute = {str(Path(path).absolute()): stamp for path, stamp in stamps.items()}
    return Plan(source.name, source.schema, files, shards_of(parts), absolute)


def _part(file: DataFile) -> list[Any]:
    """Which part of a file belongs to a source."""
    return [file.kind, file.first, file.rows, file.field]


def _still_true(before: dict[str, Any], now: dict[str, Any], source: Source) -> list[tuple[int, str]]:
    """Rows and digest of the first shards, as far as they are known: those that end before a file that changed.

    Where a shard ends depends only on its own rows; but the last shard ended because there were no more rows.
    """
    if any(before.get(name) != now[name] for name in ("version", "schema", "shard_rows")):
        return []
    files, shards = before.get("files"), _shards_in(before)
    if not isinstance(files, list):
        return []
    same = 0
    for file, old, new in zip(source.files, files, now["files"], strict=False):
        if old != new:
            break
        same += file.rows
    whole = files == now["files"] and sum(rows for rows, _ in shards) == source.rows
    kept: list[tuple[int, str]] = []
    for rows, digest in shards if whole else shards[:-1]:
        same -= rows
        if same < 0:
            break
        kept.append((rows, digest))
    return kept


def _shards_in(record: dict[str, Any]) -> list[tuple[int, str]]:
    """The rows and the digest of each shard that a record names; none where it is damaged."""
    try:
        shards = [(rows, digest) for rows, digest in record["shards"]]
    except (KeyError, TypeError, ValueError):
        return []
    sound = all(isinstance(rows, int) and rows > 0 and isinstance(digest, str) for rows, digest in shards)
    return shards if sound else []


def divided(tables: Iterable[pa.Table], shard_rows: int | None = None, first: int = 0) -> Iterator[pa.Table]:
    """The rows of some tables as one table for each shard.

    Args:
        tables: rows that follow one another, the first of them row `first` of the source, where a shard begins.
        shard_rows: see `plan_shards`.
        first: the number of the first row, from 0.
    """
    waiting: list[pa.Table] = []
    hashes = np.zeros(0, np.uint64)
    for table in tables:
        waiting.append(table)
        hashes = np.concatenate([hashes, row_hashes(table)])
        while rows := _end(hashes, shard_rows or _usual_rows(first)):
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, rows)
            waiting, hashes, first = [joined.slice(rows)], hashes[rows:], first + rows
    if len(hashes):
        yield pa.concat_tables(waiting)


def _usual_rows(first: int) -> int:
    """About how many rows a shard has whose first row is this one.

    It depends on what comes before alone: it would change all borders if it depended on how many rows there are.
    """
    return min(_MOST, max(_FEWEST, 1 << (first // _ABOUT).bit_length()))


def _end(hashes: Hashes, about: int) -> int:
    """The number of rows of the next shard, given the hashes of its first rows; 0 if more rows have to be seen."""
    fewest, most = about // 2 + 1, 2 * about
    ends = np.flatnonzero(hashes[fewest - 1 : most] % np.uint64(max(1, about // 2)) == 0)
    if len(ends):
        return fewest + int(ends[0])
    return most if len(hashes) >= most else 0
