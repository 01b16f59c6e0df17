"""What is written appears under its name when all of it is there, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import OutputError


def write_text(path: Path, text: str) -> None:
    """A text file that appears under its name when all of it is written, or not at all.

    Raises:
        OutputError: it cannot be written there.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The same with bytes."""
    with scratch_path(path, directory=False) as scratch:
        scratch.write_bytes(content)
        scratch.replace(path)


def write_private(path: Path, content: bytes) -> None:
    """The same for a file of the cache, which nobody else can read or write, whatever the umask (`cache.read_cached`).

    Raises:
        OutputError: it cannot be written there.
    """
    with scratch_path(path, directory=False) as scratch:
        scratch.chmod(0o600)
        scratch.write_bytes(content)
        scratch.replace(path)


@contextlib.contextmanager
def scratch_path(path: Path, *, directory: bool) -> Iterator[Path]:
    """A hidden name beside `path`, on the same file system; what lies there is deleted when the context ends.

    Raises:
        OutputError: nothing can be written there.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        # Not by `tempfile`, whose modes are its own: what is made here gets those that the user's umask leaves.
        if directory:
            hidden.mkdir()
        else:
            hidden.touch(exist_ok=False)
        scratch = hidden
        yield scratch
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            if directory:
                shutil.rmtree(scratch, ignore_errors=True)
            else:
                scratch.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Find out before long work, not after it, that a file cannot be written there. Nothing is left there.

    Raises:
        OutputError: it cannot be.
    """
    with scratch_path(path, directory=False):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory that appears under its name when all of it is written; one that is there already stays.

    Raises:
        OutputError: it cannot be written there.
    """
    with scratch_path(path, directory=True) as scratch:
        yield scratch
        if not path.exists():
            scratch.rename(path)
