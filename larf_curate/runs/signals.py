"""What the driver of a run learns of its workers, and a worker of its driver, whatever the executor passes on."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from .. import errors
from ..cache import register
from ..errors import LarfError, OutputError, one_line
from .job import Job

LOGS = "LARF_CURATE_LOGS"  # in the environment of a run's workers: where its signs are


@contextmanager
def reported(job: Job, task: str) -> Iterator[None]:
    """Say that the task is at work, and why it failed if it does, in files: executors differ in what they tell.

    Raises:
        LarfError: for whatever was raised; one that any process can unpickle.
    """
    signs = Path(job.logs) / "tasks"
    try:
        os.chdir(job.directory)  # Ray's workers begin elsewhere
        signs.mkdir(exist_ok=True)
        (signs / f"{task}.failed").unlink(missing_ok=True)
        alive = signs / f"{task}.alive"
        alive.write_text(f"{os.getpid()} {socket.gethostname()}")
        if job.driver and job.driver[1] == socket.gethostname() and job.driver[0] != os.getpid():
            die_with(job.driver[0])
        try:
            yield
        finally:
            alive.unlink(missing_ok=True)
    except (Exception, SystemExit) as error:  # a pool whose worker exits waits for it for ever
        told = _as_larf_error(error)
        tell(Path(job.logs), task, told)
        raise told from error


def tell(logs: Path, task: str, error: LarfError) -> None:
    """Leave word of what went wrong; where that fails too (a full disk), it is on its way by other roads."""
    with suppress(OSError):
        (logs / "tasks").mkdir(exist_ok=True)
        (logs / "tasks" / f"{task}.failed").write_text(
            json.dumps({"kind": type(error).__name__, "message": str(error)})
        )


def _as_larf_error(error: BaseException) -> LarfError:
    if isinstance(error, OSError):
        return OutputError(f"{error.filename or 'a file'}: {error.strerror or error}")
    if isinstance(error, LarfError):
        return error
    return LarfError(f"{type(error).__name__}: {one_line(error)}")


def failure(logs: Path, task: str = "*") -> LarfError | None:
    """What the first failed task of a run said."""
    first, told = float("inf"), None
    for path in (logs / "tasks").glob(f"{task}.failed"):
        try:
            said, when = json.loads(path.read_text()), path.stat().st_mtime_ns
            kind: type[LarfError] = getattr(errors, said["kind"], LarfError)
            if when < first:
                first, told = when, LarfError.__new__(kind, said["message"])
        except (OSError, ValueError, KeyError):  # half written, or begun anew
            continue
    return told


def killed(logs: Path) -> str | None:
    """A task whose process is gone without a word, on this machine."""
    for path in (logs / "tasks").glob("*.alive"):
        try:
            process, host = path.read_text().split()
        except (OSError, ValueError):
            continue
        if host == socket.gethostname() and _gone(int(process)) and path.exists():  # it may have ended well since
            return path.stem
    return None


def _gone(process: int) -> bool:
    """Also where its parent has not asked yet how it ended: such a process still has its number."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return True
    except OSError:  # another user's, or no Linux
        return False
    return state == "Z"


@cache
def die_with(driver: int) -> None:
    """A worker whose driver was killed would go on, unseen, beside the next run."""

    def watch() -> None:
        while not _gone(driver):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


register(die_with.cache_clear)


def refuse_worker() -> None:
    """Stop a worker that is about to start a run of its own.

    A script without `if __name__ == "__main__"` is run again by every worker that starts, which would start workers.
    """
    from multiprocess.process import current_process

    if LOGS in os.environ and getattr(current_process(), "_inheriting", False):
        message = 'put what your script does under `if __name__ == "__main__":`, or its workers run it again'
        tell(Path(os.environ[LOGS]), "main", LarfError(message))
        os._exit(1)
