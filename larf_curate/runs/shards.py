"""A dataset as shards: fixed runs of rows, scored whole or not at all, whoever scores them.

Their borders depend on the rows alone, never on the number of tasks: so a shard's scores, bit for bit, and what a
killed run has finished, are the same however many tasks there are the next time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..atomic import write_text
from ..errors import DataError, one_line
from ..scoring.columns import SCORE, scores_of
from ..sources.file_readers import read_file
from ..sources.tables import DataFile, Source, files_from, files_json, overlap, schema_from, schema_text, share

_FEWEST, _MOST, _ABOUT = 256, 16_384, 256


@dataclass(frozen=True)
class Shard:
    """Rows `first` to `first + rows` of the source. `digest` stands for their content, order and types."""

    index: int
    first: int
    rows: int
    digest: str

    @property
    def file_name(self) -> str:
        return f"{self.index:06d}-{self.digest}.parquet"


@dataclass(frozen=True)
class Plan:
    """A source and its shards, as every worker of a run knows them: nobody scans the files twice."""

    name: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    shard_rows: int
    shards: tuple[Shard, ...]

    @cached_property
    def source(self) -> Source:
        return Source(self.name, self.schema, self.files, read_file)

    @property
    def rows(self) -> int:
        return self.source.rows

    def rows_in(self, indexes: Iterable[int]) -> int:
        """How many rows these shards hold."""
        return sum(self.shards[index].rows for index in indexes)

    @property
    def digest(self) -> str:
        return digest_of([shard.digest for shard in self.shards])

    def part(self, rank: int, tasks: int, indexes: Sequence[int] | None = None) -> list[Shard]:
        """One task's share of the shards (of those named): a run of neighbours, as even as can be."""
        chosen = range(len(self.shards)) if indexes is None else indexes
        return [self.shards[chosen[i]] for i in range(*share(len(chosen), rank, tasks))]

    def tables(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, pa.Table]]:
        """Each shard with its rows; neighbours are read in one go."""
        for run in _neighbours(shards):
            pieces = self.source.tables(self.shard_rows, run[0].first, run[-1].first + run[-1].rows)
            for shard in run:
                table = next(pieces, None)
                if table is None or len(table) != shard.rows:
                    raise DataError(f"{self.name} changed while it was read: run the recipe again")
                yield shard, table

    def to_json(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "rows": self.rows,
                "schema": schema_text(self.schema),
                "files": files_json(self.files),
                "shard_rows": self.shard_rows,
                "digests": [shard.digest for shard in self.shards],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        size, rows = values["shard_rows"], values["rows"]
        shards = [Shard(i, i * size, min(size, rows - i * size), digest) for i, digest in enumerate(values["digests"])]
        return cls(values["name"], schema_from(values["schema"]), files_from(values["files"]), size, tuple(shards))


def plan_shards(source: Source, shard_rows: int | None = None, known: Path | None = None) -> Plan:
    """Divide a source into shards. Reads every file once, for its digest.

    Args:
        source: what to divide.
        shard_rows: rows of a shard; by itself about a 256th of all, 256 to 16,384, always a power of two, so that it
            rarely changes when rows are added.
        known: a file that keeps the digests between runs, by path, size and time of change.
    """
    size = shard_rows or min(_MOST, max(_FEWEST, 1 << (max(1, source.rows) // _ABOUT).bit_length()))
    digests = _file_digests([file.path for file in source.files], known)
    schema = schema_text(source.schema)
    shards = []
    for index, first in enumerate(range(0, source.rows, size)):
        rows = min(size, source.rows - first)
        files = overlap(source.files, first, first + rows)
        pieces = [
            (digests[file.path], file.kind, file.first, file.rows, *([file.field] if file.field else []))
            for file in files
        ]
        shards.append(Shard(index, first, rows, digest_of([schema, pieces])[:16]))
    absolute = tuple(replace(file, path=str(Path(file.path).absolute())) for file in source.files)
    return Plan(source.name, source.schema, absolute, size, tuple(shards))


def _neighbours(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    run: list[Shard] = []
    for shard in shards:
        if run and shard.index != run[-1].index + 1:
            yield run
            run = []
        run.append(shard)
    if run:
        yield run


def _file_digests(paths: Iterable[str], known: Path | None) -> dict[str, str]:
    try:
        before = json.loads(known.read_text(encoding="utf-8")) if known else {}
    except (OSError, ValueError):
        before = None
    before = before if isinstance(before, dict) and all(isinstance(entry, dict) for entry in before.values()) else {}
    after: dict[str, Any] = {}
    for path in dict.fromkeys(paths):
        try:
            state = Path(path).stat()
            stamp = [state.st_size, state.st_mtime_ns]
            if before.get(path, {}).get("stamp") == stamp and "sha256" in before[path]:
                after[path] = before[path]
                continue
            with Path(path).open("rb") as file:
                after[path] = {"stamp": stamp, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if known and after != before:
        write_text(known, json.dumps(after))
    return {path: entry["sha256"] for path, entry in after.items()}


def digest_of(value: object) -> str:
    """sha256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# Scored shards on disk ----------------------------------------------------------------------------------------------


def missing(plan: Plan, home: Path) -> list[int]:
    """Indexes of the shards that no run has finished. A file has its name only once all of it is on disk."""
    there = {entry.name for entry in os.scandir(home)} if home.is_dir() else set()
    return [shard.index for shard in plan.shards if shard.file_name not in there]


def read_scored(home: Path, shard: Shard, columns: list[str] | None = None) -> pa.Table:
    """A scored shard.

    Raises:
        DataError: it is not there, or not whole.
    """
    path = home / shard.file_name
    try:
        table = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): remove it and run again") from error
    if len(table) != shard.rows:
        raise DataError(f"{path} holds {len(table)} rows, not {shard.rows}: remove it and run again")
    return table


def scored_chunks(plan: Plan, home: Path) -> Iterator[NDArray[np.float64]]:
    """The scores of all rows in order, a shard at a time."""
    return (scores_of(read_scored(home, shard, [SCORE])) for shard in plan.shards)
