"""Pools of worker processes that can be ended, whatever has happened to their workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SECONDS = 5.0
"""How long a worker's lock is waited for: one that lives gives it back within milliseconds."""


@contextmanager
def pools_that_end(seconds: float = _SECONDS) -> Iterator[None]:
    """Pools that are ended meanwhile do not wait for a lock that nobody can give back.

    A worker holds a lock while it waits for its next task. If it dies then, as when SIGTERM ends a whole group of
    processes, the lock stays taken, and `multiprocess` waits for it for ever: a run that is to end would not. The pool
    wants it to empty the queue of tasks, so that what still writes into that queue can go on. The tasks of a run are a
    few numbers, which fit in it: where the lock does not come, the queue may stay as it is.
    """
    from multiprocess.pool import Pool

    empty_the_queue = Pool._help_stuff_finish

    def empty_it_if_possible(inqueue: Any, task_handler: Any, size: int) -> None:
        if inqueue._rlock.acquire(timeout=seconds):
            inqueue._rlock.release()
            empty_the_queue(inqueue, task_handler, size)

    Pool._help_stuff_finish = staticmethod(empty_it_if_possible)
    try:
        yield
    finally:
        Pool._help_stuff_finish = staticmethod(empty_the_queue)
