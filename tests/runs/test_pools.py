"""Tests of runs/pools and of what forked workers do at SIGTERM: pools end, whatever has happened to their workers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import multiprocess
import pytest

from larf_curate.cli import _ended_like_ctrl_c
from larf_curate.errors import DataError, LarfError
from larf_curate.runs import watching
from larf_curate.runs.pools import FORK_SERVER_IMPORTS, pools_that_end
from larf_curate.runs.signals import record_failure
from larf_curate.runs.watching import watched_stage

pytestmark = [
    pytest.mark.process,
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

    before = Pool._help_stuff_finish, Pool._join_exited_workers
    with pools_that_end() as lost_workers, multiprocess.get_context("fork").Pool(2) as pool:
        assert sorted(pool.imap_unordered(abs, range(-3, 0))) == [1, 2, 3]
    assert not lost_workers, "a pool ends its own workers"
    assert (Pool._help_stuff_finish, Pool._join_exited_workers) == before


def test_a_forked_worker_does_not_handle_sigterm_in_python_but_ends() -> None:
    """A handler in Python would wait for a main thread that waits for a lock."""
    with _ended_like_ctrl_c():
        assert callable(signal.getsignal(signal.SIGTERM))
        child = os.fork()
        if not child:
            os._exit(0 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_process_that_is_ended_as_it_is_forked_ends() -> None:
    """A pool replaces a worker that has ended; one that is ended just then waited for its newest worker for ever."""
    with _ended_like_ctrl_c():
        for _ in range(20):
            child = os.fork()
            if not child:
                time.sleep(5)
                os._exit(0)
            os.kill(child, signal.SIGTERM)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_an_interrupt_ends_a_forked_worker_without_a_task_and_without_a_traceback(
    dropped: list[object], capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C reaches all workers of a run, also those that have just been started or wait for the last of them."""
    with _ended_like_ctrl_c(), multiprocess.get_context("fork").Pool(1) as pool:
        [worker] = pool._pool
        assert pool.map(abs, [-1]) == [1]
        os.kill(worker.pid, signal.SIGINT)
        worker.join(30)
        assert worker.exitcode == 1
    assert "Traceback" not in capfd.readouterr().err


def test_what_a_killed_run_leaves_at_work_ends(tmp_path: Path) -> None:
    """The process that holds what its workers share waited for ever, with a copy of all that the run had loaded."""
    killed = os.fork()
    if not killed:
        with pools_that_end():
            manager = multiprocess.Manager()
            (tmp_path / "manager").write_text(str(manager._process.pid))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    state = Path("/proc", (tmp_path / "manager").read_text(), "stat")
    if not state.parent.parent.is_dir():
        pytest.skip("asks /proc")
    deadline = time.monotonic() + 30
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def fork_and_wait() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # not in one sleep: the signal may reach another thread, which ends no wait here
        time.sleep(0.01)


AT_FORK: dict[str, Callable[[], object]] = {}
"""What the functions below do. They stay registered as long as this process lives, and do nothing between tests."""


def _at_fork(when: str) -> None:
    if when in AT_FORK:
        AT_FORK[when]()


if hasattr(os, "register_at_fork"):
    # After those of the package and of loguru, as a library that is imported late does it.
    os.register_at_fork(before=lambda: _at_fork("before"), after_in_parent=lambda: _at_fork("after"))


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What Python has dropped meanwhile; Ctrl-C is handled as on a terminal, since tests may run in the background."""
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield seen
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=str)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_in_what_others_do_at_a_fork_is_not_lost(
    when: str, sent: int, dropped: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """loguru holds its locks meanwhile: with the interrupt it lost the call that gives them back."""
    fork = os.fork
    with _ended_like_ctrl_c():
        monkeypatch.setitem(AT_FORK, when, lambda: os.kill(os.getpid(), sent))
        with pytest.raises(KeyboardInterrupt):
            fork_and_wait()
    assert not dropped
    assert os.fork is fork


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT], ids=str)
def test_an_interrupt_in_the_middle_of_a_fork_is_not_lost(sent: int, dropped: list[object]) -> None:
    """It comes while the process is copied, which takes milliseconds; Python handles it in what it calls after that."""
    began = time.monotonic()
    os.waitpid(os.fork() or os._exit(0), 0)
    took = time.monotonic() - began
    with _ended_like_ctrl_c():
        for part in range(1, 20):
            timer = threading.Timer(took * part / 20, os.kill, (os.getpid(), sent))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                fork_and_wait()
    assert not dropped


def end_by(sent: int) -> None:
    """What may happen to a worker between two tasks, where it has no record of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), sent)
    time.sleep(60)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (signal.SIGKILL, "a worker was killed, perhaps for lack of memory"),
        (signal.SIGTERM, "a worker was killed"),
        (signal.SIGINT, r"a worker ended with status 1; .*console\.log may say why"),
    ],
    ids=str,
)
def test_a_stage_that_loses_a_worker_ends(sent: int, words: str, tmp_path: Path) -> None:
    with (
        pools_that_end(seconds=0.2) as lost_workers,
        pytest.raises(LarfError, match=words),
        watched_stage(None, tmp_path, lost_workers),
        multiprocess.get_context("fork").Pool(2) as pool,
    ):
        pool.imap_unordered(end_by, [sent]).next(timeout=30)


def test_a_failure_that_a_lost_worker_could_not_pass_on_is_told(tmp_path: Path) -> None:
    record_failure(tmp_path, "score", DataError("row 3 is wrong"))
    with pytest.raises(DataError, match="row 3"), watched_stage(None, tmp_path, [-signal.SIGKILL]):
        time.sleep(30)


@pytest.mark.parametrize("lost_workers", [[], [-signal.SIGTERM]], ids=["recorded", "seen by the pool"])
def test_workers_that_end_at_ctrl_c_are_not_the_reason(
    lost_workers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool takes a while to end: nothing may get it out of that, and the run says that it was interrupted."""
    monkeypatch.setattr(watching, "_SECONDS", 0.05)
    dead = os.fork()
    if not dead:
        os._exit(0)
    os.waitpid(dead, 0)
    (tmp_path / "tasks").mkdir()
    ended = []

    def be_interrupted() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            (tmp_path / "tasks" / "score.alive").write_text(f"{dead} {socket.gethostname()}")
            time.sleep(0.2)  # four looks
            ended.append("the pool")

    with pytest.raises(KeyboardInterrupt), watched_stage(None, tmp_path, lost_workers):
        be_interrupted()
    assert ended


def test_workers_find_imported_what_is_to_be_imported_once(tmp_path: Path) -> None:
    """By small modules in place of those that take seconds."""
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocess\n"
        "from larf_curate.runs import pools\n"
        "names = pools.FORK_SERVER_IMPORTS = ('wave', 'larf_curate.errors', 'xml.dom')\n"
        "def missing(names):\n"
        "    import sys\n"
        "    return [name for name in names if name not in sys.modules]\n"
        "if __name__ == '__main__':\n"
        "    assert missing(names)\n"
        "    pools.import_once_for_all_workers()\n"
        "    with multiprocess.get_context('forkserver').Pool(1) as pool:\n"
        "        print(pool.apply(missing, [names]))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_what_is_imported_for_all_workers_asks_for_no_gpu() -> None:
    """A GPU driver that has been asked for anything does not work in processes that are forked later."""
    script = (
        "import torch, importlib\n"
        "def refuse(*_, **__): raise AssertionError('a GPU was asked for')\n"
        "for name in ('is_available', 'device_count', 'current_device', 'get_device_capability', '_lazy_init'):\n"
        "    setattr(torch.cuda, name, refuse)\n"
        f"print([importlib.import_module(name).__name__ for name in {FORK_SERVER_IMPORTS}] and 'no GPU')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "no GPU\n", done.stderr
