"""Pools of worker processes that start quickly, that tell when a worker is lost, and that can be ended then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from .signals import exit_with

_SECONDS = 5.0
"""How long a worker's lock is waited for: one that lives gives it back within milliseconds."""
FORK_SERVER_IMPORTS = (
    "torch",
    "datatrove.executor",
    "larf_curate.runs.stages",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "pyarrow.dataset",
    "pandas",
)
"""What workers of a run import. Importing them starts no thread of torch and asks no GPU driver, so a fork is safe."""


def import_once_for_all_workers() -> None:
    """Let the process that workers are forked from import what they need, before the first of them is started.

    Each stage of a local run starts workers of its own, and `multiprocess` forks them from a server that has imported
    nothing: every worker would import torch and transformers anew, which takes seconds. For a server that runs already
    nothing changes.
    """
    import multiprocess

    multiprocess.set_forkserver_preload(["__main__", *FORK_SERVER_IMPORTS])


@contextmanager
def pools_that_end(seconds: float = _SECONDS) -> Iterator[list[int]]:
    """Pools at work meanwhile tell which workers they lose, and end without a lock that nobody can give back.

    A pool starts another worker for one that has ended, and waits for the result of the lost task for ever. Whoever
    waits for the pool learns of it from the list that is yielded.

    A worker holds a lock while it waits for its next task. If it dies then, as when SIGTERM ends a whole group of
    processes, the lock stays taken, and `multiprocess` waits for it for ever: a run that is to end would not. The pool
    wants it to empty the queue of tasks, so that what still writes into that queue can go on. The tasks of a run are a
    few numbers, which fit in it: where the lock does not come, the queue may stay as it is.

    The process that holds what workers share (`multiprocess.Manager`) ends soon after this one, even if that is killed.

    Args:
        seconds: how long the lock is waited for.

    Yields:
        Exit statuses of workers that ended while their pool was at work, in order: -9 for SIGKILL. One that ends as it
        should, with status 0, is not among them.
    """
    from multiprocess.managers import SyncManager
    from multiprocess.pool import Pool

    start_manager = SyncManager.start
    empty_the_queue, join_exited_workers = Pool._help_stuff_finish, Pool._join_exited_workers
    lost: list[int] = []

    def empty_it_if_possible(inqueue: Any, task_handler: Any, size: int) -> None:
        if inqueue._rlock.acquire(timeout=seconds):
            inqueue._rlock.release()
            empty_the_queue(inqueue, task_handler, size)

    def join_and_tell(workers: list[Any]) -> bool:
        # A pool that is being ended does not come here any more: what it kills itself is not lost. Asked for its status
        # a moment before, a worker that has closed its files may not have ended yet.
        before = list(workers)
        joined = bool(join_exited_workers(workers))
        lost.extend(worker.exitcode for worker in before if worker not in workers and worker.exitcode)
        return joined

    def start_to_end_with_this_process(manager: SyncManager) -> None:
        start_manager(manager, exit_with, (os.getpid(),))

    SyncManager.start = start_to_end_with_this_process
    Pool._help_stuff_finish = staticmethod(empty_it_if_possible)
    Pool._join_exited_workers = staticmethod(join_and_tell)
    try:
        yield lost
    finally:
        SyncManager.start = start_manager
        Pool._help_stuff_finish = staticmethod(empty_the_queue)
        Pool._join_exited_workers = staticmethod(join_exited_workers)


@contextmanager
def nothing_shared() -> Iterator[None]:
    """Local pipelines of one worker, which run in this process, start no other one meanwhile.

    datatrove starts one (`multiprocess.Manager`) for each pipeline, with the numbers of workers that are free. One
    worker has nobody to share them with, and a fork of a process that has loaded a model takes tens of milliseconds.
    """
    from datatrove.executor import local

    multiprocess = local.multiprocess
    manager = SimpleNamespace(Queue=SimpleQueue, shutdown=lambda: None)
    local.multiprocess = SimpleNamespace(Manager=lambda: manager)
    try:
        yield
    finally:
        local.multiprocess = multiprocess
