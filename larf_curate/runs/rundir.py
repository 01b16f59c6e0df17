"""The run directory: for one run at a time, and with results in it that are whole or not there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..deciding.layout import OUTCOMES, RECIPE, SUMMARY
from ..deciding.summary import Summary
from ..errors import DataError, OutputError
from .executors import living_jobs
from .job import Job
from .signals import die_with

OWN = ".larf"  # marks a run directory, and holds what only runs need
_JOBS = "slurm.json"
_held: set[Path] = set()


def _after_fork() -> None:
    """What is forked during a run (datatrove's managers) ends with it; left to itself it would outlive a killed one."""
    if _held:
        _held.clear()
        die_with(os.getppid())


os.register_at_fork(after_in_child=_after_fork)


@contextlib.contextmanager
def held(home: Path) -> Iterator[None]:
    """The run directory for one run alone; the lock goes with the process, however it ends.

    Raises:
        OutputError: another run has it, or it is something else, or cannot be written.
    """
    own = home / OWN
    if home in _held:  # to the lock, all of a process is one
        raise OutputError(f"another run is at work in {home} (in this process): let it end, or choose another output")
    try:
        if home.exists() and not own.is_dir() and (not home.is_dir() or any(home.iterdir())):
            raise OutputError(f"{home} exists and is no run directory; choose another output or remove it")
        own.mkdir(parents=True, exist_ok=True)
        lock = (own / "lock").open("a+")
    except OSError as error:
        raise OutputError(f"{home} cannot be written: {error.strerror or error}") from error
    with lock:
        try:
            # Not flock: what datatrove forks would hold that too, and some of it outlives a driver that was killed.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise OutputError(
                f"another run is at work in {home} ({lock.read().strip() or 'process unknown'}): let it end, or choose "
                "another output"
            ) from None
        if alive := living_jobs(submitted_jobs(home)):
            raise OutputError(
                f"jobs of an earlier run into {home} are queued or running: {', '.join(alive)}; let them end, or "
                "scancel them"
            )
        with contextlib.suppress(OSError):  # on a full disk nobody learns who it is; what it writes next says so
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        _held.add(home)
        try:
            yield
        finally:
            _held.remove(home)


def remember_jobs(home: Path, jobs: list[str]) -> None:
    (home / OWN / _JOBS).write_text(json.dumps(jobs))


def submitted_jobs(home: Path) -> list[str]:
    try:
        return list(json.loads((home / OWN / _JOBS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


@contextlib.contextmanager
def starting(home: Path, job: Job) -> Iterator[None]:
    """A clean place for this run: what a killed one has left half-done goes."""
    try:
        shutil.rmtree(job.work, ignore_errors=True)
        for scratch in Path(job.scored).glob(".*.parquet.*"):
            scratch.unlink(missing_ok=True)
        for directory in (job.work, job.scored, job.logs):
            Path(directory).mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OutputError(f"{home} cannot be written: {error.strerror or error}") from error


def finished(job: Job) -> Summary | None:
    """The result of an earlier run of the same recipe on the same rows, if it lies there."""
    home = Path(job.home)
    try:
        summary = Summary.from_json((home / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, DataError):
        return None
    whole = all((home / outcome).is_dir() for outcome in OUTCOMES)
    same = summary.run is not None and summary.run.digest == job.run.digest
    return summary if whole and same else None


def put_in_place(home: Path, work: Path) -> None:
    """Move finished results to their names. Killed half-way, it goes on where it was when it is called again.

    The summary goes first and comes last: while it is there, what lies beside it is whole and belongs to it.
    """
    if not (work / SUMMARY).is_file():
        shutil.rmtree(work, ignore_errors=True)  # half of a result, or what the last one has replaced
        return
    try:
        (home / SUMMARY).unlink(missing_ok=True)
        for name in (*OUTCOMES, RECIPE):
            if not (work / name).exists():
                continue  # it was moved before
            if (home / name).exists():
                (work / "old").mkdir(exist_ok=True)
                shutil.rmtree(work / "old" / name, ignore_errors=True)
                (home / name).replace(work / "old" / name)
            (work / name).replace(home / name)
        (work / SUMMARY).replace(home / SUMMARY)
    except OSError as error:
        raise OutputError(f"{home} cannot be written: {error.strerror or error}") from error
    shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def placed(path: Path) -> Iterator[Path]:
    """A directory that appears under its name when all of it is written; one that is there already stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        if not path.exists():
            made.rename(path)
