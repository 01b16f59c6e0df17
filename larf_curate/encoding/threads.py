"""Functions mapped over items in threads, with results in order: batches side by side, and the next part prepared."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    threaded: bool,
    leaving: Callable[[], object] = lambda: None,
) -> Generator[tuple[Item, Result]]:
    """Every item with what the function returns for it, in order.

    Close the generator if it is not read to its end.

    Args:
        function: computes with torch.
        items: its arguments.
        threaded: run as many at once as torch has threads, each of them on one. Where there are too few items for that,
            they run one after another, and torch's threads share the work of each.
        leaving: called before work that has begun is waited for, whose results nobody reads: it may tell it to end.
    """
    import torch

    threads = torch.get_num_threads()
    if not threaded or threads < 2 or len(items) < 2 * threads:
        for item in items:
            yield item, function(item)
        return
    with _torch_threads(threads) as pool:
        try:
            yield from _in_order(pool, function, items, ahead=2 * threads)
        finally:
            leaving()


def prefetched(function: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result]:
    """What the function returns for each item; the next one is computed in a thread while the caller uses the last.

    Close the generator if it is not read to its end.
    """
    if len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1, "larf-render") as pool:
        for _, result in _in_order(pool, function, items, ahead=1):
            yield result


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], *, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Items and results in order, with at most `ahead` items begun beyond the one that is waited for."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            first, result = waiting.popleft()
            yield first, result.result()
    for item, result in waiting:
        yield item, result.result()


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let torch compute on so many threads while the context lasts, and on as many as before afterwards.

    Args:
        threads: 0 changes nothing.
    """
    import torch

    if not threads:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool in which torch computes on one thread each. On leaving it, work that has not begun is dropped."""
    import torch

    thread_ids: list[int] = []

    def begin() -> None:
        torch.set_num_threads(1)
        thread_ids.append(threading.get_native_id())

    pool = ThreadPoolExecutor(threads, "larf-forward", initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        _wait_until_gone(thread_ids)
        torch.set_num_threads(threads)


def _wait_until_gone(thread_ids: Sequence[int], seconds: float = 5.0) -> None:
    """Wait until the system has ended these threads of this process, on Linux.

    Python calls a thread finished before the system has ended it, and as it ends, MKL frees the thread's buffers under
    a lock. A fork in that moment would copy the lock as held, and the child's first matrix product would wait for ever.
    """
    deadline = time.monotonic() + seconds
    tasks = [Path(f"/proc/self/task/{thread}") for thread in thread_ids]
    while any(task.exists() for task in tasks) and time.monotonic() < deadline:
        time.sleep(0.0002)
