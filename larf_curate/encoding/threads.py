"""Work in threads, with its results in order: batches side by side on a CPU, and what comes next prepared meanwhile."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    function: Callable[[Item], Result], items: Sequence[Item], *, in_threads: bool
) -> Generator[tuple[Item, Result]]:
    """Every item with what the function makes of it, in order.

    With `in_threads`, as many run at once as torch has threads, each of them on one; where there are too few items for
    that, torch's threads share the work of one. Close it if it is not read to its end.
    """
    import torch

    threads = torch.get_num_threads()
    if not in_threads or threads < 2 or len(items) < 2 * threads:
        for item in items:
            yield item, function(item)
        return
    with _pool(threads) as pool:
        yield from _in_order(pool, function, items, 2 * threads)


def ahead(function: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result]:
    """What the function makes of each item, the next one always in a thread beside whoever uses the last.

    Close it if it is not read to its end.
    """
    if len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(1, "larf-render") as pool:
        for _, result in _in_order(pool, function, items, 1):
            yield result


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], beyond: int
) -> Iterator[tuple[Item, Result]]:
    """Items and results, with so many items at most begun `beyond` the one that is waited for."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > beyond:
            first, result = waiting.popleft()
            yield first, result.result()
    for item, result in waiting:
        yield item, result.result()


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, in which torch computes on one each; work that has not begun is dropped when it is left."""
    import torch

    pool = ThreadPoolExecutor(threads, "larf-forward", initializer=lambda: torch.set_num_threads(1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
