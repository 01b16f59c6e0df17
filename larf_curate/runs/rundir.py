"""The run directory: for one run at a time, and with results in it that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from ..atomic import write_text
from ..deciding.layout import OUTCOMES, RECIPE, SOURCE_ROWS, SUMMARY
from ..deciding.summary import OutcomeCounts, Summary
from ..errors import DataError, LarfError, OutputError
from ..written import RECORD, claim, forget_missing, refuse_foreign, refuse_strangers
from .job import Job
from .signals import exit_with
from .slurm import unfinished_jobs

OWN = ".larf"  # marks a run directory, and holds what only runs need
_JOBS = "slurm.json"
_COUNTS = "rows-scored"  # in the logs of a run: a file for each worker
# As `scratch_path` calls what is not written yet.
_UNFINISHED = re.compile(r"\.{1,2}([0-9a-f]{16}-)?[0-9a-f]{32}\.(parquet|sha256)(\.[0-9a-f]{16})?")
_DIRECTORIES = (*OUTCOMES, SOURCE_ROWS)
_RESULTS = (*_DIRECTORIES, RECIPE, SUMMARY)
_USED = (*_RESULTS, OWN, RECORD, "scorer", "scored")
"""What a run reads and writes in its directory. In the logs each run has a new directory."""
_locked_here: set[Path] = set()


def _exit_with_parent() -> None:
    """What is forked during a run (datatrove's managers) ends with it; left to itself it would outlive a killed one."""
    if _locked_here:
        _locked_here.clear()
        exit_with(os.getppid())


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_exit_with_parent)


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """The run directory for one run alone; the lock goes with the process, however it ends.

    Raises:
        OutputError: another run has it, or it is something else, or cannot be written.
        LarfError: this system has no POSIX file locks.
    """
    require_posix()
    own = home / OWN
    if home in _locked_here:  # to a file lock, all of a process is one
        raise OutputError(f"another run is at work in {home} (in this process): let it end, or choose another output")
    try:
        if home.exists() and not own.is_dir() and (not home.is_dir() or any(home.iterdir())):
            raise OutputError(f"{home} exists and is no run directory; choose another output or remove it")
        home.mkdir(parents=True, exist_ok=True)
        refuse_strangers(home, _USED, shallow=["logs"])
        own.mkdir(exist_ok=True)
        lock = _opened(own / "lock")
    except OSError as error:
        raise OutputError(f"{home} cannot be written: {error.strerror or error}") from error
    with lock:
        if not _try_lock(lock):
            lock.seek(0)
            raise OutputError(
                f"another run is at work in {home} ({lock.read().strip() or 'process unknown'}): let it end, or choose "
                "another output"
            )
        if unfinished := unfinished_jobs(submitted_jobs(home)):
            raise OutputError(
                f"jobs of an earlier run into {home} are queued or running: {', '.join(unfinished)}; let them end, or "
                "scancel them"
            )
        with contextlib.suppress(OSError):  # on a full disk nobody learns who it is; what it writes next says so
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        _locked_here.add(home)
        try:
            yield
        finally:
            _locked_here.remove(home)


def _opened(path: Path) -> IO[str]:
    """A plain file of ours to read and write, made if it is not there; a link is not followed."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")


def require_posix() -> None:
    """Refuse a system on which recipes cannot run: locks, workers and signals are POSIX's.

    Raises:
        LarfError: there are no POSIX file locks, as on Windows.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise LarfError(
            "recipes run on POSIX systems alone: use Linux, macOS, or WSL on Windows. Scoring (LARFScorer, "
            "`larf-curate score`) and splitting (Threshold, `larf-curate filter`) work here"
        ) from None


def _try_lock(file: IO[str]) -> bool:
    import fcntl

    try:
        # Not flock: what datatrove forks would hold that too, and some of it outlives a driver that was killed.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def save_submitted_jobs(home: Path, jobs: list[str]) -> None:
    """Keep the numbers of Slurm jobs for the next run: it must not start while they are queued or running."""
    write_text(home / OWN / _JOBS, json.dumps(jobs))


def submitted_jobs(home: Path) -> list[str]:
    """The numbers of the Slurm jobs of the last run that had any."""
    try:
        return list(json.loads((home / OWN / _JOBS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def make_directories(job: Job) -> None:
    """Make the directories of a run, without what a killed one has left half-done in them.

    Raises:
        OutputError: they cannot be written, or files of somebody else lie where the results are to go.
    """
    refuse_foreign(Path(job.home), _RESULTS)
    try:
        shutil.rmtree(job.work, ignore_errors=True)
        for unfinished in Path(job.scored).glob(".*"):
            if _UNFINISHED.fullmatch(unfinished.name):
                unfinished.unlink(missing_ok=True)
        for directory in (job.work, job.scored, job.logs):
            Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{job.home} cannot be written: {error.strerror or error}") from error


def finished_result(home: Path, digest: str) -> Summary | None:
    """The result of an earlier run of the same recipe on the same rows, if all of it is there.

    Args:
        home: the run directory.
        digest: a digest of everything that decides the result.
    """
    try:
        summary = Summary.from_json((home / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, DataError):
        return None
    same = summary.run is not None and summary.run.digest == digest
    return summary if same and _are_whole(home, summary) else None


def _are_whole(home: Path, summary: Summary) -> bool:
    """Whether the rows that a summary counts are there: what was cut short or lost is split again."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for outcome, expected in asdict(summary.outcomes or OutcomeCounts()).items():
        for directory in (home / outcome, home / SOURCE_ROWS / outcome):
            try:
                there = sum(pq.read_metadata(path).num_rows for path in directory.rglob("*.parquet"))
            except (OSError, pa.ArrowException):
                return False
            if there != expected or not directory.is_dir():
                return False
    return True


def move_results_into_place(home: Path, work: Path) -> None:
    """Move finished results to their names. Killed half-way, it goes on where it was when it is called again.

    The summary goes first and comes last: while it is there, what lies beside it is whole and belongs to it.

    Raises:
        OutputError: they cannot be moved there, or files of somebody else lie there.
    """
    if not (work / SUMMARY).is_file():
        shutil.rmtree(work, ignore_errors=True)  # half of a result, or what the last one has replaced
        return
    refuse_foreign(home, _RESULTS)
    try:
        (home / SUMMARY).unlink(missing_ok=True)
        parts = [path for name in _DIRECTORIES for path in (work / name).rglob("*") if path.is_file()]
        claim(home, [*(path.relative_to(work).as_posix() for path in parts), RECIPE, SUMMARY])
        for name in (*_DIRECTORIES, RECIPE):
            if not (work / name).exists():
                continue  # it was moved before
            if (home / name).exists():
                (work / "old").mkdir(exist_ok=True)
                shutil.rmtree(work / "old" / name, ignore_errors=True)
                (home / name).replace(work / "old" / name)
            (work / name).replace(home / name)
        forget_missing(home, keep=[SUMMARY])
        (work / SUMMARY).replace(home / SUMMARY)
    except OSError as error:
        raise OutputError(f"{home} cannot be written: {error.strerror or error}") from error
    shutil.rmtree(work, ignore_errors=True)


def count_file(logs: Path, worker: str) -> Path:
    """Where a worker of a run writes how many rows it has scored."""
    folder = logs / _COUNTS
    folder.mkdir(exist_ok=True)
    return folder / worker


def counted_rows(logs: Path) -> int:
    """How many rows the workers of a run have scored, including the rows of unfinished shards."""
    counts = 0
    for file in (logs / _COUNTS).glob("*"):
        with contextlib.suppress(OSError, ValueError):  # being written just now
            counts += int(file.read_text())
    return counts
