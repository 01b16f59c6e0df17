"""The command line, called in this process, in a fork of it, or in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

TIMEOUT = 300
"""Seconds that a command may take in a process of its own."""


_parser_of = functools.cache(get_command)
"""Typer makes the parser of the command line anew at every call, which takes longer than many tests."""


@dataclass(frozen=True)
class Finished:
    """What a command left: its exit status and all that it printed."""

    returncode: int
    stdout: str
    stderr: str


def larf(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """Run `larf-curate` with these arguments in this process.

    This takes milliseconds where a process of its own takes seconds to import torch, and tests the same code from the
    parsing of the arguments to the exit status. Only what needs a process is left out: the messages that libraries
    print while they are imported, signals, and settings that libraries read once. See `larf_process`.

    Args:
        arguments: as on the command line; made strings.
        cwd: the working directory meanwhile.
        env: environment variables to set meanwhile, beside those that there are.
    """
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        patch.setattr("typer.main.get_command", _parser_of)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        status = _exit_status(*arguments)
    printed = (stream.buffer.getvalue().decode("utf-8") for stream in (out, errors))
    return Finished(status, *printed)


def _exit_status(*arguments: object) -> int:
    from larf_curate.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["larf-curate", *map(str, arguments)])
        try:
            main()
            status: object = 0
        except SystemExit as ended:
            status = ended.code or 0
    assert isinstance(status, int), f"sys.exit({status!r}) would print that, and exit with 1"
    return status


def start_larf(
    *arguments: object, out: Path, errors: Path | None = None, first: Callable[[], object] | None = None
) -> int:
    """Start `larf-curate` in a process forked from this one, and return the number of that process.

    It has signals, limits and workers of its own, and a group of its own as a shell would give it; Ctrl-C is not
    ignored there. A fork has imported already what takes a new process seconds. See `wait_for_exit`.

    Args:
        arguments: as on the command line; made strings.
        out: the file to which it appends what it prints.
        errors: the same for standard error; None for the same file.
        first: called in the process before the command.
    """
    process = os.fork()
    if process:
        with contextlib.suppress(OSError):  # it has done so itself
            os.setpgid(process, process)
        return process
    code = 70
    try:
        import torch

        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in ((1, out), (2, errors or out)):
            with path.open("ab", buffering=0) as file:
                os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
        torch.set_num_threads(1)  # OpenMP waits for ever for threads that stayed in the process that was forked
        if first is not None:
            first()
        code = _exit_status(*arguments)
    except KeyboardInterrupt:  # before the command has begun
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait_for_exit(process: int, seconds: float = 60) -> int:
    """The exit status of a process that `start_larf` has started: -9 where SIGKILL has ended it."""
    end = time.monotonic() + seconds
    while not (ended := os.waitpid(process, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise AssertionError(f"it did not end within {seconds:g} s")
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def larf_process(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> Finished:
    """The same by the installed script, in a process of its own; `env` is its whole environment where given."""
    script = shutil.which("larf-curate", path=Path(sys.executable).parent)
    assert script is not None, "larf-curate is not installed beside this Python"
    done = subprocess.run(
        [script, *map(str, arguments)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        cwd=cwd,
        env=None if env is None else dict(env),
        timeout=TIMEOUT,
    )
    return Finished(done.returncode, done.stdout, done.stderr)
