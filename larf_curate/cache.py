"""Where larf-curate keeps files between runs, and what it keeps in the memory of a process."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from .errors import OutputError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

registered: list[Callable[[], object]] = []
"""What empties each cache of this process, in the order in which their modules were imported."""


def register(clear: Callable[[], object]) -> None:
    """Let `clear_caches` empty a cache. Every module that keeps something for the whole process calls this once.

    Args:
        clear: empties the cache; called with nothing in it too.
    """
    registered.append(clear)


def clear_caches() -> None:
    """Forget everything that this process keeps to save time: loaded models above all, and give their memory back.

    Scorers go on working: the next use loads the model again. Files on disk (the demo model, compiled kernels, measured
    batch sizes, finished layer searches) stay; they lie in `cache_directory()`.

    Example:
        A notebook that needs the GPU for something else:

        >>> from larf_curate import clear_caches
        >>> clear_caches()
    """
    for clear in registered:
        clear()


def cache_directory() -> Path:
    """`$LARF_CURATE_CACHE`, else `larf_curate` in `$HF_HOME`, else in the user's cache directory.

    Models and measurements are read from it, so it has to be the user's own: a directory that another user has made in
    a shared `$HF_HOME` is not used. The default directory is made unwritable for others; one that the user names keeps
    its permissions.

    Raises:
        OutputError: the one that `$LARF_CURATE_CACHE` names belongs to another user.
    """
    if own := os.environ.get("LARF_CURATE_CACHE"):
        named = Path(own).expanduser()
        if _belongs_to_another(named):
            raise OutputError(f"the cache {named} belongs to another user: set LARF_CURATE_CACHE to one of your own")
        return named
    hub, base = os.environ.get("HF_HOME"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = Path(hub or base).expanduser() / "larf_curate"
    if hub and _belongs_to_another(home):
        home = Path(base).expanduser() / "larf_curate"
    _keep_private(home)
    return home


def read_cached(path: Path, max_bytes: int = 1 << 30) -> bytes | None:
    """The content of a file of the cache, if nobody but this user (or root) can have written it.

    A file of another user, a file that others may write to, a link, or a file of more than `max_bytes` bytes counts as
    missing. The caller checks what the file holds. Files of the cache are written by `atomic.write_private`.

    Args:
        path: the path of the file.
        max_bytes: the most bytes that the file may have.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        return None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or not only_ours(status) or status.st_size > max_bytes:
        os.close(handle)
        return None
    with os.fdopen(handle, "rb") as file:
        return file.read(max_bytes)


def only_ours(status: os.stat_result) -> bool:
    """Whether nobody but this user and root can change a file or directory; always so on systems without such modes."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & _WRITABLE_BY_OTHERS


def _belongs_to_another(home: Path) -> bool:
    """Whether a directory is there and another user's; root may run where everything belongs to somebody."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0
    try:
        return user != 0 and home.stat().st_uid not in (0, user)
    except OSError:  # it is not there yet
        return False


def _keep_private(home: Path) -> None:
    """Take away the right of others to write to a directory of this user."""
    with contextlib.suppress(OSError):  # it is not there yet
        status = home.stat()
        if hasattr(os, "geteuid") and status.st_uid == os.geteuid() and status.st_mode & _WRITABLE_BY_OTHERS:
            home.chmod(stat.S_IMODE(status.st_mode) & ~_WRITABLE_BY_OTHERS)
