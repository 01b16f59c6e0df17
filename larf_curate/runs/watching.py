"""The driver while others work: what they write stays off the terminal, and a killed worker ends the wait."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import LarfError
from ..progress import progress, shown_on
from .job import Job
from .shards import Plan, missing
from .signals import failure, killed


@contextlib.contextmanager
def console_to(path: Path) -> Iterator[None]:
    """Send to a file what datatrove, its workers and native code write to standard error; progress still shows."""
    sys.stderr.flush()
    shown = os.dup(2)
    with path.open("ab") as file, os.fdopen(shown, "w", buffering=1) as terminal:
        os.dup2(file.fileno(), 2)
        # A notebook's or a test's own stream is not file descriptor 2: progress goes on there.
        watched = terminal if sys.stderr is sys.__stderr__ else sys.stderr
        try:
            with shown_on(watched), contextlib.redirect_stderr(sys.__stderr__):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)


class _WorkerGone(BaseException):
    """Raised in the main thread out of a pool that waits; no handler of its own may take it for a failed task."""


@contextlib.contextmanager
def watched(rows: int, plan: Plan, job: Job) -> Iterator[None]:
    """Show how far a stage is, and end it when one of its workers was killed: pools wait for the dead for ever.

    A signal is what gets the main thread out of a wait. Not Ctrl-C's: whatever runs in the background ignores that.
    """
    over = threading.Event()
    dead: list[LarfError] = []
    main = threading.current_thread() is threading.main_thread()

    def leave(*_: object) -> None:
        if not over.is_set():
            raise _WorkerGone

    def watch(update: Any) -> None:
        seen = 0
        while True:
            ended = over.wait(0.5)
            if rows:
                done = rows - rows_left(plan, job)
                update(done - seen)
                seen = done
            if ended:
                return
            wrong = _wrong(Path(job.logs))
            if wrong and main and not dead:
                dead.append(wrong)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, leave) if main else None
    with progress(rows, "scoring", show=bool(rows)) as update:
        watcher = threading.Thread(target=watch, args=(update,), daemon=True)
        watcher.start()
        try:
            yield
        except _WorkerGone:
            raise dead[0] from None
        finally:
            over.set()
            watcher.join()
            if main:
                signal.signal(signal.SIGUSR1, before)


def _wrong(logs: Path) -> LarfError | None:
    """What a pool would wait for, for ever; not a task that failed: its pool ends by itself, and its workers too."""
    if failure(logs):
        return failure(logs, "main")
    if task := killed(logs):
        return LarfError(
            f"the worker of task {task} was killed, perhaps for lack of memory; what it had finished is kept: run the "
            "recipe again, with fewer workers or smaller batch_tokens"
        )
    return None


def rows_left(plan: Plan, job: Job) -> int:
    """How many of those to score are not yet in a shard that is whole."""
    return plan.rows_in(set(missing(plan, Path(job.scored))) & set(job.pending))
