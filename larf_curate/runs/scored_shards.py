"""Scored shards on disk: each in a file of its own, with its checksum beside it, found again by what the rows hold."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..atomic import write_text
from ..errors import DataError, OutputError, one_line
from ..scoring.columns import SCORE, scores_of
from ..sources.writing import write_file
from .shards import CHECKSUM, Plan, Shard
from .stamps import digest_files


def missing(plan: Plan, home: Path) -> list[int]:
    """Indexes of the shards that no run has finished; of several with the same content, the first.

    A shard is finished once its checksum is there too; a file has its name only once all of it is on disk.
    """
    there = {entry.name for entry in os.scandir(home)} if home.is_dir() else set()
    return [shard.index for shard in _distinct(plan) if not {shard.file_name, shard.checksum_name} <= there]


def _distinct(plan: Plan) -> list[Shard]:
    """The shards of a plan, in order, without those whose content came before."""
    first: dict[str, Shard] = {}
    for shard in plan.shards:
        first.setdefault(shard.digest, shard)
    return list(first.values())


def write_scored(home: Path, file_name: str, table: pa.Table) -> None:
    """Write a scored shard, with its checksum beside it in the form of `sha256sum`.

    Two may write the same one at once: on a cluster the worker of a run that was killed goes on for a while.

    Args:
        home: the directory of scored shards.
        file_name: the name of the shard's file, which it gets once all of it and the checksum are on disk.
        table: its rows.

    Raises:
        OutputError: it cannot be written.
    """
    hidden = home / f".{secrets.token_hex(8)}-{file_name}"
    try:
        with write_file(hidden, table.schema) as out:
            out.write(table)
        (digest,) = digest_files([str(hidden)]).values()
        write_text((home / file_name).with_suffix(CHECKSUM), f"{digest}  {file_name}\n")
        hidden.replace(home / file_name)
    except OSError as error:
        raise OutputError(f"{home / file_name} cannot be written: {error.strerror or error}") from error
    finally:
        hidden.unlink(missing_ok=True)


def unseal_scored(plan: Plan, home: Path, indexes: Iterable[int]) -> None:
    """Take the checksums of some shards away, so that they count as missing and are scored again."""
    for index in indexes:
        (home / plan.shards[index].checksum_name).unlink(missing_ok=True)


def changed_shards(plan: Plan, home: Path, known: Path | None = None) -> list[int]:
    """Indexes of the shards whose content is no longer what was scored: cut short, exchanged, or put there by others.

    Args:
        plan: the plan of the source's shards.
        home: the directory of scored shards.
        known: a file that keeps their digests between runs; see `digest_files`.
    """
    lacking = set(missing(plan, home))
    there = {str(home / shard.file_name): shard for shard in _distinct(plan) if shard.index not in lacking}
    changed = []
    for path, digest in digest_files(there, known).items():
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
        with pq.ParquetFile(path) as file:  # a third of what `read_table` takes for a small file; some have thousands
            table = file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}): remove it and run again") from error
    if len(table) != shard.rows:
        raise DataError(f"{path} holds {len(table)} rows, not {shard.rows}: remove it and run again")
    return table


def scored_chunks(plan: Plan, home: Path) -> Iterator[NDArray[np.float64]]:
    """The scores of all rows in order, a shard at a time."""
    return (scores_of(read_scored(home, shard, [SCORE])) for shard in plan.shards)
