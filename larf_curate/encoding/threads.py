"""Batches side by side on a CPU: a core for each, instead of all cores for every small step of one."""

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
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > 2 * threads:
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
