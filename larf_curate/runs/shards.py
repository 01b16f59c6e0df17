"""A dataset as shards: fixed runs of rows, scored whole or not at all, whoever scores them.

Their borders depend on the rows alone, never on the number of tasks: so a shard's scores, bit for bit, and what a
killed run has finished, are the same however many tasks there are the next time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..atomic import write_text
from ..digests import digest_of
from ..errors import DataError, one_line
from ..scoring.columns import SCORE, scores_of
from ..sources.file_readers import read_file
from ..sources.tables import DataFile, Source, files_from, files_json, overlap, schema_from, schema_text, share

_FEWEST, _MOST, _ABOUT = 256, 16_384, 256
_CHECKSUM = ".sha256"

Stamp = tuple[int, int, int, int]
"""Size, time of change, time of change of the entry, and inode of a file."""


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

    @property
    def checksum_name(self) -> str:
        """The file that holds the checksum of the scored shard, beside it."""
        return f"{self.index:06d}-{self.digest}{_CHECKSUM}"


@dataclass(frozen=True)
class Plan:
    """A source and its shards, as every worker of a run knows them: nobody scans the files twice.

    Attributes:
        name, schema, files: of the source.
        shard_rows: of each shard but the last.
        shards: in the order of their rows.
        stamps: of each file when its digest was taken, by its path.
    """

    name: str
    schema: pa.Schema
    files: tuple[DataFile, ...]
    shard_rows: int
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
        return digest_of([*(shard.digest for shard in self.shards), *self.source.splits])

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
                self._require_unchanged(shard)
                yield shard, table

    def _require_unchanged(self, shard: Shard) -> None:
        """Make sure that the rows of a shard that were read just now are those that its digest stands for."""
        for file in overlap(self.files, shard.first, shard.first + shard.rows):
            if file.path in self.stamps and _stamp_of(file.path) != self.stamps[file.path]:
                raise DataError(f"{file.path} changed while it was read: run the recipe again")

    def to_json(self) -> str:
        return json.dumps(
            {
                "name": self.name,
                "rows": self.rows,
                "schema": schema_text(self.schema),
                "files": files_json(self.files),
                "shard_rows": self.shard_rows,
                "digests": [shard.digest for shard in self.shards],
                "stamps": self.stamps,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        values = json.loads(text)
        size, rows = values["shard_rows"], values["rows"]
        shards = [Shard(i, i * size, min(size, rows - i * size), digest) for i, digest in enumerate(values["digests"])]
        schema, files = schema_from(values["schema"]), files_from(values["files"])
        stamps = {path: tuple(stamp) for path, stamp in values["stamps"].items()}
        return cls(values["name"], schema, files, size, tuple(shards), stamps)


def plan_shards(source: Source, shard_rows: int | None = None, known: Path | None = None) -> Plan:
    """Divide a source into shards. Reads every file once, for its digest.

    Args:
        source: what to divide.
        shard_rows: rows of a shard; by itself about a 256th of all, 256 to 16,384, always a power of two, so that it
            rarely changes when rows are added.
        known: a file that keeps the digests between runs, by path and `Stamp`.

    Raises:
        DataError: a file cannot be read, or was written to meanwhile.
    """
    size = shard_rows or min(_MOST, max(_FEWEST, 1 << (max(1, source.rows) // _ABOUT).bit_length()))
    digested = digest_files([file.path for file in source.files], known)
    digests = {path: digest for path, (_, digest) in digested.items()}
    stamps = {str(Path(path).absolute()): stamp for path, (stamp, _) in digested.items()}
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
    return Plan(source.name, source.schema, absolute, size, tuple(shards), stamps)


def _neighbours(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    run: list[Shard] = []
    for shard in shards:
        if run and shard.index != run[-1].index + 1:
            yield run
            run = []
        run.append(shard)
    if run:
        yield run


def _stamp_of(path: str) -> Stamp:
    """What changes when a file is written to or replaced, even where its size and time are set back.

    Raises:
        DataError: it cannot be read.
    """
    try:
        state = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def digest_files(paths: Iterable[str], known: Path | None) -> dict[str, tuple[Stamp, str]]:
    """The stamp and the sha256 of each file.

    Args:
        paths: of the files.
        known: a file that keeps them between runs; only a file whose stamp is another is read.

    Raises:
        DataError: a file cannot be read, or was written to meanwhile.
    """
    try:
        before = json.loads(known.read_text(encoding="utf-8")) if known else {}
    except (OSError, ValueError):
        before = None
    before = before if isinstance(before, dict) and all(isinstance(entry, dict) for entry in before.values()) else {}
    after: dict[str, Any] = {}
    for path in dict.fromkeys(paths):
        stamp = _stamp_of(path)
        if before.get(path, {}).get("stamp") == list(stamp) and "sha256" in before[path]:
            after[path] = before[path]
            continue
        try:
            with Path(path).open("rb") as file:
                after[path] = {"stamp": list(stamp), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if _stamp_of(path) != stamp:
            raise DataError(f"{path} was written to while it was read: let that end, and run the recipe again")
    if known and after != before:
        write_text(known, json.dumps(after))
    return {path: (tuple(entry["stamp"]), entry["sha256"]) for path, entry in after.items()}


# Scored shards on disk ----------------------------------------------------------------------------------------------


def missing(plan: Plan, home: Path) -> list[int]:
    """Indexes of the shards that no run has finished.

    A shard is finished once its checksum is there too; a file has its name only once all of it is on disk.
    """
    there = {entry.name for entry in os.scandir(home)} if home.is_dir() else set()
    return [shard.index for shard in plan.shards if not {shard.file_name, shard.checksum_name} <= there]


def seal_scored(home: Path, file_name: str) -> None:
    """Give a scored shard its name, once its checksum lies beside it in the form of `sha256sum`.

    Args:
        home: the directory of scored shards, in which the shard has its name after a dot.
        file_name: the name.

    Raises:
        OutputError: the checksum cannot be written. DataError: the shard cannot be read.
    """
    hidden = home / f".{file_name}"
    ((_, digest),) = digest_files([str(hidden)], None).values()
    write_text((home / file_name).with_suffix(_CHECKSUM), f"{digest}  {file_name}\n")
    hidden.replace(home / file_name)


def unseal_scored(plan: Plan, home: Path, indexes: Iterable[int]) -> None:
    """Take the checksums of some shards away, so that they count as missing and are scored again."""
    for index in indexes:
        (home / plan.shards[index].checksum_name).unlink(missing_ok=True)


def changed_shards(plan: Plan, home: Path, known: Path | None = None) -> list[int]:
    """Indexes of the shards whose content is no longer what was scored: cut short, exchanged, or put there by others.

    Args:
        plan: of the source.
        home: the directory of scored shards.
        known: a file that keeps their digests between runs; see `digest_files`.
    """
    lacking = set(missing(plan, home))
    there = {str(home / shard.file_name): shard for shard in plan.shards if shard.index not in lacking}
    changed = []
    for path, (_, digest) in digest_files(there, known).items():
        shard = there[path]
        try:
            sealed = (home / shard.checksum_name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            sealed = ""
        if sealed != f"{digest}  {shard.file_name}\n":
            changed.append(shard.index)
    return changed


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
