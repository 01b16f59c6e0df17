"""Files as they are now: a stamp that changes whenever a file does, and digests that are kept until then."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..errors import DataError

Stamp = tuple[int, int, int, int]
"""Size, time of change, time of change of the entry, and inode of a file."""


def stamp_of(path: str) -> Stamp:
    """What changes when a file is written to or replaced, even where its size and time are set back.

    Raises:
        DataError: it cannot be read.
    """
    try:
        state = Path(path).stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def digest_files(paths: Iterable[str], known: Path | None = None) -> dict[str, str]:
    """The sha256 of each file.

    Args:
        paths: the paths of the files.
        known: a file that keeps them between runs; only a file whose stamp is another is read.

    Raises:
        DataError: a file cannot be read, or was written to meanwhile.
    """
    before = read_record(known)
    after: dict[str, Any] = {}
    for path in dict.fromkeys(paths):
        stamp = stamp_of(path)
        entry = before.get(path)
        if isinstance(entry, dict) and entry.get("stamp") == list(stamp) and "sha256" in entry:
            after[path] = entry
            continue
        try:
            with Path(path).open("rb") as file:
                after[path] = {"stamp": list(stamp), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        require_same(path, stamp)
    if known and after != before:
        write_text(known, json.dumps(after))
    return {path: entry["sha256"] for path, entry in after.items()}


def require_same(path: str, stamp: Stamp) -> None:
    """Make sure that a file is still the one that a stamp was taken of.

    Raises:
        DataError: it was written to or replaced.
    """
    if stamp_of(path) != stamp:
        raise DataError(f"{path} was written to while it was read: let that end, and run the recipe again")


def read_record(known: Path | None) -> dict[str, Any]:
    """A JSON object that an earlier run has kept; an empty one where there is none that can be read."""
    try:
        record = json.loads(known.read_text(encoding="utf-8")) if known else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
