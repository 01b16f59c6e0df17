"""Where larf-curate keeps files between runs, and what it keeps in the memory of a process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

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
    """`$LARF_CURATE_CACHE`, else `larf_curate` in `$HF_HOME`, else in the user's cache directory."""
    if own := os.environ.get("LARF_CURATE_CACHE"):
        return Path(own).expanduser()
    if hub := os.environ.get("HF_HOME"):
        return Path(hub).expanduser() / "larf_curate"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "larf_curate"
