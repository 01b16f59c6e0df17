"""Tests of runs/pools and of what forked workers do at SIGTERM: pools end, whatever has happened to their workers."""

from __future__ import annotations

import os
import signal
import threading
import time

import multiprocess
import pytest

from larf_curate.cli import _ended_like_ctrl_c
from larf_curate.runs.pools import pools_that_end

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def test_a_pool_ends_whose_idle_worker_was_killed() -> None:
    with pools_that_end(seconds=0.2):
        pool = multiprocess.get_context("fork").Pool(1)
        [worker] = pool._pool
        assert pool.map(abs, [-1, 2]) == [1, 2]
        deadline = time.monotonic() + 30
        while pool._inqueue._rlock.acquire(timeout=0):  # until the worker waits for its next task
            pool._inqueue._rlock.release()
            assert time.monotonic() < deadline
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        ending = threading.Thread(target=pool.terminate, daemon=True)
        ending.start()
        ending.join(30)
    assert not ending.is_alive()
    assert all(not process.is_alive() for process in pool._pool)


def test_others_pools_are_left_as_they_are() -> None:
    from multiprocess.pool import Pool

    before = Pool._help_stuff_finish
    with pools_that_end(), multiprocess.get_context("fork").Pool(2) as pool:
        assert sorted(pool.imap_unordered(abs, range(-3, 0))) == [1, 2, 3]
    assert Pool._help_stuff_finish is before


def test_a_forked_worker_does_not_handle_sigterm_in_python_but_ends() -> None:
    """A handler in Python would wait for a main thread that waits for a lock."""
    with _ended_like_ctrl_c():
        assert callable(signal.getsignal(signal.SIGTERM))
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
    assert os.waitpid(child, 0)[1] == 0
