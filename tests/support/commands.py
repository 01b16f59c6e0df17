"""The command line, called in this process or in one of its own."""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
import subprocess
import sys
from collections.abc import Mapping
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
    from larf_curate.cli import main

    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        patch.setattr(sys, "argv", ["larf-curate", *map(str, arguments)])
        patch.setattr("typer.main.get_command", _parser_of)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
            status: object = 0
        except SystemExit as ended:
            status = ended.code or 0
    assert isinstance(status, int), f"sys.exit({status!r}) would print that, and exit with 1"
    printed = (stream.buffer.getvalue().decode("utf-8") for stream in (out, errors))
    return Finished(status, *printed)


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
