"""A dataset as shards: runs of rows that are scored whole or not at all, whoever scores them.

Where they end, and what they are called, follows from what the rows hold, never from the number of tasks or from the
files that the rows lie in. So a shard's scores, bit for bit, are found again wherever the same rows come again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from ..digests import digest_of
from ..errors import DataError
from ..sources.file_readers import read_file
from ..sources.row_content import table_digest
from ..sources.tables import (
    ROWS_AT_ONCE,
    DataFile,
    Source,
    files_from,
    files_json,
    overlap,
    schema_from,
    schema_text,
    slice_of_task,
)
from .stamps import Stamp, stamp_of

CHECKSUM = ".sha256"


@dataclass(frozen=True)
class Shard:
    """Rows `first` to `first + rows` of the source. `digest` stands for their content, order and types.

    Shards of the same content have the same name, and are scored once.
    """

    index: int
    first: int
    rows: int
    digest: str

    @property
    def file_name(self) -> str:
        return f"{self.digest}.parquet"

    @property
    def checksum_name(self) -> str:
        """The file that holds the checksum of the scored shard, beside it."""
        return f"{self.digest}{CHECKSUM}"


def shard_digest(table: pa.Table) -> str:
    """What the rows of a shard are known by."""
    return table_digest(table)[:32]


@dataclass(frozen=True)
class Plan:
    """A source and its shards, as every worker of a run knows them: nobody divides it twice.

    Attributes:
        name, schema, files: the source's.
        shards: the shards in the order of their rows.
        stamps: the stamp of each file when its rows were read, by its path.
    """

    name: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    shards: tuple[Shard, ...]
    stamps: Mapping[str, Stamp] = field(default_factory=dict)

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
        """Of all rows and their order, of the splits, and of the schema with its metadata."""
        return digest_of([schema_text(self.schema), *(shard.digest for shard in self.shards), *self.source.splits])

    def part(self, rank: int, tasks: int, indexes: Sequence[int] | None = None) -> list[Shard]:
        """The shards of one of several tasks, neighbours, as even as can be; of the `indexes` alone where given."""
        chosen = range(len(self.shards)) if indexes is None else indexes
        return [self.shards[chosen[i]] for i in range(*slice_of_task(len(chosen), rank, tasks))]

    def tables(self, shards: Iterable[Shard]) -> Iterator[tuple[Shard, pa.Table]]:
        """Each shard with its rows; neighbours are read in one go.

        Raises:
            DataError: the rows are not those that the shards were made of.
        """
        for run in _neighbours(shards):
            pieces = self.source.tables(ROWS_AT_ONCE, run[0].first, run[-1].first + run[-1].rows)
            for shard, table in zip(run, _cut(pieces, [shard.rows for shard in run]), strict=False):
                if len(table) != shard.rows:
                    raise DataError(f"{self.name} changed while it was read: run the recipe again")
                self._require_unchanged(shard, table)
                yield shard, table

    def _require_unchanged(self, shard: Shard, table: pa.Table) -> None:
        """Make sure that the rows that were read just now are those that the digest of the shard stands for."""
        for file in overlap(self.files, shard.first, shard.first + shard.rows):
            if file.path in self.stamps and stamp_of(file.path) != self.stamps[file.path]:
                raise DataError(f"{file.path} changed while it was read: run the recipe again")
        if shard_digest(table) != shard.digest:
            raise DataError(f"{self.name} gives other rows than before: run the recipe again")

    def to_json(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "schema": schema_text(self.schema),
                "files": files_json(self.files),
                "shards": [[shard.rows, shard.digest] for shard in self.shards],
                "stamps": self.stamps,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        schema, files = schema_from(values["schema"]), files_from(values["files"])
        stamps = {path: tuple(stamp) for path, stamp in values["stamps"].items()}
        return cls(values["name"], schema, files, shards_of(values["shards"]), stamps)


def shards_of(parts: Iterable[tuple[int, str]]) -> tuple[Shard, ...]:
    """Shards in their order, given the number of rows and the digest of each."""
    shards: list[Shard] = []
    first = 0
    for rows, digest in parts:
        shards.append(Shard(len(shards), first, rows, digest))
        first += rows
    return tuple(shards)


def _neighbours(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    run: list[Shard] = []
    for shard in shards:
        if run and shard.index != run[-1].index + 1:
            yield run
            run = []
        run.append(shard)
    if run:
        yield run


def _cut(tables: Iterable[pa.Table], counts: Sequence[int]) -> Iterator[pa.Table]:
    """The rows of some tables in pieces of so many rows each; fewer where the tables end before."""
    pieces, held = iter(tables), pa.table({})
    for count in counts:
        parts, missing = [], count
        while missing:
            held = held if len(held) else next(pieces, pa.table({}))
            if not len(held):
                break
            parts.append(held.slice(0, missing))
            held = held.slice(len(parts[-1]))
            missing -= len(parts[-1])
        yield pa.concat_tables(parts) if parts else pa.table({})
