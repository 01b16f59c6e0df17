"""Code run in a fork of this process: what it changes ends with it, and what takes seconds to import is there."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable


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
