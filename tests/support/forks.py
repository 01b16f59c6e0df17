"""Code run in a fork of this process: what it changes ends with it, and what takes seconds to import is there."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from multiprocess import popen_fork, popen_spawn_posix
from multiprocess.context import SpawnContext, SpawnProcess, set_spawning_popen
from multiprocess.reduction import ForkingPickler, dump


def said_in_a_fork(act: Callable[[], str]) -> str:
    """What a function returns in a process of its own, which has all that this one has imported.

    Raises:
        AssertionError: with the traceback, if the function raises.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        process = os.fork()
        if not process:
            status = 1
            try:
                file.write(act())
                status = 0
            except BaseException:
                traceback.print_exc(file=file)
            finally:
                file.flush()
                os._exit(status)
        _, status = os.waitpid(process, 0)
        file.seek(0)
        said = file.read()
    assert status == 0, said
    return said


def forget(*packages: str) -> None:
    """Let the next import of any module of these packages run it anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


class _Sent:
    """A process to be, as the bytes in which a spawned one would get it."""

    def __init__(self, process: Any) -> None:
        content = io.BytesIO()
        dump(process, content)
        self.content = content.getvalue()

    def _bootstrap(self, parent_sentinel: int) -> Any:
        forget("larf_curate")
        return ForkingPickler.loads(self.content)._bootstrap(parent_sentinel=parent_sentinel)


class _Popen(popen_fork.Popen):
    method = "spawn"
    DupFd = popen_spawn_posix._DupFd

    def _launch(self, process: Any) -> None:
        set_spawning_popen(self)
        try:
            sent = _Sent(process)
        finally:
            set_spawning_popen(None)
        super()._launch(sent)


class _Process(SpawnProcess):
    _Popen = staticmethod(_Popen)


class AsIfSpawned(SpawnContext):
    """Workers that get nothing of the package but what is pickled for them, and import it anew, like spawned ones.

    They are forks, so that they need not import torch.
    """

    Process = _Process
