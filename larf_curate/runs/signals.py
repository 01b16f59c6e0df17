"""What the driver of a run learns of its workers, and a worker of its driver, whatever the executor passes on.

Each task of a run leaves files in the directory `tasks` of the run's logs: `NAME.alive` holds the process and machine
that are at work on it, and goes when the task ends; `NAME.failed` holds what went wrong.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import errors
from ..errors import LarfError, OutputError, one_line
from .job import Driver, Job

_LOGS_VARIABLE = "LARF_CURATE_LOGS"  # in the environment of a run's workers: the directory of the run's logs
_RECORDS = "tasks"
_watched_processes: set[int] = set()


@contextmanager
def task_records(job: Job, task: str) -> Iterator[None]:
    """Record that the task is at work, and why it failed if it does, in files: executors differ in what they pass on.

    Raises:
        LarfError: for whatever was raised; one that any process can unpickle.
    """
    records = Path(job.logs) / _RECORDS
    try:
        os.chdir(job.directory)  # Ray's workers begin elsewhere
        records.mkdir(exist_ok=True)
        (records / f"{task}.failed").unlink(missing_ok=True)
        alive = records / f"{task}.alive"
        alive.write_text(f"{os.getpid()} {socket.gethostname()}")
        driver = job.driver
        if driver is not None and driver.host == socket.gethostname() and driver.process != os.getpid():
            exit_with(driver.process)
        try:
            yield
        finally:
            alive.unlink(missing_ok=True)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a pool whose worker exits waits for it for ever
        if isinstance(error, KeyboardInterrupt):
            if job.driver == Driver(os.getpid(), socket.gethostname()):
                raise  # the run itself is interrupted, not a worker of it
            failure = LarfError("a worker was interrupted; what it had finished is kept: run the recipe again")
        else:
            failure = _as_larf_error(error)
        record_failure(Path(job.logs), task, failure)
        raise failure from error


def record_failure(logs: Path, task: str, error: LarfError) -> None:
    """Leave a record of what went wrong; where that fails too (a full disk), the exception itself has to do."""
    with suppress(OSError):
        (logs / _RECORDS).mkdir(exist_ok=True)
        text = json.dumps({"kind": type(error).__name__, "message": str(error)})
        (logs / _RECORDS / f"{task}.failed").write_text(text)


def _as_larf_error(error: BaseException) -> LarfError:
    if isinstance(error, OSError):
        return OutputError(f"{error.filename or 'a file'}: {error.strerror or error}")
    if isinstance(error, LarfError):
        return error
    return LarfError(f"{type(error).__name__}: {one_line(error)}")


def first_failure(logs: Path, task: str = "*") -> LarfError | None:
    """What the first task to fail has recorded; `task` is a pattern of names."""
    earliest, failure = float("inf"), None
    for path in (logs / _RECORDS).glob(f"{task}.failed"):
        try:
            record, written = json.loads(path.read_text()), path.stat().st_mtime_ns
            kind: type[LarfError] = getattr(errors, record["kind"], LarfError)
            if written < earliest:
                earliest, failure = written, LarfError.__new__(kind, record["message"])
        except (OSError, ValueError, KeyError):  # half written, or begun anew
            continue
    return failure


def killed_task(logs: Path) -> str | None:
    """The name of a task whose process on this machine is gone, without having recorded a failure."""
    for path in (logs / _RECORDS).glob("*.alive"):
        try:
            process, host = path.read_text().split()
        except (OSError, ValueError):
            continue
        if host == socket.gethostname() and _is_gone(int(process)) and path.exists():  # it may have ended well since
            return path.stem
    return None


def while_interrupted(error: BaseException | None) -> bool:
    """Whether an error came up while Ctrl-C or SIGTERM was handled: what was ended too is missed in the clean-up."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _is_gone(process: int) -> bool:
    """Whether a process has ended, even if its parent has not collected its exit status yet and it keeps its number."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:  # another user's, or no Linux
        return False
    return state == "Z"


def exit_with(process: int) -> None:
    """End this process soon after another one: a worker whose driver was killed would go on beside the next run."""
    if process in _watched_processes:
        return
    _watched_processes.add(process)

    def watch() -> None:
        while not _is_gone(process):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def logs_in_environment(logs: Path) -> Iterator[None]:
    """Workers that are started meanwhile know where the run's logs are, before they have read anything."""
    before = os.environ.get(_LOGS_VARIABLE)
    os.environ[_LOGS_VARIABLE] = str(logs)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_LOGS_VARIABLE]
        else:
            os.environ[_LOGS_VARIABLE] = before


def refuse_nested_run() -> None:
    """Stop a worker that is about to start a run of its own.

    A script without `if __name__ == "__main__"` is run again by every worker that starts, which would start workers.
    """
    from multiprocess.process import current_process

    if _LOGS_VARIABLE in os.environ and getattr(current_process(), "_inheriting", False):
        message = 'put what your script does under `if __name__ == "__main__":`, or its workers run it again'
        record_failure(Path(os.environ[_LOGS_VARIABLE]), "main", LarfError(message))
        os._exit(1)
