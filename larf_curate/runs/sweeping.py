"""Scored shards that no run of a directory needs any more: which they are, and their removal when it is asked for.

Every run that had something to do has left its plan in the logs, and with it the names of its shards. Needed are those
of the result that is there, and those of the last run over each source with each scorer. The others belong to earlier
states of a source. What no plan names is left alone, whatever it is.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..deciding.layout import RECIPE, SUMMARY
from ..deciding.summary import Summary
from ..errors import DataError, LarfError, OutputError, one_line
from ..safe_yaml import load_yaml
from .shards import CHECKSUM

_SCORED = re.compile(r"[0-9a-f]{16}")
_SHARD = re.compile(r"[0-9a-f]{32}")
_NOT_WHICH_SOURCE = ("revision", "shard_rows")
"""Keys of a recipe's source that name a state of it, or how it is divided, and not which one it is."""


@dataclass(frozen=True)
class UnusedShards:
    """Scored shards that no run needs.

    Attributes:
        files: the files of the shards and their checksums, a checksum before its shard.
        count: how many shards they are.
        bytes: how many bytes the files take.
    """

    files: tuple[Path, ...]
    count: int
    bytes: int

    def in_words(self) -> str:
        return f"{self.count:,} scored shard{'s' * (self.count != 1)} ({self.bytes / 1e6:,.1f} MB)"


@dataclass(frozen=True)
class _RecordedRun:
    """What the logs say of one run.

    Attributes:
        begun: when, to be compared with others.
        source: which one it read, whatever that held.
        scored: the name of the directory of its scored shards: it stands for the scorer.
        shards: what their files are called, without the ending.
        digest: the digest of its result.
    """

    begun: tuple[str, int]
    source: str
    scored: str
    shards: frozenset[str]
    digest: str


def unused_shards(home: Path) -> UnusedShards:
    """The scored shards that the runs of a directory have left and none needs; nobody else may be at work there.

    Raises:
        DataError: what a run has recorded cannot be read, so that nobody knows what it needs.
    """
    runs = sorted((_recorded(path) for path in (home / "logs").glob("*/job.json")), key=lambda run: run.begun)
    last = {(run.source, run.scored): run for run in runs}
    result = _digest_of_result(home)
    needed = {
        (run.scored, name)
        for run in (*last.values(), *(run for run in runs if run.digest == result))
        for name in run.shards
    }
    files: list[Path] = []
    for scored, name in sorted({(run.scored, name) for run in runs for name in run.shards} - needed):
        paths = (home / "scored" / scored / f"{name}{ending}" for ending in (CHECKSUM, ".parquet"))
        files += [path for path in paths if path.is_file() and not path.is_symlink()]
    count = sum(path.suffix == ".parquet" for path in files)
    return UnusedShards(tuple(files), count, sum(path.stat().st_size for path in files))


def remove(unused: UnusedShards) -> None:
    """Remove these files.

    Raises:
        OutputError: one cannot be removed.
    """
    for path in unused.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{path} cannot be removed: {error.strerror or error}") from error
    for directory in {path.parent for path in unused.files}:
        with contextlib.suppress(OSError):  # it holds something else
            directory.rmdir()


def _digest_of_result(home: Path) -> str | None:
    try:
        run = Summary.from_json((home / SUMMARY).read_text(encoding="utf-8")).run
    except (OSError, UnicodeDecodeError, DataError):
        return None
    return run.digest if run is not None else None


def _recorded(job_file: Path) -> _RecordedRun:
    logs = job_file.parent
    try:
        job = json.loads(job_file.read_text(encoding="utf-8"))
        plan = json.loads((logs / "plan.json").read_text(encoding="utf-8"))
        source = load_yaml((logs / RECIPE).read_text(encoding="utf-8"))["source"]
        which = {name: value for name, value in source.items() if name not in _NOT_WHICH_SOURCE}
        if not Path(source["path"]).is_absolute():
            which["directory"] = job["directory"]
        scored, shards = Path(job["scored"]).name, frozenset(str(digest) for _, digest in plan["shards"])
        if not _SCORED.fullmatch(scored) or not all(map(_SHARD.fullmatch, shards)):
            raise DataError("it names no scored shards")
        begun = (str(job["run"]["started"]), job_file.stat().st_mtime_ns)
        return _RecordedRun(begun, json.dumps(which, sort_keys=True), scored, shards, str(job["run"]["digest"]))
    except (OSError, LarfError, yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{logs} does not say which scored shards its run needs ({one_line(error)})") from error
