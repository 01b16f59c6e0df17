"""The driver while workers are at work: their output goes to a file, and a killed worker ends the wait."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import LarfError
from ..progress import Update, progress, shown_on
from .job import Job
from .rundir import counted_rows
from .scored_shards import missing
from .shards import Plan
from .signals import first_failure, killed_task, while_interrupted

_SECONDS = 0.5  # between two looks


@contextlib.contextmanager
def stderr_to(path: Path) -> Iterator[None]:
    """Append to a file what datatrove, its workers and native code write to standard error; progress still shows."""
    sys.stderr.flush()
    terminal_descriptor = os.dup(2)
    with path.open("ab") as file, os.fdopen(terminal_descriptor, "w", buffering=1) as terminal:
        os.dup2(file.fileno(), 2)
        # A notebook's or a test's own stream is not file descriptor 2: progress goes on there.
        stream = terminal if sys.stderr is sys.__stderr__ else sys.stderr
        try:
            with shown_on(stream), contextlib.redirect_stderr(sys.__stderr__):
                yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal_descriptor, 2)


class _WorkerKilled(BaseException):
    """Raised in the main thread out of a pool that waits; no handler of its own may take it for a failed task."""


@dataclass(frozen=True)
class Work:
    """What a stage does that takes long.

    Attributes:
        name: its name for the progress bar.
        total: how many there are.
        done: tells how many of them are done by now.
    """

    name: str
    total: int
    done: Callable[[], int]


@contextlib.contextmanager
def watched_stage(work: Work | None, logs: Path, lost_workers: Sequence[int] = ()) -> Iterator[None]:
    """Show how far a stage is, and end it when one of its workers is lost: pools wait for the dead for ever.

    A signal is what gets the main thread out of a wait. Not Ctrl-C's: whatever runs in the background ignores that.

    Args:
        work: the work whose progress is shown; None shows no progress.
        logs: the directory of the run's logs.
        lost_workers: exit statuses of those that ended before their pool, as it finds them; see `pools_that_end`.

    Raises:
        LarfError: a worker was killed, or a script was run again by the workers that it started.
    """
    stage_over = threading.Event()
    reasons: list[LarfError] = []
    in_main_thread = threading.current_thread() is threading.main_thread()

    def leave_the_wait(*_: object) -> None:
        # Ctrl-C ends the workers too. The pool is being ended then, which is not to be left half done.
        if not stage_over.is_set() and not while_interrupted(sys.exc_info()[1]):
            raise _WorkerKilled

    def watch(update: Update) -> None:
        shown = 0
        over = False
        while not over:
            over = stage_over.wait(_SECONDS)  # when it is over, the bar still has to reach its end
            if work is not None:
                now = max(shown, work.done())
                update(now - shown)
                shown = now
            if not over and in_main_thread and not reasons and (reason := _reason_to_stop(logs, lost_workers)):
                reasons.append(reason)
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    handler = signal.signal(signal.SIGUSR1, leave_the_wait) if in_main_thread else None
    name, total = ("", 0) if work is None else (work.name, work.total)
    with progress(total, name, show=bool(total)) as update:
        watcher = threading.Thread(target=watch, args=(update,), daemon=True)
        watcher.start()
        try:
            yield
        except _WorkerKilled:
            raise reasons[0] from None
        finally:
            stage_over.set()
            watcher.join()
            if in_main_thread:
                signal.signal(signal.SIGUSR1, handler)


def _reason_to_stop(logs: Path, lost_workers: Sequence[int]) -> LarfError | None:
    """Why the pool would wait for ever: a worker is lost. After a failed task the pool ends by itself."""
    failure, task = first_failure(logs), killed_task(logs)
    if failure and not lost_workers:
        return first_failure(logs, "main")
    if failure:  # the worker was lost before it could pass it on
        return failure
    if task or any(status < 0 for status in lost_workers):
        return LarfError(
            f"{f'the worker of task {task}' if task else 'a worker'} was killed, perhaps for lack of memory; what it "
            "had finished is kept: run the recipe again, with fewer workers or smaller batch_tokens"
        )
    if lost_workers:
        return LarfError(f"a worker ended with status {lost_workers[0]}; {logs / 'console.log'} may say why")
    return None


def rows_scored(rows: int, plan: Plan, job: Job) -> int:
    """How many of the `rows` to score are done: in shards that are whole, or counted by the workers."""
    left = plan.rows_in(set(missing(plan, Path(job.scored))) & set(job.pending))
    # A task that was requeued counts some rows twice; the last ones are done when they are written.
    return max(rows - left, min(counted_rows(Path(job.logs)), rows - min(left, 1)))
